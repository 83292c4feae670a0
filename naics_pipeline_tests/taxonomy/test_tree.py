"""The tree against its definition, pair by pair, and against the published numbers of NAICS 2022."""

from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naics_pipeline.errors import NaicsError, SourceError
from naics_pipeline.taxonomy.tree import (
    RELATION_NAMES,
    Tree,
    distances,
    excluded_matrix,
    parent_of,
    relations,
    sector_of,
)

N_PAIRS = 2_256_750

# The table of the specification, (steps up from the shallower code, from the deeper one) to name.
NAMES = {
    (0, 1): "child",
    (0, 2): "grandchild",
    (0, 3): "great-grandchild",
    (0, 4): "great-great-grandchild",
    (1, 1): "sibling",
    (1, 2): "nephew/niece",
    (1, 3): "grand-nephew/niece",
    (1, 4): "grand-grand-nephew/niece",
    (2, 2): "cousin",
    (2, 3): "cousin once removed",
    (2, 4): "cousin twice removed",
    (3, 3): "second cousin",
    (3, 4): "second cousin once removed",
    (4, 4): "third cousin",
}


def line(code: str) -> list[str]:
    """A code and what lies above it, up to its sector."""
    above = parent_of(code)
    return [code] if above is None else [code, *line(above)]


def naive(first: str, second: str) -> tuple[str, float, int]:
    """Relation, distance and tree distance of two different codes, by walking up."""
    one, other = line(first), line(second)
    common = next((code for code in one if code in other), None)
    if common is None:
        return "unrelated", 10.0, len(one) + len(other)
    steps = sorted((one.index(common), other.index(common)))
    return NAMES[steps[0], steps[1]], sum(steps) - (0.5 if steps[0] == 0 else 0.0), sum(steps)


@st.composite
def taxonomies(draw: st.DrawFn) -> list[str]:
    """Codes of any depth in a few sectors, merged ones among them, closed upwards."""
    sector = st.sampled_from(["11", "21", "31", "32", "33", "44", "45", "92"])
    deepest = st.tuples(sector, st.text("123", max_size=4)).map("".join)
    leaves = draw(st.lists(deepest, min_size=1, max_size=6))
    return sorted({code for leaf in leaves for code in line(sector_of(leaf) if len(leaf) == 2 else leaf)})


def described(codes: list[str], cited: dict[str, list[str]] | None = None) -> pl.DataFrame:
    lists = [(cited or {}).get(code, []) for code in codes]
    return pl.DataFrame(
        {"code": codes, "excluded_codes": lists}, schema_overrides={"excluded_codes": pl.List(pl.String)}
    )


@given(taxonomies())
@settings(max_examples=60, deadline=None)
def test_every_pair_is_as_the_definition_says(codes: list[str]) -> None:
    frame = relations(described(codes)).with_columns(distances(described(codes)).select("distance", "tree_distance"))
    assert frame.height == len(codes) * (len(codes) - 1) // 2
    for row in frame.iter_rows(named=True):
        assert row["code_i"] == codes[row["idx_i"]]
        assert row["code_j"] == codes[row["idx_j"]]
        assert row["idx_i"] < row["idx_j"]
        assert (row["relation"], row["distance"], row["tree_distance"]) == naive(row["code_i"], row["code_j"])
        assert RELATION_NAMES[row["relation_id"]] == row["relation"]


@given(taxonomies())
@settings(max_examples=40, deadline=None)
def test_matrices_are_symmetric_and_the_tree_distance_is_that_of_a_tree(codes: list[str]) -> None:
    tree = Tree.from_codes(codes)
    for matrix in (tree.lca_depth(), tree.tree_distance(), tree.distance(), tree.relation_id()):
        assert (matrix == matrix.T).all()
    for matrix in (tree.tree_distance(), tree.distance(), tree.relation_id()):
        assert (np.diag(matrix) == 0).all()
    assert (np.diag(tree.lca_depth()) == tree.level - 1).all()
    # Four-point condition: of the three ways to pair four points, the two longest sums are equal.
    chosen = np.array(list(product(range(min(len(codes), 9)), repeat=4)))
    a, b, c, d = chosen.T
    d_t = tree.tree_distance().astype(int)
    sums = np.sort(np.stack([d_t[a, b] + d_t[c, d], d_t[a, c] + d_t[b, d], d_t[a, d] + d_t[b, c]]), axis=0)
    assert (sums[1] == sums[2]).all()


def test_a_merged_sector_is_one_tree() -> None:
    tree = Tree.from_codes(["31", "311", "321", "44", "445", "455"])
    assert tree.codes[tree.sector].tolist() == ["31", "31", "31", "44", "44", "44"]
    assert tree.codes[tree.parent[tree.position(["321", "455"])]].tolist() == ["31", "44"]
    assert tree.distance()[tree.position(["311"]), tree.position(["321"])].item() == 2.0


def test_codes_are_put_into_string_order() -> None:
    tree = Tree.from_codes(["111", "21", "11"])
    assert tree.codes.tolist() == ["11", "111", "21"]
    assert tree.level.tolist() == [2, 3, 2]
    assert tree.parent.tolist() == [-1, 0, -1]


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (["11", "1111"], "1111: its parent 111 is missing"),
        (["11", "11"], "11 occurs more than once"),
        (["11", "11x"], "'11x'"),
        (["1"], "'1'"),
        (["31", "32"], "part of 31"),
        ([], "no codes"),
    ],
)
def test_codes_that_make_no_tree_are_refused(codes: list[str], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        Tree.from_codes(codes)


def test_an_unknown_code_has_no_position() -> None:
    tree = Tree.from_codes(["11", "111"])
    assert tree.position(["111", "11"]).tolist() == [1, 0]
    with pytest.raises(NaicsError, match=r"999.*not a code"):
        tree.position(["11", "999"])


def test_an_exclusion_is_symmetric_and_changes_neither_relation_nor_distance() -> None:
    codes = ["11", "111", "112", "21"]
    plain, cited = described(codes), described(codes, {"112": ["111"], "11": ["21"]})
    matrix = excluded_matrix(cited, Tree.from_codes(codes))
    assert {tuple(pair) for pair in np.argwhere(matrix).tolist()} == {(1, 2), (2, 1), (0, 3), (3, 0)}
    frame = relations(cited)
    assert frame.filter("excluded").select("code_i", "code_j").rows() == [("11", "21"), ("111", "112")]
    assert frame.drop("excluded").equals(relations(plain).drop("excluded"))
    assert distances(cited).equals(distances(plain))


def test_a_taxonomy_of_one_sector_has_no_unrelated_pair() -> None:
    frame = described(["11", "111", "112"])
    assert "unrelated" not in relations(frame)["relation"].to_list()
    assert distances(frame)["distance"].max() == 2.0
    assert distances(described(["11"])).is_empty()


def test_relations_of_naics_2022(real_descriptions: pl.DataFrame) -> None:
    frame = relations(real_descriptions)
    assert frame.height == N_PAIRS
    assert frame.schema == {
        "idx_i": pl.UInt16,
        "idx_j": pl.UInt16,
        "code_i": pl.String,
        "code_j": pl.String,
        "relation_id": pl.UInt8,
        "relation": pl.String,
        "excluded": pl.Boolean,
    }
    counts = frame.group_by("relation_id", "relation").len().sort("relation_id").rows()
    assert counts == [
        (1, "child", 2_105),
        (2, "sibling", 2_394),
        (3, "grandchild", 2_009),
        (4, "great-grandchild", 1_701),
        (5, "nephew/niece", 7_413),
        (6, "great-great-grandchild", 1_012),
        (7, "cousin", 9_583),
        (8, "grand-nephew/niece", 9_561),
        (9, "grand-grand-nephew/niece", 9_338),
        (10, "cousin once removed", 29_503),
        (11, "second cousin", 27_807),
        (12, "cousin twice removed", 34_434),
        (13, "second cousin once removed", 70_835),
        (14, "third cousin", 64_408),
        (99, "unrelated", 1_984_647),
    ]
    assert frame["excluded"].sum() == 3_955
    assert frame.filter(pl.col("excluded") & (pl.col("relation") == "sibling")).height == 474


def test_distances_of_naics_2022(real_descriptions: pl.DataFrame) -> None:
    frame = distances(real_descriptions)
    assert frame.height == N_PAIRS
    assert (frame["idx_i"] < frame["idx_j"]).all()
    assert dict(frame["distance"].value_counts().rows()) == {
        0.5: 2_105,
        1.5: 2_009,
        2.0: 2_394,
        2.5: 1_701,
        3.0: 7_413,
        3.5: 1_012,
        4.0: 19_144,
        5.0: 38_841,
        6.0: 62_241,
        7.0: 70_835,
        8.0: 64_408,
        10.0: 1_984_647,
    }
    assert frame.schema["distance"] == pl.Float32
    assert frame.schema["tree_distance"] == pl.UInt8
    other_sector = frame.filter(pl.col("distance") == 10)
    assert (other_sector["tree_distance"].min(), other_sector["tree_distance"].max()) == (2, 10)
