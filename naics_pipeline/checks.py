"""Asset checks: what must hold of the outputs before anything is built on them. One process per group of checks."""

from collections.abc import Iterable
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from naics_pipeline.config import Config
from naics_pipeline.errors import ModelError
from naics_pipeline.storage import Store
from naics_pipeline.taxonomy import text
from naics_pipeline.taxonomy.tree import UNRELATED, UNRELATED_DISTANCE, parent_of, sector_of

CODES_BY_LEVEL = {
    2017: {2: 20, 3: 99, 4: 311, 5: 709, 6: 1057},
    2022: {2: 20, 3: 96, 4: 308, 5: 689, 6: 1012},
}
QUADRUPLES = 100_000
LARGEST_VIOLATION = 1e-6


def _spec(asset: str, name: str, description: str, *, blocking: bool = True) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=asset, description=description, blocking=blocking)


def _frame(store: Store, asset: str) -> pl.DataFrame:
    return pl.read_parquet(store.local(f"{asset}.parquet"))


def _result(
    asset: str,
    name: str,
    passed: bool,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    **metadata: Any,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=asset, check_name=name, passed=bool(passed), severity=severity, metadata=metadata
    )


@dg.multi_asset_check(
    specs=[
        _spec("descriptions", "complete_vintage", "All codes of the vintage are there, level by level."),
        _spec("descriptions", "every_code_is_described", "Every code has a parent, a title and a description."),
        _spec("descriptions", "nothing_held_out", "No unseen entry is an example or an excluded activity of any code."),
    ]
)
def descriptions_checks(
    conf: dg.ResourceParam[Config], store: dg.ResourceParam[Store]
) -> Iterable[dg.AssetCheckResult]:
    """The codes and their texts."""
    descriptions = _frame(store, "descriptions")
    yield complete_vintage(descriptions, conf.settings.source, conf.settings.vintage)
    yield every_code_is_described(descriptions)
    yield nothing_held_out(descriptions, _frame(store, "index_entries"))


@dg.multi_asset_check(specs=[_spec("activity_phrases", "nothing_held_out", "No unseen index entry is an activity.")])
def activity_phrases_checks(store: dg.ResourceParam[Store]) -> Iterable[dg.AssetCheckResult]:
    """The activities of the cross-references."""
    leaked = unseen_entries(_frame(store, "activity_phrases"), "phrase", _frame(store, "index_entries"))
    yield _result("activity_phrases", "nothing_held_out", leaked.is_empty(), leaked=str(leaked.rows()[:5]))


def complete_vintage(descriptions: pl.DataFrame, source: str, vintage: int) -> dg.AssetCheckResult:
    """The bundled sample is a part by design; a directory may hold one on purpose, so that there it only warns."""
    found = dict(descriptions.group_by("level").len().sort("level").iter_rows())
    published = CODES_BY_LEVEL[vintage]
    severity = dg.AssetCheckSeverity.ERROR if source == "census" else dg.AssetCheckSeverity.WARN
    passed = source == "sample" or found == published
    return _result("descriptions", "complete_vintage", passed, severity, found=str(found), published=str(published))


def every_code_is_described(descriptions: pl.DataFrame) -> dg.AssetCheckResult:
    codes = set(descriptions["code"])
    orphans = [code for code in codes if (parent := parent_of(code)) is not None and parent not in codes]
    empty = descriptions.filter(
        pl.any_horizontal(pl.col("title", "description").fill_null("").str.strip_chars() == "")
    )["code"].to_list()
    return _result(
        "descriptions", "every_code_is_described", not orphans and not empty, without_parent=orphans, without_text=empty
    )


def nothing_held_out(descriptions: pl.DataFrame, entries: pl.DataFrame) -> dg.AssetCheckResult:
    """What was put together here must hold no unseen entry; what Census itself says again is counted."""
    examples = descriptions.select("code", phrase="examples").explode("phrase", empty_as_null=True).drop_nulls("phrase")
    leaked = unseen_entries(pl.concat([examples, text.excluded_phrases(descriptions)]), "phrase", entries)
    unseen = entries.filter(pl.col("split") != text.TRAIN).select("split", key=text.normalised("entry"))
    again = {
        "equal_a_title": descriptions.select(key=text.normalised("title")),
        "inside_a_description": text.unseen_within(descriptions, "description", entries),
        "inside_an_exclusion": text.unseen_within(descriptions.drop_nulls("excluded"), "excluded", entries),
        "equal_a_training_entry": entries.filter(split=text.TRAIN).select(key=text.normalised("entry")),
    }
    counts: dict[str, Any] = {
        f"{split}_{place}": unseen.filter(split=split).join(found, on="key", how="semi").height
        for place, found in again.items()
        for split in (text.HELD_OUT, text.VALIDATION)
    }
    return _result("descriptions", "nothing_held_out", leaked.is_empty(), leaked=str(leaked.rows()[:5]), **counts)


def unseen_entries(phrases: pl.DataFrame, column: str, entries: pl.DataFrame) -> pl.DataFrame:
    """The rows (code, phrase) that equal an unseen index entry of any code, case and punctuation aside."""
    unseen = entries.filter(pl.col("split") != text.TRAIN).select(key=text.normalised("entry"))
    return phrases.with_columns(key=text.normalised(column)).join(unseen, on="key", how="semi").select("code", column)


@dg.multi_asset_check(
    specs=[
        _spec("distances", "every_pair_once", "Every unordered pair stands once, i < j: distances are symmetric."),
        _spec("distances", "four_point_condition", "tree_distance is a tree metric, on a sample of quadruples."),
        _spec("relations", "strangers_are_unrelated", "Codes are unrelated exactly where their sectors differ."),
    ],
    can_subset=True,
)
def pair_checks(
    context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[Store]
) -> Iterable[dg.AssetCheckResult]:
    """Every pair of codes; either of the two tables may have been made alone."""
    made = {key.asset_key.path[-1] for key in context.selected_asset_check_keys}
    if "distances" in made:
        distances = _frame(store, "distances")
        matrix = distance_matrix(distances, "tree_distance")
        codes = _frame(store, "descriptions")["code"].sort()
        yield _result("distances", "every_pair_once", each_pair_once(distances, codes), codes=len(codes))
        broken = four_point_violations(matrix, QUADRUPLES)
        yield _result("distances", "four_point_condition", broken == 0, quadruples=QUADRUPLES, violations=broken)
    if "relations" in made:
        wrong = misjudged_strangers(_frame(store, "relations"))
        yield _result("relations", "strangers_are_unrelated", wrong == 0, misjudged_pairs=wrong)


def misjudged_strangers(relations: pl.DataFrame) -> int:
    """How many pairs are called unrelated within a sector, or related across sectors."""
    sector = {code: sector_of(code) for code in {*relations["code_i"], *relations["code_j"]}}
    across = pl.col("code_i").replace(sector) != pl.col("code_j").replace(sector)
    return relations.filter(across != (pl.col("relation_id") == UNRELATED)).height


def each_pair_once(distances: pl.DataFrame, codes: pl.Series) -> bool:
    """Whether the rows are the upper triangle of these codes, in order, with a positive finite distance each."""
    first, second = np.triu_indices(len(codes), k=1)
    return (
        distances.height == len(first)
        and np.array_equal(distances["idx_i"], first)
        and np.array_equal(distances["idx_j"], second)
        and distances["code_i"].equals(codes.gather(first))
        and distances["code_j"].equals(codes.gather(second))
        and bool((distances["distance"].is_finite() & (distances["distance"] > 0)).all())
    )


def distance_matrix(distances: pl.DataFrame, column: str) -> np.ndarray:
    """(N, N), symmetric, zero diagonal."""
    i, j, value = (distances[name].to_numpy() for name in ("idx_i", "idx_j", column))
    matrix = np.zeros((int(j.max()) + 1,) * 2, dtype=value.dtype)
    matrix[i, j] = matrix[j, i] = value
    return matrix


def four_point_violations(matrix: np.ndarray, quadruples: int, seed: int = 0) -> int:
    """How many of random quadruples break d(a,b) + d(c,d) <= max(d(a,c) + d(b,d), d(a,d) + d(b,c)).

    The condition holds for every quadruple exactly where the distances are those of a tree (Buneman, 1974).
    """
    a, b, c, d = np.random.default_rng(seed).integers(len(matrix), size=(4, quadruples))
    wide = matrix.astype(np.float64)
    sums = np.sort([wide[a, b] + wide[c, d], wide[a, c] + wide[b, d], wide[a, d] + wide[b, c]], axis=0)
    return int((sums[2] > sums[1]).sum())


@dg.multi_asset_check(
    specs=[_spec("triplets", "counts_equal_the_formula", "As many as the distances alone say there must be.")]
)
def triplets_checks(store: dg.ResourceParam[Store]) -> Iterable[dg.AssetCheckResult]:
    """Every triplet."""
    from naics_pipeline.taxonomy.triplets import hardness_table

    found = int(hardness_table(store.local("triplets"))["triplets"].sum())
    expected = triplet_count(_frame(store, "distances"))
    yield _result("triplets", "counts_equal_the_formula", found == expected, found=found, expected=expected)


def triplet_count(distances: pl.DataFrame) -> int:
    """For each anchor and each code of its sector, how many codes lie farther from the anchor; summed."""
    matrix = distance_matrix(distances, "distance")
    values, place = np.unique(matrix, return_inverse=True)
    n = len(matrix)
    cells = np.arange(n)[:, None] * len(values) + place.reshape(n, n)
    counts = np.bincount(cells.ravel(), minlength=n * len(values)).reshape(n, len(values))
    farther = counts[:, ::-1].cumsum(axis=1)[:, ::-1] - counts
    positive = (values > 0) & (values < UNRELATED_DISTANCE)
    return int((counts * farther)[:, positive].sum())


@dg.multi_asset_check(
    specs=[_spec("text_embeddings", "sound_points", "One finite point per code, on the hyperboloid.")]
)
def text_embeddings_checks(store: dg.ResourceParam[Store]) -> Iterable[dg.AssetCheckResult]:
    """Points of the text model."""
    yield sound_points(store, "text_embeddings")


@dg.multi_asset_check(
    specs=[
        _spec("refined_embeddings", "sound_points", "One finite point per code, on the hyperboloid."),
        _spec(
            "refined_embeddings",
            "gate",
            "Refinement loses nothing that the text model had, and gains parents. What fails is measured and reported "
            "all the same, and says of itself that it failed.",
            blocking=False,
        ),
    ]
)
def refined_embeddings_checks(store: dg.ResourceParam[Store]) -> Iterable[dg.AssetCheckResult]:
    """Refined points: what fails is kept for inspection, and nothing is built from points that are not sound."""
    from naics_pipeline.evaluation.compare import gate
    from naics_pipeline.evaluation.structure import evaluate_embeddings
    from naics_pipeline.text_model.embeddings import SKIPPED, read_embeddings

    yield sound_points(store, "refined_embeddings")
    names = ("text_embeddings", "refined_embeddings")
    before, after = (read_embeddings(store.local(f"{name}.parquet")) for name in names)
    if after.is_unrefined:
        yield _result("refined_embeddings", "gate", True, refinement=SKIPPED)
        return
    rules = gate(evaluate_embeddings(before), evaluate_embeddings(after))
    said: dict[str, Any] = {
        rule.metric: f"{rule.before:.4f} to {rule.after:.4f}, at least {rule.minimum:+.4f}" for rule in rules
    }
    yield _result("refined_embeddings", "gate", all(rule.passed for rule in rules), **said)


@dg.multi_asset_check(
    specs=[
        _spec(
            "text_evaluation",
            "keeps_up_with_the_best",
            "Validation entries are found as often as by the best run before, its interval allowed for; a warning.",
            blocking=False,
        )
    ]
)
def text_evaluation_checks(store: dg.ResourceParam[Store]) -> Iterable[dg.AssetCheckResult]:
    """The newest run beside those that were kept before it."""
    from naics_pipeline.evaluation.runs.comparison import FOLLOWED, best_before
    from naics_pipeline.evaluation.runs.scores import runs_in

    current, *others = [run for run in runs_in(store) if "text" in run.records]
    low, high = current.records["text"]["intervals"]["text"].get(FOLLOWED, (None, None))
    best = best_before(current, others)
    said: dict[str, Any] = {"metric": FOLLOWED, "low": low, "high": high}
    if best is not None:
        said |= {"best_run": best[0].name, "best": best[1]}
    passed = best is None or high is None or high >= best[1]
    yield _result("text_evaluation", "keeps_up_with_the_best", passed, dg.AssetCheckSeverity.WARN, **said)


def sound_points(store: Store, asset: str) -> dg.AssetCheckResult:
    """Whether a file of embeddings can be trusted."""
    import torch

    from naics_pipeline.geometry import lorentz
    from naics_pipeline.text_model.embeddings import read_embeddings

    try:
        embeddings = read_embeddings(store.local(f"{asset}.parquet"))
    except ModelError as error:
        return _result(asset, "sound_points", False, problem=str(error))
    codes = _frame(store, "descriptions")["code"].to_list()
    violation = 0.0
    if embeddings.geometry == "lorentz":
        points = torch.from_numpy(embeddings.points)
        violation = float(lorentz.violation(points, curvature=embeddings.curvature).max())
    passed = embeddings.codes.tolist() == codes and violation < LARGEST_VIOLATION
    return _result(asset, "sound_points", passed, codes=len(codes), manifold_violation=violation)
