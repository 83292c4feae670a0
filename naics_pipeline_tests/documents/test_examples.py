"""The worked examples of the manual do what it says of them."""

import dagster as dg
import numpy as np
import polars as pl
import pytest
import torch
from pydantic import Field

from naics_pipeline import settings
from naics_pipeline.assets import common
from naics_pipeline.evaluation import glossary
from naics_pipeline.taxonomy import text, tree
from naics_pipeline.taxonomy.triplets import write_triplets
from naics_pipeline.text_model import losses
from naics_pipeline.text_model.curriculum.negatives.candidates import Candidates
from naics_pipeline.text_model.curriculum.negatives.registry import policy_of
from naics_pipeline.text_model.curriculum.pairs import draw_pairs, pair_mask
from naics_pipeline.text_model.curriculum.stage import load_curriculum
from naics_pipeline.text_model.curriculum.state import CurriculumState
from naics_pipeline.text_model.losses.view import TreeTensors, View
from naics_pipeline.text_model.objective import Objective
from naics_pipeline_tests.conftest import REPOSITORY
from naics_pipeline_tests.documents.pages import block


def run(code: str, **given: object) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "example", **given}
    exec(compile(code, "example", "exec"), names)
    return names


class Line:
    """A space in which a point is a number."""

    def distances(self, u, v):
        return (u[:, None, 0] - v[None, :, 0]).abs()

    def paired_distances(self, u, v):
        return (u[:, 0] - v[:, 0]).abs()

    def radii(self, points):
        return points[:, 0].abs()


def test_a_loss(monkeypatch):
    term = run(block("# naics_pipeline/text_model/losses/parent.py"))["term"]
    (declared,) = block("# naics_pipeline/settings.py, class Objective").splitlines()[1:]
    weights = run(
        f"class Weights(Objective):\n    {declared}\n", Objective=settings.Objective, Field=Field, __annotations__={}
    )["Weights"]
    monkeypatch.setitem(losses.LOSSES, "parent", term)
    family = tree.Tree.from_codes(["11", "111", "1111"])
    none = np.zeros((3, 3), dtype=bool)
    others = {"contrastive": 0, "query": 0, "hierarchy": 0, "radius": 0, "balance": 0}
    objective = Objective(weights(parent=0.5, **others), settings.Model(edge_length=2.0))

    def loss_at(*places: float) -> float:
        view = View(
            space=Line(),
            tree=TreeTensors(family, none, none[0]),
            points=torch.tensor(places)[:, None],
            gate=None,
            pairs=None,
            queries=None,
            rows=torch.arange(3),
            counted=torch.ones(3, 3, dtype=torch.bool),
            spread=None,
            unseen=None,
        )
        terms = objective(view)
        assert list(terms) == ["parent"]
        return objective.total(terms).item()

    assert loss_at(0.0, 2.0, 4.0) == pytest.approx(0)
    assert loss_at(0.0, 2.0, 6.0) == pytest.approx(0.5 * (0 + 0 + 1 + 1) / 4)


def test_a_stage(tmp_path, sample_descriptions, sample_tree):
    for built_in in (REPOSITORY / "conf" / "curriculum").glob("*.yaml"):
        (tmp_path / built_in.name).write_text(built_in.read_text())
    example = block("# conf/curriculum/04_family.yaml")
    (tmp_path / "04_family.yaml").write_text(example)
    stage = load_curriculum(tmp_path)[-1]
    assert (stage.name, stage.after) == ("04_family", "03_hard")
    excluded = tree.excluded_matrix(sample_descriptions, sample_tree)
    pairs = draw_pairs(pair_mask(stage, sample_tree, excluded), 1, np.random.default_rng(0))
    relation = sample_tree.relation_id()[pairs.anchor, pairs.positive]
    assert {tree.RELATION_NAMES[number] for number in relation.tolist()} == {"child", "sibling"}
    policy = policy_of(stage.negatives, Candidates.of(sample_tree, excluded), stage.k_negatives)
    negatives = policy.draw(pairs, CurriculumState(), np.random.default_rng(0))
    assert negatives.codes.shape == (len(pairs.anchor), stage.k_negatives)


def test_a_metric(sample_tree):
    width = run(block("# naics_pipeline/evaluation/width.py"))["sector_width"]
    assert 0 < width(sample_tree.distance(), sample_tree) < 1
    assert width(np.ones((len(sample_tree),) * 2), sample_tree) == 1
    one = tree.Tree.from_codes(["11", "111"])
    assert np.isnan(width(one.distance(), one))
    row = block("# naics_pipeline/evaluation/glossary.py").splitlines()[1]
    assert run(f"row = ({row})", Metric=glossary.Metric)["row"][0].better == "lower"


def test_an_asset(sample_descriptions, monkeypatch):
    names = {name: getattr(common, name) for name in ("asset", "columns", "frame_output", "version")}
    made = run(block("# naics_pipeline/assets/taxonomy.py"), dg=dg, pl=pl, tree=tree, **names)["sector_sizes"]

    @dg.asset
    def descriptions() -> pl.DataFrame:
        return sample_descriptions

    result = dg.materialize_to_memory([descriptions, made])
    frame = result.output_for_node("sector_sizes")
    assert frame["codes"].sum() == sample_descriptions.height
    assert frame["sector"].is_sorted()


def test_a_source():
    books = run(block("# naics_pipeline/taxonomy/mine.py"))["read_mine"]()
    entries = text.index_entries(books, 0.2, 0.08)
    frame = text.descriptions(books, entries)
    assert frame["code"].to_list() == ["11", "111", "22"]
    assert frame.filter(code="111")["excluded_codes"].to_list() == [["11"]]


def test_triplets_are_read_as_rows(sample_descriptions, tmp_path, monkeypatch, capsys):
    few = sample_descriptions.filter(pl.col("code").str.slice(0, 2).is_in(["31", "51"]))
    codes = few["code"].to_list()
    few = few.with_columns(pl.col("excluded_codes").list.eval(pl.element().filter(pl.element().is_in(codes))))
    write_triplets(tree.distances(few), tree.relations(few), tmp_path / "data" / "triplets")
    monkeypatch.chdir(tmp_path)
    run(block("from pathlib import Path\n\nfrom naics_pipeline.taxonomy.triplets"))
    assert "anchor_code" in capsys.readouterr().out
