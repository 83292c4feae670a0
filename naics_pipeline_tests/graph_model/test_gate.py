"""The gate before everything that is built from refined embeddings."""

import math

import pytest

from naics_pipeline.graph_model.gate import gate

TEXT = {"cophenetic_correlation": 0.93, "ndcg@10": 0.5, "parent_retrieval@1": 0.8}


def test_what_gains_enough_passes() -> None:
    assert gate(TEXT, {"cophenetic_correlation": 0.91, "ndcg@10": 0.49, "parent_retrieval@1": 0.85}) == []


@pytest.mark.parametrize(
    ("metric", "after"), [("cophenetic_correlation", 0.9099), ("ndcg@10", 0.4899), ("parent_retrieval@1", 0.8499)]
)
def test_each_loss_is_named_with_both_values(metric: str, after: float) -> None:
    (failure,) = gate(TEXT, TEXT | {"parent_retrieval@1": 0.9} | {metric: after})
    assert metric in failure
    assert f"{TEXT[metric]:.4f}" in failure
    assert f"{after:.4f}" in failure


def test_a_parent_retrieval_that_was_good_need_not_gain_but_must_stay_good() -> None:
    text = TEXT | {"parent_retrieval@1": 0.97}
    assert gate(text, text | {"parent_retrieval@1": 0.96}) == []
    assert len(gate(text, text | {"parent_retrieval@1": 0.94})) == 1


def test_what_the_taxonomy_does_not_define_is_not_asked_for_but_a_metric_that_broke_fails() -> None:
    undefined = TEXT | {"parent_retrieval@1": math.nan}
    assert gate(undefined, undefined) == []
    assert len(gate(TEXT, TEXT | {"parent_retrieval@1": math.nan})) == 1
