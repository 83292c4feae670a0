"""Taxonomies and settings that nobody tries first: each works to the report, or is refused before training starts."""

from pathlib import Path

import pytest

from naics_pipeline_tests import runs
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
        (None, {"evaluation.cutoffs": [1, 3]}, None),
        (None, {"model.adapters.short.blocks": 0}, None),
        (None, {"taxonomy.held_out_fraction": 0, "taxonomy.validation_fraction": 0}, None),
    ],
    ids=["one sector", "one line", "other cutoffs", "no adapter in any block", "nothing left out"],
)
def test_it_works_or_is_refused_before_training(source, settings, refused, tmp_path, tiny_base):
    data = tmp_path / "data"
    given = {"source": str(source().write(tmp_path / "workbooks"))} if source else {}
    overrides = {"model.base": str(tiny_base), **QUICK, **settings, **given}
    result = runs.materialize("*", data, **overrides)
    if refused is None:
        assert result.success, runs.failure(result)
        assert finished(data)
    else:
        assert refused in runs.failure(result)
        assert not (data / "stages").exists()
