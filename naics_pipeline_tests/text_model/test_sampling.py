"""Pairs and negatives of a stage, on the bundled sample's tree."""

import numpy as np
import pytest

from naics_pipeline.errors import SettingsError
from naics_pipeline.taxonomy.tree import Tree, excluded_matrix, held_out_pairs
from naics_pipeline.taxonomy.triplets import hardness
from naics_pipeline.text_model.curriculum.negatives.buckets import Buckets
from naics_pipeline.text_model.curriculum.pairs import Pairs, draw_pairs, pair_mask
from naics_pipeline.text_model.curriculum.stage import Stage
from naics_pipeline.text_model.curriculum.state import CurriculumState


def stage(**changes: object) -> Stage:
    values = {
        "name": "s",
        "positive_levels": [5, 6],
        "positive_distance_max": 3.0,
        "max_positives": 3,
        "difficulty_buckets": [1, 2, 5, 6],
        "bucket_percentages": {1: 0.5, 2: 0.25, 5: 0.15, 6: 0.1},
        "k_negatives": 16,
        "epochs": 1,
        "learning_rate": 0.001,
    }
    return Stage(**(values | changes))


@pytest.fixture(scope="module")
def excluded(sample_descriptions, sample_tree) -> np.ndarray:
    return excluded_matrix(sample_descriptions, sample_tree)


def some_pairs(tree: Tree) -> Pairs:
    return draw_pairs(pair_mask(stage(), tree), None, np.random.default_rng(0))


def test_pairs_obey_levels_and_distances(sample_tree: Tree) -> None:
    anchor, positive = np.nonzero(pair_mask(stage(positive_distance_min=1.0), sample_tree))
    assert set(sample_tree.level[positive]) == {5, 6}
    distance = sample_tree.distance()[anchor, positive]
    assert distance.min() >= 1.0
    assert distance.max() == 3.0
    assert (sample_tree.sector[anchor] == sample_tree.sector[positive]).all()
    assert (anchor != positive).all()


def test_pairs_obey_relations(sample_tree: Tree) -> None:
    allowed = pair_mask(stage(positive_relations=["sibling"], positive_distance_max=None), sample_tree)
    assert (sample_tree.parent[np.nonzero(allowed)[0]] == sample_tree.parent[np.nonzero(allowed)[1]]).all()
    with pytest.raises(SettingsError, match=r"unknown relation 'twin'.*sibling"):
        pair_mask(stage(positive_relations=["twin"]), sample_tree)


def test_a_stage_without_any_pair_is_refused(sample_tree: Tree) -> None:
    with pytest.raises(SettingsError, match="stage s: no pair"):
        pair_mask(stage(positive_levels=[2]), Tree.from_codes(["11", "21"]))


def test_at_most_max_positives_an_anchor(sample_tree: Tree) -> None:
    allowed = pair_mask(stage(), sample_tree)
    drawn = draw_pairs(allowed, 3, np.random.default_rng(0))
    anchor, positive = drawn.anchor, drawn.positive
    assert np.bincount(anchor).max() == 3
    assert allowed[anchor, positive].all()
    assert len(set(zip(anchor, positive, strict=True))) == len(anchor)


def test_held_out_pairs_are_symmetric_a_twentieth_and_independent_of_other_codes(sample_tree: Tree) -> None:
    held_out = held_out_pairs(sample_tree, 0.05)
    assert (held_out == held_out.T).all()
    assert held_out.mean() == pytest.approx(0.05, abs=0.01)
    kept = sample_tree.sector == sample_tree.sector[0]
    smaller = Tree.from_codes(sample_tree.codes[kept].tolist())
    assert (held_out_pairs(smaller, 0.05) == held_out[np.ix_(kept, kept)]).all()


def test_negatives_are_farther_distinct_and_in_the_bucket_they_are_said_to_be(sample_tree, excluded) -> None:
    sampler = Buckets(sample_tree, excluded, stage().quotas)
    pairs = some_pairs(sample_tree).at(slice(500))
    drawn = sampler.draw(pairs, CurriculumState(), np.random.default_rng(1))
    anchor, positive, negative = pairs.anchor, pairs.positive, drawn.codes
    distance = sample_tree.distance()
    assert (distance[anchor[:, None], negative] > distance[anchor, positive][:, None]).all()
    assert (np.diff(np.sort(negative, axis=1), axis=1) > 0).all()
    grades = hardness(
        distance[anchor, positive][:, None], distance[anchor[:, None], negative], excluded[anchor[:, None], negative]
    )
    assert (grades == drawn.hardness).all()
    assert drawn.counts().sum() == negative.size


def test_shares_are_met_where_buckets_have_enough(sample_tree: Tree, excluded: np.ndarray) -> None:
    easy = stage(difficulty_buckets=[1, 6], bucket_percentages={1: 0.75, 6: 0.25}, k_negatives=8)
    sampler = Buckets(sample_tree, excluded, easy.quotas)
    counts = np.stack([np.arange(9) * 0 + 20, [0, 20, 0, 0, 0, 0, 1, 0, 0]])
    taken, _ = sampler.allocate(counts)
    assert taken[0, [1, 6]].tolist() == [6, 2]
    # One short in bucket 6: the next easier bucket that has codes gives it.
    assert taken[1, [1, 6]].tolist() == [7, 1]


def test_fallback_is_easier_first_then_harder_and_k_always_come_out(sample_tree: Tree, excluded: np.ndarray) -> None:
    sampler = Buckets(sample_tree, excluded, {5: 4})
    counts = np.array(
        [
            [9, 9, 9, 1, 2, 1, 9, 9, 9],  # 5 gives 1, then 4 gives 2, then 3 gives 1
            [9, 0, 0, 0, 0, 1, 2, 9, 0],  # nothing easier: 6 gives 2, then 7 gives 1
            [9, 2, 0, 0, 0, 0, 0, 0, 0],  # two codes in all: they repeat
        ]
    )
    taken, _ = sampler.allocate(counts)
    assert taken.sum(axis=1).tolist() == [4, 4, 4]
    assert taken[0, 3:6].tolist() == [1, 2, 1]
    assert taken[1, 5:8].tolist() == [1, 2, 1]
    assert taken[2, 1] == 4


def test_a_bucket_that_fell_short_is_named(sample_tree: Tree, excluded: np.ndarray) -> None:
    hard = stage(difficulty_buckets=[7], bucket_percentages={7: 1.0}, k_negatives=4)
    sampler, state = Buckets(sample_tree, excluded, hard.quotas), CurriculumState()
    assert state.shortfall(hard) is None
    drawn = sampler.draw(some_pairs(sample_tree).at(slice(20)), state, np.random.default_rng(0))
    state.count(drawn.counts(), drawn.short)
    assert "bucket 7 lacked 59 of 80" in state.shortfall(hard)
    assert sum(state.logged().values()) == pytest.approx(1)
    resumed = CurriculumState()
    resumed.load_state_dict(state.state_dict())
    assert resumed.logged() == state.logged()


def test_negatives_repeat_in_a_taxonomy_smaller_than_k() -> None:
    tiny = Tree.from_codes(["11", "111", "112"])
    sampler = Buckets(tiny, np.zeros((3, 3), bool), {1: 16})
    pair = Pairs(np.array([1]), np.array([0]))
    negative = sampler.draw(pair, CurriculumState(), np.random.default_rng(0)).codes
    assert set(negative[0]) == {2}
    assert negative.shape == (1, 16)


def test_an_epoch_is_reproducible_and_differs_from_another(sample_tree: Tree, excluded: np.ndarray) -> None:
    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        pairs = draw_pairs(pair_mask(stage(), sample_tree), 3, generator)
        return Buckets(sample_tree, excluded, stage().quotas).draw(pairs, CurriculumState(), generator).codes

    assert (draw(0) == draw(0)).all()
    assert (draw(0) != draw(1)).any()
    assert draw(0).shape[1] == 16


def test_held_out_pairs_are_never_negatives(sample_tree: Tree, excluded: np.ndarray) -> None:
    held_out = held_out_pairs(sample_tree, 0.3)
    sampler = Buckets(sample_tree, excluded, stage().quotas, held_out)
    pairs = some_pairs(sample_tree)
    negative = sampler.draw(pairs, CurriculumState(), np.random.default_rng(1)).codes
    assert not held_out[pairs.anchor[:, None], negative].any()
    free = Buckets(sample_tree, excluded, stage().quotas).draw(pairs, CurriculumState(), np.random.default_rng(1)).codes
    assert held_out[pairs.anchor[:, None], free].any()
