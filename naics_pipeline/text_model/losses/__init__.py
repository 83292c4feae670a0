"""The terms of the objective: one loss a file, each a function of a `View`, by the name of its weight in the settings.

A new one is a file with a `term`, a line below, and a weight in `settings.Objective`.
"""

from naics_pipeline.text_model.losses import (
    attraction,
    balance,
    contrastive,
    hierarchy,
    neighbour,
    query,
    radius,
    rank,
    retention,
)
from naics_pipeline.text_model.losses.view import Loss

LOSSES: dict[str, Loss] = {
    "contrastive": contrastive.term,
    "query": query.term,
    "neighbour": neighbour.term,
    "hierarchy": hierarchy.term,
    "rank": rank.term,
    "radius": radius.term,
    "balance": balance.term,
    "attraction": attraction.term,
    "retention": retention.term,
}
