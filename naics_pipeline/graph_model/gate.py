"""Whether refined embeddings may take the text embeddings' place."""

import math
from collections.abc import Mapping

# Metric → the least that refinement must add to it.
LEAST_GAIN = {"cophenetic_correlation": -0.02, "ndcg@10": -0.01, "parent_retrieval@1": 0.05}
GOOD_ENOUGH = {"parent_retrieval@1": 0.95}


def gate(text: Mapping[str, float], refined: Mapping[str, float]) -> list[str]:
    """What speaks against the refined embeddings, a sentence each; empty where they pass.

    Args:
        text, refined: the metrics of `evaluation.structure` before and after. One that the taxonomy does not define
            (NaN before) is not asked for.
    """
    failures = []
    for metric, least in LEAST_GAIN.items():
        before, after = text[metric], refined[metric]
        if math.isnan(before):
            continue
        if before >= GOOD_ENOUGH.get(metric, math.inf):
            # Good already: nothing to gain, and nothing to lose either.
            least = GOOD_ENOUGH[metric] - before
        if not after - before >= least - 1e-12:
            failures.append(
                f"{metric} went from {before:.4f} to {after:.4f}: a change of {after - before:+.4f}, "
                f"at least {least:+.4f} is asked for."
            )
    return failures
