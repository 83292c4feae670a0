"""What each metric is called, which way is better, and how to read it in one line."""

from dataclasses import dataclass, replace
from typing import Literal

Better = Literal["higher", "lower"] | None


@dataclass(frozen=True)
class Metric:
    """A metric as a reader meets it.

    Attributes:
        better: the direction that counts as better; None where neither does.
        digits: decimals shown.
    """

    name: str
    label: str
    reading: str
    better: Better = "higher"
    digits: int = 3


MAIN_STRUCTURE = (
    Metric("cophenetic_correlation", "Cophenetic correlation", "Do far codes lie far apart? Pearson over all pairs."),
    Metric("spearman_correlation", "Spearman correlation", "The same by rank: only the order of distances counts."),
    Metric("ndcg@10", "NDCG@10", "Are the ten nearest codes the closest relatives, nearest kin first?"),
    Metric("parent_retrieval@1", "Parent found first", "Share of codes whose nearest code one level up is the parent."),
    Metric("map_edges", "Edge MAP", "Do parent and children come before all other codes?"),
    Metric("sector_auc", "Sector AUC", "Chance that a pair from one sector is closer than a pair from two."),
    Metric("distortion_mean", "Mean distortion", "Mean relative error of distances at the best scale.", "lower"),
    Metric("radius_monotonicity", "Radius monotonicity", "Share of children farther from the origin than the parent."),
)
MORE_STRUCTURE = (
    Metric("cophenetic_correlation_within_sector", "Cophenetic, within sectors", "Same-sector pairs only."),
    Metric("spearman_correlation_within_sector", "Spearman, within sectors", "Same-sector pairs only."),
    Metric("ndcg@5", "NDCG@5", "As NDCG@10, for the five nearest."),
    Metric("ndcg@20", "NDCG@20", "As NDCG@10, for the twenty nearest."),
    Metric(
        "parent_retrieval@5", "Parent among first five", "Codes with the parent among the five nearest one level up."
    ),
    Metric("child_recall@5", "Child recall@5", "Share of children among the five nearest codes one level down."),
    Metric("sibling_precision@5", "Sibling precision@5", "Share of siblings among the five nearest of the level."),
    Metric("sibling_precision@10", "Sibling precision@10", "Share of siblings among the ten nearest of the level."),
    Metric("sector_purity@10", "Sector purity@10", "Share of the ten nearest codes that lie in the same sector."),
    Metric("mean_rank_edges", "Mean edge rank", "Rank of parent and children among strangers; 1 is first.", "lower", 2),
    Metric("distortion_median", "Median distortion", "Median relative error of distances.", "lower"),
    Metric("distortion_worst", "Worst-case distortion", "Most stretched pair over most shrunk pair.", "lower", 2),
    Metric("radius_mean_level_2", "Mean radius, sectors", "Mean distance of sectors from the origin.", None, 2),
    Metric("radius_mean_level_3", "Mean radius, 3 digits", "Mean distance from the origin.", None, 2),
    Metric("radius_mean_level_4", "Mean radius, 4 digits", "Mean distance from the origin.", None, 2),
    Metric("radius_mean_level_5", "Mean radius, 5 digits", "Mean distance from the origin.", None, 2),
    Metric("radius_mean_level_6", "Mean radius, 6 digits", "Mean distance from the origin.", None, 2),
    Metric("manifold_violation_max", "Largest manifold violation", "Points stay on the hyperboloid: 0.", "lower", 9),
    Metric("collapse", "Collapsed", "Distances hardly vary, or many points coincide: should be no.", None, 0),
)
TASKS = (
    Metric("classify_sector", "Sector told", "Told by a linear classifier for subsectors that its fit never saw."),
    Metric("classify_subsector", "Subsector told", "Likewise, for four-digit families that the fit never saw."),
    *(
        Metric(f"vote_digits_{n}", f"Neighbours’ vote, {n} digits", "Most of a code’s five nearest are of its family.")
        for n in (2, 3, 4, 5)
    ),
    *(
        Metric(f"cluster_{name}_digits_{n}", f"{label}, {n} digits", reading)
        for name, label, reading in (
            ("purity", "Dendrogram purity", "How pure the smallest cluster is that holds two codes of one family."),
            ("ari", "Adjusted Rand index", "Clusters against families, by pairs of codes; 0 is chance."),
            (
                "nmi",
                "Mutual information",
                "Clusters against families, normalized; small ones get much by chance.",
            ),
        )
        for n in (2, 3, 4, 5)
    ),
)
QUERIES = (
    Metric("query_top1", "Top 1", "Share of entries whose nearest six-digit code is the right one."),
    Metric("query_top5", "Top 5", "Share whose right code is among the five nearest."),
    Metric("query_top10", "Top 10", "Share whose right code is among the ten nearest."),
    Metric("query_mrr", "MRR", "Mean of one over the rank of the right code."),
    Metric("query_top1_digits_2", "2 digits", "Nearest code lies in the right sector."),
    Metric("query_top1_digits_3", "3 digits", "Nearest code agrees in three digits."),
    Metric("query_top1_digits_4", "4 digits", "Nearest code agrees in four digits."),
    Metric("query_top1_digits_5", "5 digits", "Nearest code agrees in five digits."),
    Metric("query_hierarchical_f1", "Hierarchical F1", "Share of ancestors common to nearest and right code."),
)
UNREPEATED = Metric(
    "unrepeated/query_top1", "Top 1, unrepeated", "Top 1 without entries that Census says elsewhere, too."
)
CALIBRATION = (
    Metric("calibration_error", "Calibration error", "Distance of probability and share right, over 15 bins.", "lower"),
    Metric("calibration_error_digits_4", "Error, 4 digits", "The same of the likeliest industry group.", "lower"),
    Metric("calibration_error_digits_2", "Error, 2 digits", "The same of the likeliest sector.", "lower"),
    Metric("brier", "Brier score", "Mean squared distance of probability and outcome of the first answer.", "lower"),
    Metric("answered_at_95", "Answered at 95 %", "Share of texts that can be answered with 95 % of the answers right."),
    Metric("answered_at_95_digits_4", "Answered, 4 digits", "Likewise, with industry groups for an answer."),
    Metric("answered_at_95_digits_2", "Answered, 2 digits", "Likewise, with sectors for an answer."),
)
LABELLED = (
    Metric("labelled/top1", "Top 1", "Share of texts whose nearest six-digit code is one of their right codes."),
    Metric("labelled/top5", "Top 5", "Share of texts with a right code among the five nearest."),
    Metric("labelled/top10", "Top 10", "Share of texts with a right code among the ten nearest."),
)
STAGE_TEXTS = (
    Metric("validation/query_top1", "Validation, top 1", "Entries on which settings are chosen."),
    Metric("validation/query_mrr", "Validation, MRR", "Entries on which settings are chosen."),
    Metric("query_top1", "Held out, top 1", "Entries on which nothing is chosen."),
    Metric("query_top5", "Held out, top 5", "Entries on which nothing is chosen."),
    Metric("query_mrr", "Held out, MRR", "Entries on which nothing is chosen."),
    Metric("labelled/top1", "Labelled, top 1", "Labelled texts of a user's own."),
    Metric("labelled/top10", "Labelled, top 10", "Labelled texts of a user's own."),
)
BY_NAME = {metric.name: metric for metric in (*MAIN_STRUCTURE, *MORE_STRUCTURE, *TASKS, *QUERIES)}
SHARES = {*QUERIES, UNREPEATED, *LABELLED}

_KNOWN = {metric.name: metric for metric in (*BY_NAME.values(), UNREPEATED, *CALIBRATION, *LABELLED)}


def by_name(name: str) -> Metric:
    """The metric of that name; words before it (validation/, mixed/, ...) change what it is of, not how it is read."""
    leaf = name.rpartition("/")[2]
    known = _KNOWN.get(name) or _KNOWN.get(leaf) or _KNOWN.get(f"labelled/{leaf}")
    if known is None:
        return Metric(name, name, "", None)
    return (
        known if known.name == name else replace(known, name=name, label=f"{known.label} ({name.rpartition('/')[0]})")
    )


READOUTS = {
    "code": "the code’s point",
    "nearest_entry": "nearest entry",
    "centroid": "centroid of its texts",
    "mixed": "all three mixed",
    "lexical": "words",
    "related_words": "related words",
    "linear": "linear",
    "definition": "definition",
    "blend": "all blended",
    "blend_without_code": "blended without the code’s point",
    "blend_without_nearest_entry": "blended without nearest entry",
    "blend_without_centroid": "blended without centroid",
    "blend_without_lexical": "blended without words",
    "blend_without_related_words": "blended without related words",
    "blend_without_linear": "blended without linear",
    "blend_without_definition": "blended without definition",
    "parts": "with parts",
    "mixed_parts": "all three mixed, with parts",
}
"""How a text's nearness to a code is read from a space; in a metric's name every one but the first is a word of it."""

VARIANTS = {
    "text": "Text model",
    "smoothed": "Smoothed (control)",
    "refined": "Refined by the graph",
    "tfidf": "TF\u2011IDF",
    "linear_svm": "Linear SVM",
    "frozen_text": "Base model, frozen",
    "frozen_centroid": "Base model, centroid",
    "frozen_nearest_entry": "Base model, nearest entry",
    "frozen_mixed": "Base model, both mixed",
}
