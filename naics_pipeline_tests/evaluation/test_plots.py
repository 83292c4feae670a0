"""Pictures come out as PNG for the sample and for degenerate input; the disk's layout follows the distances."""

import numpy as np
import polars as pl
import pytest

from naics_pipeline.evaluation.layout import disk_layout
from naics_pipeline.evaluation.plots import (
    distance_scatter,
    hardness_histogram,
    poincare_disk,
    radius_by_level,
    training_curves,
)
from naics_pipeline.taxonomy.tree import Tree

LINE = Tree.from_codes(["11", "111", "1111", "11111", "111111"])


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


@pytest.fixture(params=["sample", "line"])
def tree(request: pytest.FixtureRequest, sample_tree: Tree) -> Tree:
    return sample_tree if request.param == "sample" else LINE


def test_pictures_of_distances_and_radii(tree: Tree) -> None:
    distances = tree.tree_distance().astype(float)
    one, two = (distance_scatter(dict.fromkeys(names, distances), tree) for names in (["text"], ["text", "refined"]))
    assert size(two)[0] == pytest.approx(2 * size(one)[0], rel=0.01)
    radii = tree.level - 1.0
    assert size(radius_by_level({"text": radii, "refined": radii + 0.1}, tree))
    assert size(poincare_disk(distances, radii, tree, {"11": "Agriculture"}, name="Refined"))


def test_a_panel_for_every_metric_that_any_stage_has() -> None:
    easy = [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0}]
    hard = [
        {"epoch": 0, "loss": 0.5, "spearman": float("nan"), "parent@1": None},
        {"epoch": 1, "loss": 0.4, "spearman": 0.9},
    ]
    one, two = training_curves({"01_easy": easy}), training_curves({"01_easy": easy, "02_hard": hard})
    assert size(two)[0] == pytest.approx(2 * size(one)[0], rel=0.01)
    assert size(training_curves({"01_easy": easy, "02_hard": hard}, ["loss"])) == size(one)
    assert size(training_curves({"01_easy": [{"epoch": 0, "loss": None}]})) == size(training_curves({}))


def test_hardness_of_a_table_that_lacks_some() -> None:
    assert size(hardness_histogram(pl.DataFrame({"hardness": [8, 6, 1], "triplets": [10, 2000, 976_000_000]})))


def test_layout_lies_in_the_disk_and_keeps_radii_and_relatives(sample_tree: Tree) -> None:
    distances, radii = sample_tree.tree_distance().astype(float), sample_tree.level - 1.0
    layout = disk_layout(distances, radii, sample_tree)
    assert (np.linalg.norm(layout.places, axis=1) < 1).all()
    assert np.ptp(layout.radius / radii) < 1e-9
    assert layout.correlation > 0.7
    assert layout.kept > 0.5
    assert (disk_layout(distances, radii, sample_tree).places == layout.places).all()


def test_similar_siblings_lie_side_by_side() -> None:
    tree = Tree.from_codes(["11", "111", "112", "113", "114"])
    line = np.array([0.0, 1, 3, 2, 4])
    layout = disk_layout(np.abs(line[:, None] - line), tree.level - 1.0, tree)
    order = layout.angle[1:].argsort().tolist()
    assert order in ([0, 2, 1, 3], [3, 1, 2, 0])


def test_layout_of_a_single_code_says_that_nothing_is_known() -> None:
    assert np.isnan(disk_layout(np.zeros((1, 1)), np.ones(1), Tree.from_codes(["11"])).kept)
