"""Query metrics against loops, ties at chance, merged sectors, and nothing to ask."""

import numpy as np
import polars as pl
import pytest
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.evaluation.retrieval import (
    BRIEF,
    NAMES,
    Queries,
    evaluate_texts,
    query_metrics,
    query_scores,
    search_scores,
)
from naics_pipeline.geometry import lorentz
from naics_pipeline.scorers.embedding import query_distances
from naics_pipeline.scorers.ensemble import GIVEN, all_scorers
from naics_pipeline.scorers.nearest_entry import NearestEntryScorer
from naics_pipeline.scorers.words import WordTable
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline_tests.evaluation.trees import random_tree


def six_digit(tree: Tree) -> np.ndarray:
    return tree.codes[tree.level == 6]


def ancestors(tree: Tree, code: str) -> set[int]:
    position, found = int(tree.position([code])[0]), set()
    while position >= 0:
        found.add(position)
        position = int(tree.parent[position])
    return found


@pytest.mark.parametrize("seed", range(3))
def test_queries_against_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = random_tree(rng)
    candidates = rng.permutation(six_digit(tree))
    truth = rng.choice(candidates, 40)
    distances = rng.uniform(size=(40, len(candidates)))
    rows = []
    for row, right in zip(distances, truth, strict=True):
        ranking = candidates[np.argsort(row)].tolist()
        rank = ranking.index(right) + 1
        one, other = ancestors(tree, ranking[0]), ancestors(tree, right)
        shared = len(one & other)
        precision, recall = shared / len(one), shared / len(other)
        rows.append(
            {
                "query_top1": rank <= 1,
                "query_top5": rank <= 5,
                "query_top10": rank <= 10,
                "query_mrr": 1 / rank,
                **{f"query_top1_digits_{digits}": shared >= digits - 1 for digits in (2, 3, 4, 5)},
                "query_hierarchical_f1": 2 * precision * recall / (precision + recall) if shared else 0,
            }
        )
    expected = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    assert query_metrics(distances, candidates, truth) == pytest.approx(expected)


def test_a_method_that_cannot_tell_codes_apart_scores_chance() -> None:
    candidates = ["111110", "111120", "221110", "531110"]
    found = query_metrics(np.zeros((2, 4)), candidates, ["111110", "221110"])
    assert found["query_top1"] == pytest.approx(1 / 4)
    assert found["query_mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert found["query_top10"] == 1
    # Half of the candidates share the first query's sector, a quarter the second's.
    assert found["query_top1_digits_2"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert found["query_hierarchical_f1"] == pytest.approx(((1 + 3 / 5) / 4 + 1 / 4) / 2)


def test_manufacturing_is_one_sector() -> None:
    found = query_scores(np.array([[0.0, 1.0]]), ["331110", "311111"], ["311111"])
    assert found["query_top1_digits_2"].tolist() == [1]
    assert found["query_top1_digits_3"].tolist() == [0]
    assert found["query_hierarchical_f1"].tolist() == [pytest.approx(1 / 5)]


def test_without_queries_there_are_names_but_no_values() -> None:
    found = query_metrics(np.empty((0, 2)), ["111110", "111120"], [])
    assert "query_top1" in found
    assert all(np.isnan(value) for value in found.values())


def test_a_query_of_an_unknown_code_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="999990"):
        query_metrics(np.zeros((1, 2)), ["111110", "111120"], ["999990"])


@pytest.mark.parametrize("curvature", [0.5, 1.0])
def test_query_distances_are_geodesic(curvature: float) -> None:
    tangent = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = lorentz.exp0(tangent, curvature=curvature)
    queries, codes = points[:3], points[3:]
    expected = lorentz.distance(queries[:, None], codes[None], curvature=curvature).numpy()
    assert query_distances(queries.numpy(), codes.numpy(), curvature, "lorentz") == pytest.approx(expected)
    flat = query_distances(queries.numpy(), codes.numpy(), curvature, "euclidean")
    assert flat[1, 2] == pytest.approx(float((queries[1] - codes[2]).norm()))


CODES = np.array(["111110", "111120", "221110", "531110"])


def placed(codes: np.ndarray, seed: int, columns: pl.DataFrame | None = None) -> Embeddings:
    tangent = torch.randn(len(codes), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Embeddings(codes, lorentz.exp0(tangent).numpy(), columns=pl.DataFrame() if columns is None else columns)


def test_held_out_repeated_and_validation_entries_are_counted_apart() -> None:
    truth = CODES[[0, 1, 2, 3]]
    queries = Queries(truth, np.array(["held_out", "held_out", "validation", "validation"]), np.array([1, 0, 1, 0]) > 0)
    # The first (repeated) and the third find their code, the others do not.
    scores = np.eye(4)[[0, 0, 2, 0]]
    found = search_scores({"code": -scores, "mixed": -np.eye(4)}, CODES, queries)
    assert found.metrics["query_top1"] == 0.5
    assert found.metrics["unrepeated/query_top1"] == 0
    assert found.metrics["validation/query_top1"] == 0.5
    assert found.metrics["mixed/query_top1"] == found.metrics["unrepeated/mixed/query_top1"] == 1
    assert found.by_query["query_top1"].tolist() == [1, 0, 1, 0]
    assert found.held_out["query_top1"].tolist() == [1, 0]
    assert set(found.by_query) == {*NAMES, *(f"mixed/{name}" for name in NAMES)}
    assert {f"validation/{name}" for name in BRIEF} <= found.metrics.keys()


def test_points_that_say_nothing_of_a_split_are_all_held_out() -> None:
    codes = placed(CODES, 0)
    found = evaluate_texts(codes, placed(CODES, 0))
    assert set(found.metrics) == set(NAMES)
    assert found.metrics["query_top1"] == 1


def test_parameters_are_fitted_on_validation_rows_alone() -> None:
    split = np.array(["validation", "held_out"] * 20)
    columns = pl.DataFrame({"split": split.tolist(), "repeated": [False] * 40})
    codes, places, queries = placed(CODES, 0), placed(np.repeat(CODES, 3), 1), placed(np.tile(CODES, 10), 2, columns)
    fitted = ("mixed/weight_code", "mixed/weight_nearest_entry", "mixed/calibration_slope")
    first = evaluate_texts(codes, queries, places).metrics
    held_out = split == "held_out"
    moved = queries.points.copy()
    moved[held_out] = moved[held_out][::-1]
    second = evaluate_texts(codes, Embeddings(queries.codes, moved, columns=columns), places).metrics
    assert [first[name] for name in fitted] == [second[name] for name in fitted]
    assert first["validation/mixed/query_mrr"] == second["validation/mixed/query_mrr"]
    assert first["mixed/query_mrr"] != second["mixed/query_mrr"]
    moved = queries.points.copy()
    moved[~held_out] = moved[~held_out][::-1]
    third = evaluate_texts(codes, Embeddings(queries.codes, moved, columns=columns), places).metrics
    assert [first[name] for name in fitted] != [third[name] for name in fitted]


def test_scorers_know_validation_entries_when_they_are_asked_for_others_and_not_before() -> None:
    codes, places = placed(CODES, 0), placed(CODES, 1)
    columns = pl.DataFrame({"split": ["validation"] * 4 + ["held_out"] * 4, "repeated": [False] * 8})
    entries = placed(CODES, 2)
    # The same words as a validation entry, said of the code before it: its place is known to be another's.
    queries = Embeddings(
        np.concatenate([CODES, np.roll(CODES, 1)]), np.concatenate([entries.points, entries.points]), columns=columns
    )
    found = evaluate_texts(codes, queries, places)
    alone = NearestEntryScorer().fit(places, codes).scores(entries)
    expected = query_metrics(-alone, codes.codes, CODES)
    assert found.metrics["validation/nearest_entry/query_mrr"] == expected["query_mrr"] < 1
    assert found.metrics["nearest_entry/query_top1"] == 0


def test_labelled_texts_are_measured_by_every_read_out() -> None:
    rows = pl.DataFrame(
        {
            "text_id": [0, 0, 0, 1],
            "part": [0, 1, 2, 0],
            "codes": [["111110"], ["111110"], ["111110"], ["9"]],
            "text": ["a, b", "a", "b", "c"],
        }
    )
    labelled = placed(CODES, 0, rows)
    scores = evaluate_texts(placed(CODES, 0), placed(CODES, 3), placed(CODES, 0), labelled)
    found = scores.metrics
    assert scores.by_text["labelled/mixed_parts/top1"].tolist() == [1]
    assert scores.texts.tolist() == [0]
    for readout in ("", "nearest_entry/", "mixed/", "mixed_parts/"):
        assert found[f"labelled/{readout}top1"] == 1
    assert (found["labelled/texts"], found["labelled/left_out"]) == (1, 1)
    assert 0 <= found["labelled/mixed_parts/calibration_error"] <= 1
    assert not any(
        "parts/" in name for name in evaluate_texts(placed(CODES, 0), placed(CODES, 3), None, labelled).metrics
    )


def test_all_scorers_have_a_row_and_so_have_the_blends_with_their_calibration() -> None:
    words = {"111110": "soybean", "111120": "sunflower", "221110": "electricity", "531110": "dwelling"}
    truth = np.tile(CODES, 60)

    def texts(ending: str, seed: int, **columns: list[str]) -> Embeddings:
        vectors = np.eye(4)[[CODES.tolist().index(code) for code in truth]].astype(np.float32)
        column = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, 4))
        frame = pl.DataFrame({"text": [f"{words[code]} {ending}" for code in truth], **columns})
        return placed(truth, seed, frame.with_columns(column))

    queries = texts("sales", 1, split=["validation"] * 120 + ["held_out"] * 120)
    places = texts("farming", 2, kind=["title"] * 4 + ["entry"] * 236)
    found = evaluate_texts(placed(CODES, 0), queries, places, scorers=all_scorers(0, WordTable.of("all-MiniLM-L6-v2")))
    for row in ("lexical", "related_words", "linear", "definition"):
        assert found.metrics[f"{row}/query_top1"] == 1
    for row in ("blend", "blend_without_code", "blend_without_nearest_entry"):
        assert found.metrics[f"{row}/query_top1"] > 0.95
    assert found.metrics["query_top1"] < 0.6
    without = {
        f"blend_without_{name}/query_top1" for name in ("centroid", "lexical", "related_words", "linear", "definition")
    }
    assert {"centroid/query_top1", *without} <= found.by_query.keys()
    for mark in ("", "_digits_2", "_digits_5"):
        for measure in ("calibration_error", "brier", "answered_at_95"):
            low, high = found.intervals[f"blend/{measure}{mark}"]
            assert 0 <= low <= found.metrics[f"blend/{measure}{mark}"] <= high <= 1
    assert found.metrics["blend/weight_lexical"] > 0
    assert found.metrics["blend/weight_related_words"] > 0
    assert found.metrics["blend/far_weight_definition"] == GIVEN["definition"]
