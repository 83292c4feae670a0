"""Losses against values worked out by hand."""

import math

import pytest
import torch

from naics_pipeline.text_model.losses.balance import balance_loss, choices
from naics_pipeline.text_model.losses.contrastive import contrastive_loss, norm_adaptive_margin
from naics_pipeline.text_model.losses.hierarchy import hierarchy_loss
from naics_pipeline.text_model.losses.neighbour import neighbour_loss
from naics_pipeline.text_model.losses.query import query_loss, query_targets, rank_of_truth
from naics_pipeline.text_model.losses.radius import radius_loss

POSITIVE = torch.tensor([1.0, 2.0])
NEGATIVE = torch.tensor([[2.0, 3.0], [2.0, 2.0]])


def test_dcl_leaves_the_positive_out_of_the_sum() -> None:
    first = 1.0 / 0.5 + math.log(math.exp(-4) + math.exp(-6))
    second = 2.0 / 0.5 + math.log(2 * math.exp(-4))
    assert contrastive_loss(POSITIVE, NEGATIVE, 0.5, "dcl").item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_infonce_is_cross_entropy_of_the_positive() -> None:
    logits = -torch.cat([POSITIVE[:, None], NEGATIVE], dim=1) / 0.5
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(2, dtype=torch.long))
    assert contrastive_loss(POSITIVE, NEGATIVE, 0.5, "infonce").item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_infinite_negative_counts_for_nothing() -> None:
    masked = torch.cat([NEGATIVE, torch.full((2, 1), math.inf)], dim=1).requires_grad_()
    loss = contrastive_loss(POSITIVE, masked, 0.5, "dcl")
    assert loss.item() == pytest.approx(contrastive_loss(POSITIVE, NEGATIVE, 0.5, "dcl").item())
    loss.backward()
    assert torch.isfinite(masked.grad).all()


def test_margin_shrinks_with_the_radius() -> None:
    margin = norm_adaptive_margin(torch.tensor([0.0, 1.0, 5.0]), 0.5)
    assert margin[0] == 0.5
    assert (margin.diff() < 0).all()


def test_hierarchy_is_zero_only_for_distances_proportional_to_the_tree() -> None:
    tree = torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.0, 2.0], [4.0, 2.0, 0.0]])
    assert hierarchy_loss(3 * tree, tree, 3.0).item() == 0
    near, far = tree.clone(), tree.clone()
    near[0, 1] += 1
    far[0, 2] += 1
    assert hierarchy_loss(near, tree, 1.0) == pytest.approx(4 * hierarchy_loss(far, tree, 1.0).item())


def test_radius_loss_wants_each_level_one_edge_farther_out() -> None:
    level = torch.tensor([2, 2, 3, 6])
    assert radius_loss(2 * torch.tensor([1.2, 1.4, 2.3, 5.3]), level, 2.0).item() == pytest.approx(0, abs=1e-10)
    assert radius_loss(torch.tensor([2.3, 2.3, 2.3, 5.3]), level, 1.0).item() == pytest.approx(1 / 3)


def test_balance_is_one_when_balanced_and_e_when_collapsed() -> None:
    balanced = torch.eye(4).repeat(3, 1)
    collapsed = torch.eye(4)[[0]].repeat(12, 1)
    assert balance_loss(balanced, 1).item() == pytest.approx(1)
    assert balance_loss(collapsed, 1).item() == pytest.approx(4)


def test_experts_that_earlier_batches_of_a_step_chose_count_in_the_balance() -> None:
    first, second = torch.rand(12, 4).softmax(-1), torch.rand(8, 4).softmax(-1)
    before = choices(first, 2)
    assert before.sum() == 24
    share = (before + choices(second, 2)) / 40
    assert balance_loss(second, 2, before).item() == pytest.approx(float(4 * (share * second.mean(0)).sum()), rel=1e-5)


def test_query_targets_are_sharp_at_a_leaf_and_even_over_a_broad_codes_leaves() -> None:
    leaf = query_targets(torch.tensor([[0.0, 2.0, 10.0]]), 0.0)
    assert leaf[0, 0] > 0.999
    broad = query_targets(torch.tensor([[1.0, 1.0, 9.0]]), 0.0)
    assert broad[0, 0] == broad[0, 1] > 0.49
    graded = query_targets(torch.tensor([[0.0, 2.0, 10.0]]), 0.2)
    assert graded[0, 0] > graded[0, 1] > graded[0, 2]
    assert graded[0, 1] > leaf[0, 1]
    assert graded.sum().item() == pytest.approx(1)


def test_query_loss_falls_towards_the_truth_and_rises_with_a_confusing_code() -> None:
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    confusing = torch.tensor([[False, True, False]])
    near, far = torch.tensor([[0.5, 2.0, 2.0]]), torch.tensor([[2.0, 2.0, 2.0]])
    assert query_loss(near, targets, 0.3, nothing, 0.5) < query_loss(far, targets, 0.3, nothing, 0.5)
    assert query_loss(near, targets, 0.3, confusing, 0.5) > query_loss(near, targets, 0.3, nothing, 0.5)


def test_pairs_left_out_have_no_part_in_the_query_loss() -> None:
    tree = torch.tensor([[0.0, 2.0, 4.0, 10.0]])
    left_out = torch.tensor([[False, True, False, False]])
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    targets = query_targets(tree.masked_fill(left_out, torch.inf), 0.2)
    distances = torch.tensor([[0.5, 1.0, 2.0, 3.0]], requires_grad=True)
    loss = query_loss(distances, targets, 0.3, nothing, 0.5, left_out)
    rest = ~left_out[0]
    without = query_loss(distances[:, rest], query_targets(tree[:, rest], 0.2), 0.3, nothing[:, rest], 0.5)
    assert loss.item() == pytest.approx(without.item())
    (gradient,) = torch.autograd.grad(loss, distances)
    assert gradient[0, 1] == 0
    assert gradient.isfinite().all()


def test_neighbour_loss_is_the_share_of_a_code_in_all_texts_that_count() -> None:
    distances = torch.tensor([[1.0, 2.0, 3.0, 0.0]], requires_grad=True)
    seen, owner = torch.tensor([[True, True, True, False]]), torch.tensor([1, 0, 1, 0])
    loss = neighbour_loss(distances, seen, owner, torch.tensor([[0.05, 0.95]]), 0.5)
    mass = [math.exp(-4), math.exp(-2) + math.exp(-6)]
    expected = -sum(target * math.log(of_code / sum(mass)) for target, of_code in zip((0.05, 0.95), mass, strict=True))
    assert loss.item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(loss, distances)
    # Of two texts of its code the nearer one draws it more.
    assert gradient[0, 0] > gradient[0, 2] > gradient[0, 3] == 0
    assert gradient[0, 1] < 0


def test_rank_of_truth_counts_the_nearer_leaves() -> None:
    distances = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    assert rank_of_truth(distances, torch.tensor([0, 0])).tolist() == [0, 2]
