"""Taxonomies and settings that nobody tries first: each works to the report, or is refused before training starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from naics_pipeline.text_model.embeddings import read_embeddings
from naics_pipeline_tests import runs
from naics_pipeline_tests.conftest import REPOSITORY
from naics_pipeline_tests.taxonomy.workbooks import Source, small_source

pytestmark = pytest.mark.slow

QUICK = {
    "training.epochs_scale": 0.1,
    "training.queries_per_epoch": 32,
    "training.queries_per_batch": 32,
    "graph.steps": 20,
    "graph.left_out_fraction": 0,
    "evaluation.baselines": False,
}


def part(*beginnings: str) -> Source:
    """The codes of the small source that begin so, and all that is said of them."""
    source = small_source()
    source.codes = {code: title for code, title in source.codes.items() if code.startswith(beginnings)}
    source.index = [(code, entry) for code, entry in source.index if code in source.codes]
    source.cross_references = []
    source.descriptions = {code: text for code, text in source.descriptions.items() if code in source.codes}
    return source


def sector() -> Source:
    source = part("11")
    source.descriptions["111120"] = "This industry comprises farms that grow wheat."
    return source


def line() -> Source:
    source = part("11")
    source.codes = {code: title for code, title in source.codes.items() if not code.startswith("11112")}
    source.index = source.index[:1]
    return source


def finished(data: Path) -> bool:
    return (data / "reports" / "index.html").is_file()


@pytest.mark.parametrize(
    ("source", "settings", "refused"),
    [
        (sector, {}, None),
        (line, {}, "one line of descent"),
        (small_source, {"evaluation.cutoffs": [1, 3]}, None),
        (small_source, {"model.adapters.short.blocks": 0}, None),
        (small_source, {"taxonomy.held_out_fraction": 0, "taxonomy.validation_fraction": 0}, None),
    ],
    ids=["one sector", "one line", "other cutoffs", "no adapter in any block", "nothing left out"],
)
def test_it_works_or_is_refused_before_training(source, settings, refused, tmp_path, tiny_base):
    data = tmp_path / "data"
    given = {"source": str(source().write(tmp_path / "workbooks")), "model.base": str(tiny_base)}
    result = runs.materialize("*", data, **given, **QUICK, **settings)
    if refused is None:
        assert result.success, runs.failure(result)
        assert finished(data)
    else:
        assert refused in runs.failure(result)
        assert not (data / "stages").exists()


def test_a_profile_that_changed_is_refused_half_way_and_works_from_the_start(tmp_path, tiny_base):
    """Stages build on one another: one alone cannot have another shape than those before it."""
    data = tmp_path / "data"
    given = {"source": str(small_source().write(tmp_path / "workbooks")), "model.base": str(tiny_base), **QUICK}
    assert runs.materialize("*", data, **given).success
    before = {path: path.read_bytes() for path in data.glob("stages/03_hard/*")}
    changed = given | {"model.embedding_dim": 16, "model.adapters.short.rank": 4, "model.experts": 3}
    half_way = runs.materialize('key:"stage_03_hard"+', data, **changed)
    assert f"{data}/stages/02_medium/best.safetensors: trained with other model settings" in runs.failure(half_way)
    assert {path: path.read_bytes() for path in data.glob("stages/03_hard/*")} == before
    result = runs.materialize("*", data, **changed)
    assert result.success, runs.failure(result)
    assert read_embeddings(data / "refined_embeddings.parquet").points.shape[1] == 17


def test_a_curriculum_with_a_second_branch_embeds_the_one_that_is_named(tmp_path, tiny_base):
    curriculum, data = tmp_path / "curriculum", tmp_path / "data"
    curriculum.mkdir()
    for name, file, after in (("a", "01_easy", ""), ("b", "02_medium", ""), ("c", "03_hard", "after: a\n")):
        (curriculum / f"{name}.yaml").write_text(after + (REPOSITORY / f"conf/curriculum/{file}.yaml").read_text())
    given = {"source": small_source().write(tmp_path / "workbooks"), "model.base": tiny_base, **QUICK}
    given |= {"data_dir": data, "curriculum": curriculum, "final_stage": "b"}
    # The stages are assets: they are known before any run.
    program = "from naics_pipeline.definitions import defs; defs.resolve_job_def('full_pipeline').execute_in_process()"
    environment = {f"NAICS__{key.upper().replace('.', '__')}": str(value) for key, value in given.items()}
    result = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert finished(data)
    assert {path.name for path in (data / "stages").iterdir()} == {"a", "b", "c"}
    assert read_embeddings(data / "text_embeddings.parquet").metadata["stage"] == "b"
