"""Pairs and negatives of a stage, on the bundled sample's tree."""

import numpy as np
import pytest

from naics_pipeline.errors import SettingsError
from naics_pipeline.settings import quotas
from naics_pipeline.taxonomy.tree import Tree, excluded_matrix, held_out_pairs
from naics_pipeline.taxonomy.triplets import hardness
from naics_pipeline.text_model.curriculum import stage as specs
from naics_pipeline.text_model.curriculum.negatives.buckets import Buckets
from naics_pipeline.text_model.curriculum.negatives.candidates import Candidates
from naics_pipeline.text_model.curriculum.negatives.policy import NegativePolicy, Pairs, hardness_of
from naics_pipeline.text_model.curriculum.negatives.registry import policy_of
from naics_pipeline.text_model.curriculum.pairs import draw_pairs, pair_mask
from naics_pipeline.text_model.curriculum.stage import Mined, NearFar, RouterGuided, Stage, TreeDistance
from naics_pipeline.text_model.curriculum.state import CurriculumState


def stage(**changes: object) -> Stage:
    values = {
        "name": "s",
        "positive_levels": [5, 6],
        "positive_distance_max": 3.0,
        "max_positives": 3,
        "negatives": {"kind": "near_far"},
        "k_negatives": 16,
        "epochs": 1,
        "learning_rate": 0.001,
    }
    return Stage(**(values | changes))


@pytest.fixture(scope="module")
def excluded(sample_descriptions, sample_tree) -> np.ndarray:
    return excluded_matrix(sample_descriptions, sample_tree)


SHARES = {1: 0.5, 2: 0.25, 5: 0.15, 6: 0.1}


def none(tree: Tree) -> np.ndarray:
    return np.zeros((len(tree), len(tree)), dtype=bool)


def buckets(tree: Tree, excluded: np.ndarray, shares: dict[int, float] = SHARES, k: int = 16, held_out=None) -> Buckets:
    return Buckets(Candidates.of(tree, excluded, held_out), quotas(shares, k))


def some_pairs(tree: Tree) -> Pairs:
    return draw_pairs(pair_mask(stage(), tree, none(tree)), None, np.random.default_rng(0))


def test_pairs_obey_levels_and_distances(sample_tree: Tree) -> None:
    anchor, positive = np.nonzero(pair_mask(stage(positive_distance_min=1.0), sample_tree, none(sample_tree)))
    assert set(sample_tree.level[positive]) == {5, 6}
    distance = sample_tree.distance()[anchor, positive]
    assert distance.min() >= 1.0
    assert distance.max() == 3.0
    assert (sample_tree.sector[anchor] == sample_tree.sector[positive]).all()
    assert (anchor != positive).all()


def test_pairs_obey_relations(sample_tree: Tree) -> None:
    allowed = pair_mask(
        stage(positive_relations=["sibling"], positive_distance_max=None), sample_tree, none(sample_tree)
    )
    assert (sample_tree.parent[np.nonzero(allowed)[0]] == sample_tree.parent[np.nonzero(allowed)[1]]).all()
    with pytest.raises(SettingsError, match=r"unknown relation 'twin'.*sibling"):
        pair_mask(stage(positive_relations=["twin"]), sample_tree, none(sample_tree))


def test_a_stage_without_any_pair_is_refused(sample_tree: Tree) -> None:
    two = Tree.from_codes(["11", "21"])
    with pytest.raises(SettingsError, match="stage s: no pair"):
        pair_mask(stage(positive_levels=[2]), two, none(two))


def test_a_pair_is_none_whose_negatives_are_all_held_out() -> None:
    family = Tree.from_codes(["11", "111", "112", "113"])
    held_out = none(family)
    held_out[1, [2, 3]] = held_out[[2, 3], 1] = True
    given = stage(positive_levels=[2], positive_distance_max=None)
    assert np.argwhere(pair_mask(given, family, none(family))).tolist() == [[1, 0], [2, 0], [3, 0]]
    assert np.argwhere(pair_mask(given, family, none(family), held_out)).tolist() == [[2, 0], [3, 0]]
    held_out[2, 3] = held_out[3, 2] = True
    with pytest.raises(SettingsError, match="stage s: no pair"):
        pair_mask(given, family, none(family), held_out)


def test_at_most_max_positives_an_anchor(sample_tree: Tree) -> None:
    allowed = pair_mask(stage(), sample_tree, none(sample_tree))
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
    sampler = buckets(sample_tree, excluded)
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
    sampler = buckets(sample_tree, excluded, {1: 0.75, 6: 0.25}, 8)
    counts = np.stack([np.arange(9) * 0 + 20, [0, 20, 0, 0, 0, 0, 1, 0, 0]])
    taken, _ = sampler.allocate(counts)
    assert taken[0, [1, 6]].tolist() == [6, 2]
    # One short in bucket 6: the next easier bucket that has codes gives it.
    assert taken[1, [1, 6]].tolist() == [7, 1]


def test_fallback_is_easier_first_then_harder_and_k_always_come_out(sample_tree: Tree, excluded: np.ndarray) -> None:
    sampler = buckets(sample_tree, excluded, {5: 1.0}, 4)
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
    sampler, state = buckets(sample_tree, excluded, {7: 1.0}, 4), CurriculumState()
    assert state.shortfall() is None
    drawn = sampler.draw(some_pairs(sample_tree).at(slice(20)), state, np.random.default_rng(0))
    state.count(drawn.counts(), drawn.asked, drawn.short)
    assert "bucket 7 lacked 59 of 80" in state.shortfall()
    assert sum(state.logged(stage()).values()) == pytest.approx(1)
    resumed = CurriculumState()
    resumed.load_state_dict(state.state_dict())
    assert resumed.logged(stage()) == state.logged(stage())


def test_negatives_repeat_in_a_taxonomy_smaller_than_k() -> None:
    tiny = Tree.from_codes(["11", "111", "112"])
    sampler = buckets(tiny, none(tiny), {1: 1.0})
    pair = Pairs(np.array([1]), np.array([0]))
    negative = sampler.draw(pair, CurriculumState(), np.random.default_rng(0)).codes
    assert set(negative[0]) == {2}
    assert negative.shape == (1, 16)


def test_an_epoch_is_reproducible_and_differs_from_another(sample_tree: Tree, excluded: np.ndarray) -> None:
    def draw(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        pairs = draw_pairs(pair_mask(stage(), sample_tree, none(sample_tree)), 3, generator)
        return buckets(sample_tree, excluded).draw(pairs, CurriculumState(), generator).codes

    assert (draw(0) == draw(0)).all()
    assert (draw(0) != draw(1)).any()
    assert draw(0).shape[1] == 16


def test_held_out_pairs_are_never_negatives(sample_tree: Tree, excluded: np.ndarray) -> None:
    held_out = held_out_pairs(sample_tree, 0.3)
    sampler = buckets(sample_tree, excluded, held_out=held_out)
    pairs = some_pairs(sample_tree)
    negative = sampler.draw(pairs, CurriculumState(), np.random.default_rng(1)).codes
    assert not held_out[pairs.anchor[:, None], negative].any()
    free = buckets(sample_tree, excluded).draw(pairs, CurriculumState(), np.random.default_rng(1)).codes
    assert held_out[pairs.anchor[:, None], free].any()


# Every policy

BUCKETS = specs.Buckets(difficulty_buckets=[1, 6], bucket_percentages={1: 0.5, 6: 0.5})
POLICIES = {
    "buckets": BUCKETS,
    "tree_distance": TreeDistance(mask_siblings=True, exclusion_boost=3.0),
    "near_far": NearFar(),
    "mined": Mined(rest=BUCKETS),
    "mined of the batch": Mined(rest=BUCKETS, pool="batch"),
    "router_guided": RouterGuided(share=0.25, rest=Mined(rest=NearFar())),
}


def apart(tree: Tree, seed: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(len(tree), 3))
    return np.linalg.norm(points[:, None] - points, axis=-1)


@pytest.fixture
def state(sample_tree: Tree) -> CurriculumState:
    state = CurriculumState()
    state.see("points", apart(sample_tree, 0))
    state.see("gates", apart(sample_tree, 1))
    return state


def drawn(policy: NegativePolicy, pairs: Pairs, state: CurriculumState, seed: int = 0) -> np.ndarray:
    return policy.draw(pairs, state, np.random.default_rng(seed)).codes


@pytest.mark.parametrize("name", POLICIES)
def test_whatever_the_policy_negatives_are_farther_distinct_seen_and_as_hard_as_said(
    sample_tree: Tree, excluded: np.ndarray, state: CurriculumState, name: str
) -> None:
    held_out = held_out_pairs(sample_tree, 0.3)
    candidates = Candidates.of(sample_tree, excluded, held_out)
    policy, pairs = policy_of(POLICIES[name], candidates, 16), some_pairs(sample_tree).at(slice(600))
    found = policy.draw(pairs, state, np.random.default_rng(0))
    distance = sample_tree.distance()
    assert found.codes.shape == (600, 16)
    assert (distance[pairs.anchor[:, None], found.codes] > distance[pairs.anchor, pairs.positive][:, None]).all()
    assert not held_out[pairs.anchor[:, None], found.codes].any()
    assert (np.diff(np.sort(found.codes, axis=1), axis=1) > 0).all()
    np.testing.assert_array_equal(found.hardness, hardness_of(candidates, pairs, found.codes))
    np.testing.assert_array_equal(drawn(policy, pairs, state), found.codes)
    assert (drawn(policy, pairs, state, 1) != found.codes).any()


@pytest.mark.parametrize("name", POLICIES)
def test_whatever_the_policy_k_come_out_of_a_taxonomy_of_fewer(name: str) -> None:
    tiny = Tree.from_codes(["11", "111", "112", "1121", "21", "211"])
    state = CurriculumState()
    for by in ("points", "gates"):
        state.see(by, apart(tiny, 0))
    pairs = Pairs(np.array([1, 1, 3]), np.array([0, 2, 2]))
    found = drawn(policy_of(POLICIES[name], Candidates.of(tiny, none(tiny)), 16), pairs, state)
    distance = tiny.distance()
    for anchor, positive, codes in zip(pairs.anchor, pairs.positive, found, strict=True):
        assert len(codes) == 16
        assert set(codes) <= set(np.flatnonzero(distance[anchor] > distance[anchor, positive]))


def test_by_tree_distance_each_code_is_as_likely_as_its_weight(sample_tree: Tree, excluded: np.ndarray) -> None:
    candidates = Candidates.of(sample_tree, excluded)
    pairs = some_pairs(sample_tree).at(slice(1))
    anchor, positive = int(pairs.anchor[0]), int(pairs.positive[0])
    many = Pairs(np.repeat(pairs.anchor, 60_000), np.repeat(pairs.positive, 60_000))
    policy = policy_of(TreeDistance(alpha=2.0, exclusion_boost=4.0), candidates, 1)
    found = np.bincount(drawn(policy, many, CurriculumState())[:, 0], minlength=len(sample_tree)) / 60_000
    farther = sample_tree.distance()[anchor] > sample_tree.distance()[anchor, positive]
    weight = np.where(farther, np.maximum(sample_tree.tree_distance()[anchor], 1.0) ** -2.0, 0)
    weight *= np.where(excluded[anchor], 4.0, 1.0)
    np.testing.assert_allclose(found, weight / weight.sum(), atol=0.005)


def test_masked_siblings_come_only_where_there_is_nothing_else(sample_tree: Tree, excluded: np.ndarray) -> None:
    children = stage(positive_levels=[6], positive_relations=["child"], positive_distance_max=None)
    anchors = draw_pairs(pair_mask(children, sample_tree, excluded), None, np.random.default_rng(0))
    sibling = sample_tree.parent[:, None] == sample_tree.parent

    def share(mask: bool) -> float:
        spec = TreeDistance(alpha=3.0, mask_siblings=mask)
        found = drawn(policy_of(spec, Candidates.of(sample_tree, excluded), 16), anchors, CurriculumState())
        return float(sibling[anchors.anchor[:, None], found].mean())

    assert share(True) == 0
    assert share(False) > 0.05
    family = Tree.from_codes(["11", "111", "112", "113"])
    alone = Pairs(np.array([1]), np.array([0]))
    policy = policy_of(TreeDistance(mask_siblings=True), Candidates.of(family, none(family)), 2)
    assert set(drawn(policy, alone, CurriculumState())[0]) == {2, 3}


def test_near_and_far_come_in_their_shares(sample_tree: Tree) -> None:
    pairs = some_pairs(sample_tree)
    near = (sample_tree.distance() <= 4.0) & (sample_tree.distance() > 3.0)
    pairs = pairs.at(np.flatnonzero(near[pairs.anchor].sum(axis=1) >= 13))
    found = drawn(policy_of(NearFar(), Candidates.of(sample_tree, none(sample_tree)), 20), pairs, CurriculumState())
    assert len(pairs.anchor) > 100
    distance = sample_tree.distance()[pairs.anchor[:, None], found]
    np.testing.assert_array_equal((distance <= 4.0).sum(axis=1), 13)


@pytest.mark.parametrize("spec", [Mined(share=0.5, rest=NearFar()), RouterGuided(share=0.5, rest=NearFar())])
def test_the_nearest_are_the_nearest(sample_tree: Tree, state: CurriculumState, spec: Mined | RouterGuided) -> None:
    pairs = some_pairs(sample_tree).at(slice(200))
    found = drawn(policy_of(spec, Candidates.of(sample_tree, none(sample_tree)), 8), pairs, state)
    far = state.look["points" if spec.kind == "mined" else "gates"]
    distance = sample_tree.distance()
    for anchor, positive, codes in zip(pairs.anchor, pairs.positive, found, strict=True):
        allowed = np.flatnonzero(distance[anchor] > distance[anchor, positive])
        assert set(allowed[np.argsort(far[anchor, allowed])[:4]]) <= set(codes)


def test_from_the_batch_only_its_codes_are_mined(sample_tree: Tree, state: CurriculumState) -> None:
    pairs = some_pairs(sample_tree).at(slice(40))
    spec = Mined(share=1.0, pool="batch", rest=NearFar())
    found = drawn(policy_of(spec, Candidates.of(sample_tree, none(sample_tree)), 4), pairs, state)
    assert set(found.ravel()) <= {*pairs.anchor, *pairs.positive}


def test_positives_may_be_ancestors_alone_or_beside_an_exclusion(sample_tree: Tree, excluded: np.ndarray) -> None:
    levels = {"positive_levels": [2, 3, 4, 5], "positive_distance_max": None}
    anchor, positive = np.nonzero(pair_mask(stage(pairs="ancestors", **levels), sample_tree, excluded))
    ancestors = sample_tree.ancestors()
    assert (ancestors[anchor, sample_tree.level[positive] - 2] == positive).all()
    # Of every six-digit code all four, unless one is held by nothing farther away.
    deepest = np.flatnonzero(sample_tree.level == 6)
    assert (np.bincount(anchor, minlength=len(sample_tree))[deepest] == 4).all()
    beside = pair_mask(stage(pairs="exclusions"), sample_tree, excluded)
    distance = sample_tree.distance()
    for anchor, positive in zip(*np.nonzero(beside), strict=True):
        assert (distance[anchor, excluded[anchor]] > distance[anchor, positive]).any()
    assert 0 < beside.sum() < pair_mask(stage(), sample_tree, excluded).sum()
