"""Triplets: never a wrong one, in the shares asked for, hard ones when told."""

import numpy as np
import pytest

from naics_pipeline.graph_model import sampling
from naics_pipeline.graph_model.sampling import TripletSampler
from naics_pipeline.settings import Graph
from naics_pipeline.taxonomy.tree import UNRELATED_DISTANCE, Tree, held_out_pairs
from naics_pipeline.taxonomy.triplets import hardness

CODES = [
    head + tail
    for head in ("11", "21", "31")
    for tail in ("", "1", "2", "11", "12", "21", "111", "112", "121", "211", "1111", "1112", "1121", "1211", "2111")
]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree.from_codes(CODES)


def _sampler(tree: Tree, **settings: object) -> TripletSampler:
    excluded = np.zeros((len(tree), len(tree)), dtype=bool)
    excluded[tree.position(["11111"]), tree.position(["21111"])] = True
    excluded |= excluded.T
    return TripletSampler(tree, np.arange(len(tree)), excluded, Graph(**settings), seed=0)


@pytest.mark.parametrize("rows", [7, 1000])
def test_every_triplet_obeys_the_definition(tree: Tree, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(sampling, "_BLOCK_ENTRIES", rows * len(tree))
    sampler = _sampler(tree)
    for _ in range(5):
        drawn = sampler.draw()
        distance = tree.distance()
        positive = distance[drawn.anchor, drawn.positive]
        assert ((positive > 0) & (positive < UNRELATED_DISTANCE)).all()
        negative = distance[drawn.anchor[:, None], drawn.negatives]
        assert (negative > positive[:, None]).all()
        farther = (distance[drawn.anchor] > positive[:, None]).sum(axis=1)
        assert [len(np.unique(row)) for row in drawn.negatives] == np.minimum(16, farther).tolist()


def test_every_code_that_can_be_an_anchor_is_one(tree: Tree) -> None:
    np.testing.assert_array_equal(_sampler(tree).draw().anchor, np.arange(len(tree)))


def test_negatives_fill_the_buckets_asked_for_and_fall_back_where_short(tree: Tree) -> None:
    sampler = _sampler(tree, bucket_percentages={1: 0.75, 2: 0.25}, k_negatives=4)
    distance = tree.distance()
    grades = []
    for _ in range(200):
        drawn = sampler.draw()
        anchor, positive = drawn.anchor[:, None], drawn.positive[:, None]
        grade = hardness(
            distance[anchor, positive], distance[anchor, drawn.negatives], sampler.excluded[anchor, drawn.negatives]
        )
        can_have_both = (tree.level[anchor] == 6) & (distance[anchor, positive] == 0.5)
        grades.append(grade[can_have_both[:, 0]].ravel())
    shares = np.bincount(np.concatenate(grades), minlength=9) / sum(map(len, grades))
    assert shares[1] + shares[2] == pytest.approx(1, abs=0.01)
    assert shares[1] == pytest.approx(0.75, abs=0.05)

    unavailable = _sampler(tree, bucket_percentages={8: 1.0}, k_negatives=4).draw()
    assert unavailable.negatives.shape == (len(tree), 4)


def test_hard_negatives_are_the_nearest_ones(tree: Tree) -> None:
    sampler = _sampler(tree, hard_negatives=1.0, k_negatives=3)
    near = np.random.default_rng(1).random((len(tree), len(tree)))
    drawn = sampler.draw(near.__getitem__)
    distance = tree.distance()
    for anchor, positive, negatives in zip(drawn.anchor, drawn.positive, drawn.negatives, strict=True):
        allowed = np.flatnonzero(distance[anchor] > distance[anchor, positive])
        expected = allowed[np.argsort(near[anchor, allowed])[:3]]
        assert set(negatives.tolist()) == set(expected.tolist())


def test_another_draw_differs_and_the_same_seed_repeats(tree: Tree) -> None:
    one, two = _sampler(tree), _sampler(tree)
    first, second = one.draw(), one.draw()
    assert not np.array_equal(first.negatives, second.negatives)
    np.testing.assert_array_equal(first.negatives, two.draw().negatives)


def test_positives_are_as_likely_at_any_distance(tree: Tree) -> None:
    sampler = _sampler(tree)
    anchor = int(tree.position(["111111"])[0])
    drawn = np.concatenate([tree.distance()[anchor, sampler.draw().positive[anchor : anchor + 1]] for _ in range(600)])
    values, counts = np.unique(drawn, return_counts=True)
    possible = np.unique(tree.distance()[anchor])
    np.testing.assert_array_equal(values, possible[(possible > 0) & (possible < UNRELATED_DISTANCE)])
    np.testing.assert_allclose(counts / 600, 1 / len(values), atol=0.06)


@pytest.mark.parametrize("hard", [False, True])
def test_a_held_out_pair_is_neither_anchor_and_positive_nor_anchor_and_negative(tree: Tree, hard: bool) -> None:
    held_out = held_out_pairs(tree, 0.4)
    excluded = np.zeros_like(held_out)
    sampler = TripletSampler(tree, np.arange(len(tree)), excluded, Graph(hard_negatives=1.0), 0, held_out)
    near = np.random.default_rng(1).random(held_out.shape)
    for _ in range(5):
        drawn = sampler.draw(near.__getitem__ if hard else None)
        assert not held_out[drawn.anchor, drawn.positive].any()
        assert not held_out[drawn.anchor[:, None], drawn.negatives].any()


def test_of_some_codes_triplets_are_drawn_among_these_alone(tree: Tree) -> None:
    kept = np.flatnonzero(tree.level > 3)
    excluded = np.zeros((len(tree), len(tree)), dtype=bool)
    drawn = TripletSampler(tree, kept, excluded, Graph(), 0, held_out_pairs(tree, 0.2)).draw()
    distance, held_out = tree.distance()[np.ix_(kept, kept)], held_out_pairs(tree, 0.2)[np.ix_(kept, kept)]
    positive = distance[drawn.anchor, drawn.positive]
    negative = distance[drawn.anchor[:, None], drawn.negatives]
    assert (negative > positive[:, None]).all()
    assert not held_out[drawn.anchor, drawn.positive].any()
