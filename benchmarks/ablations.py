"""What each loss, sampler and curriculum is worth: `python -m benchmarks ablations [--seeds 42 43 44] [ROW …]`.

A row trains all stages of the built-in curriculum but the first, with one thing changed, from the checkpoint that the
first stage of text alone (00_short_text) left in the data directory; with --short the last stage alone, in a third of
the time. Settings come from profile and environment as everywhere. A finished row is kept in `ablations/` of the data
directory and not trained again until code, settings or checkpoint change; an unfinished one goes on from its last
epoch.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from naics_pipeline import config
from naics_pipeline.evaluation.compare import Comparison, paired_bootstrap
from naics_pipeline.evaluation.retrieval import evaluate_texts
from naics_pipeline.evaluation.structure import evaluate_codes, structure_metrics
from naics_pipeline.evaluation.summary import distances_of
from naics_pipeline.files import fingerprint, replacing
from naics_pipeline.settings import Settings
from naics_pipeline.taxonomy.text import HELD_OUT, VALIDATION
from naics_pipeline.taxonomy.tree import Tree, held_out_pairs
from naics_pipeline.text_model.checkpoints import BEST, read_stage
from naics_pipeline.text_model.curriculum.stage import (
    Anneal,
    FalseNegatives,
    Mined,
    NearFar,
    Negatives,
    RouterGuided,
    Stage,
    TreeDistance,
    load_curriculum,
)
from naics_pipeline.text_model.inference import TextEmbedder
from naics_pipeline.text_model.training.inputs import load_inputs
from naics_pipeline.text_model.training.loop import StageResult, train_stage
from naics_pipeline.text_model.version import code_version

FIRST = "00_short_text"
BUILT_IN = "built-in"
FRAMES = {"descriptions": "descriptions", "index_entries": "index_entries", "phrases": "activity_phrases"}
"""What a stage reads → the file of the data directory."""
DYNAMIC = config.shipped_with() / "conf" / "curriculum_dynamic"
COLUMNS = {
    "code top-1": "validation/query_top1",
    "mixed top-1": "validation/mixed/query_top1",
    "mixed top-5": "validation/mixed/query_top5",
    "held-out pairs": "pairs",
    "cophenetic": "cophenetic_correlation",
    "ndcg@10": "ndcg@10",
    "parent@1": "parent_retrieval@1",
    "min": "minutes",
    "CPU min": "cpu_minutes",
}
FINAL = {"held-out code top-1": "query_top1", "held-out mixed top-1": "mixed/query_top1"}
COMPARED = {"mixed top-1": "mixed/query_top1", "ndcg@10": "ndcg@10"}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        stages: what is trained, one after another.
        objective: weights and constants in place of the profile's.
    """

    stages: list[Stage]
    objective: dict[str, Any] = field(default_factory=dict)


def rows_of(settings: Settings, *, short: bool = False) -> dict[str, Row]:
    """Every row, by its name in the table; those that change negatives or positives have the term that sees them.

    Args:
        short: the last stage of the curriculum stands for all after the first.
    """
    stages = load_curriculum(Path(settings.curriculum))[-1 if short else 1 :]
    last = stages[-1]
    contrastive = {"contrastive": 0.03}

    def each(**changes: Any) -> list[Stage]:
        return [changed(stage, **changes) for stage in stages]

    def drawing(negatives: Negatives) -> Row:
        return Row(each(negatives=negatives, **contrastive))

    def mining(kind: type[Mined] | type[RouterGuided], **keys: Any) -> Row:
        mined = [kind(share=0.25, rest=stage.negatives, **keys) for stage in stages]
        return Row([changed(stage, negatives=kind, **contrastive) for stage, kind in zip(stages, mined, strict=True)])

    def clustering(mode: str, **weights: float) -> Row:
        found = FalseNegatives(mode=mode, clusters=256)
        return Row(each(false_negatives=found, **contrastive, **weights))

    tree = TreeDistance()
    return {
        BUILT_IN: Row(stages),
        **{f"without {term}": Row(each(**{term: 0.0})) for term in ("hierarchy", "query", "balance")},
        "with radius": Row(each(radius=0.05)),
        "with rank": Row(each(rank=0.1)),
        "with rank in place of hierarchy": Row(each(hierarchy=0.0, rank=0.5)),
        "with contrastive": Row(each(**contrastive)),
        "InfoNCE": Row(each(**contrastive), {"contrastive_loss": "infonce"}),
        "in-batch negatives": Row(each(**contrastive), {"in_batch_negatives": True}),
        "tree_distance": drawing(tree),
        "tree_distance, siblings masked": drawing(TreeDistance(mask_siblings=True)),
        "tree_distance, exclusions × 3": drawing(TreeDistance(exclusion_boost=3.0)),
        "tree_distance, alpha annealed": drawing(TreeDistance(alpha=Anneal(start=0.5, end=2.5))),
        "near_far": drawing(NearFar()),
        "mined, of all codes": mining(Mined),
        "mined, of the batch": mining(Mined, pool="batch"),
        "router_guided": mining(RouterGuided),
        "k-means, eliminate": clustering("eliminate"),
        "k-means, attract": clustering("attract", attraction=0.03),
        "k-means, hybrid": clustering("hybrid", attraction=0.03),
        **({} if short else {"hardest stage alone": Row([changed(last, epochs=sum(s.epochs for s in stages))])}),
        "ancestors as positives": Row(each(pairs="ancestors", positive_levels=(2, 3, 4, 5), **contrastive)),
        "exclusions": Row(each(pairs="exclusions", **contrastive)),
        "dynamic curriculum": Row(load_curriculum(DYNAMIC)[1:]),
    }


def changed(stage: Stage, **keys: Any) -> Stage:
    """The stage with other values of some keys, checked like a file's."""
    return Stage.model_validate(stage.model_dump() | keys)


class Bench:
    """What all rows share: data, the checkpoint they start from, and where finished ones are kept."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.root = settings, Path(settings.data_dir)
        self.frames: dict[str, Any] = {
            name: pl.read_parquet(self.root / f"{file}.parquet") for name, file in FRAMES.items()
        }
        self.tree = Tree.from_codes(self.frames["descriptions"]["code"].to_list())
        self.start, self.kept = self.root / "stages" / FIRST, self.root / "ablations"
        self.caches: dict[str, Any] = {
            "token_cache": self.kept / "token_cache",
            "hidden_cache": self.kept / "hidden_states",
        }
        self._read()

    def _read(self) -> None:
        """Reads every text by the adapters of the first stage: no row pays for it, and all find it read."""
        model = TextEmbedder.load(self.start / BEST, self.settings.accelerator).model
        inputs = load_inputs(**self.frames, settings=self.settings, model=model, **self.caches)
        with torch.no_grad():
            inputs.cache.short_vectors(model, inputs.short.tokens, inputs.base_short)

    def measured(self, name: str, row: Row, seed: int, *, final: bool) -> dict[str, Any]:
        """What a row came to with a seed: kept from before, or trained now.

        Args:
            final: whether held-out entries are looked at as well.
        """
        objective = self.settings.objective.model_copy(update=row.objective)
        settings = self.settings.model_copy(update={"seed": seed, "objective": objective})
        read = settings.model_dump(mode="json", include={"taxonomy", "tokens", "model", "objective", "training"})
        stages = [stage.model_dump(mode="json") for stage in row.stages]
        key = fingerprint(code_version(), stages, read, seed, final, read_stage(self.start)["key"])
        place = self.kept / f"{name.replace(' ', '_')}-{seed}"
        file = place.with_suffix(".json")
        if file.is_file() and (found := json.loads(file.read_text()))["key"] == key:
            return found
        began, cpu_began = time.perf_counter(), time.process_time()
        result = self._trained(row, settings, place)
        minutes = {"minutes": time.perf_counter() - began, "cpu_minutes": time.process_time() - cpu_began}
        found = self._evaluated(result, settings, final)
        found["metrics"] |= {unit: seconds / 60 for unit, seconds in minutes.items()}
        with replacing(file) as temporary:
            temporary.write_text(json.dumps({"key": key, **found}))
        shutil.rmtree(place)
        return found

    def _trained(self, row: Row, settings: Settings, place: Path) -> StageResult:
        before = self.start
        for stage in row.stages:
            result = train_stage(
                stage,
                settings,
                **self.frames,
                **self.caches,
                directory=place / stage.name,
                start_from=before,
                metrics=partial(structure_metrics, tree=self.tree),
                on_epoch=partial(_say, place.name, stage.name),
            )
            before = place / stage.name
        return result

    def _evaluated(self, result: StageResult, settings: Settings, final: bool) -> dict[str, Any]:
        asked = self.frames["index_entries"].rename({"entry": "text"})
        asked = asked.filter(pl.col("split").is_in([VALIDATION, HELD_OUT] if final else [VALIDATION]))
        texts = evaluate_texts(result.codes, result.embedder.embed_rows(asked), result.places)
        structure = evaluate_codes(result.codes, self.tree, cutoffs=settings.evaluation.cutoffs)
        held_out = held_out_pairs(self.tree, settings.training.validation_fraction)
        metrics = texts.metrics | structure.metrics
        metrics["pairs"] = pairs_in_order(distances_of(result.codes), self.tree, held_out)
        wanted = {*COLUMNS.values(), *(FINAL.values() if final else ())}
        by_text = {name: values[texts.queries.validation] for name, values in texts.by_query.items()}
        scores = by_text | structure.by_code
        return {
            "metrics": {name: metrics[name] for name in wanted if name in metrics},
            "scores": {name: np.round(scores[name], 6).tolist() for name in COMPARED.values()},
        }


def pairs_in_order(distances: np.ndarray, tree: Tree, held_out: np.ndarray) -> float:
    """Of pairs of a sector that no training saw: the share of all codes farther off in the tree that lie farther off.

    Args:
        distances: (N, N) in the space.
        held_out: (N, N) bool.
    """
    apart, shares = tree.distance(), []
    anchors, positives = np.nonzero(held_out & (tree.lca_depth() > 0))
    for start in range(0, len(anchors), 2000):
        anchor, positive = anchors[start : start + 2000], positives[start : start + 2000]
        farther = apart[anchor] > apart[anchor, positive][:, None]
        right = farther & (distances[anchor] > distances[anchor, positive][:, None])
        some = farther.any(axis=1)
        shares.append(right[some].sum(axis=1) / farther[some].sum(axis=1))
    return float(np.concatenate(shares).mean())


def table(bench: Bench, rows: dict[str, Row], seeds: Sequence[int], *, final: bool) -> Iterator[str]:
    """The lines of the table, each as soon as its row is done; the built-in model is the first."""
    shown = COLUMNS | (FINAL if final else {})
    yield "| what | " + " | ".join([*shown, *(f"{name} against {BUILT_IN}" for name in COMPARED)]) + " |"
    yield "| --- " * (1 + len(shown) + len(COMPARED)) + "|"
    first: list[dict[str, Any]] = []
    for name, row in rows.items():
        found = [bench.measured(name, row, seed, final=final) for seed in seeds]
        first = first or found
        values = [np.mean([one["metrics"][metric] for one in found]) for metric in shown.values()]
        cells = [
            f"{value:.1f}" if name.endswith("min") else f"{value:.3f}"
            for name, value in zip(shown, values, strict=True)
        ]
        cells += [_against(first, found, score) for score in COMPARED.values()]
        yield f"| {name} | {' | '.join(cells)} |"


def _against(first: list[dict[str, Any]], found: list[dict[str, Any]], score: str) -> str:
    """The mean gain and its interval, over texts or codes, each scored by the mean of all seeds."""
    if first is found:
        return "–"
    means = [np.mean([one["scores"][score] for one in rows], axis=0) for rows in (first, found)]
    compared: Comparison = paired_bootstrap(*means, seed=0)
    return f"{compared.difference:+.3f} [{compared.low:+.3f}, {compared.high:+.3f}]"


def _say(row: str, stage: str, epoch: int, values: dict[str, float]) -> None:
    print(f"{row}: {stage} epoch {epoch + 1}, {values['seconds']:.0f} s, val/loss {values['val/loss']:.3f}", flush=True)


def main(arguments: list[str]) -> None:
    """Prints the table, or the names of its rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ablations", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"names of rows; all unless given, {BUILT_IN} always")
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="each row is trained with each; default: that of the settings"
    )
    parser.add_argument("--final", action="store_true", help="look at held-out entries too: for rows already chosen")
    parser.add_argument("--short", action="store_true", help="train the last stage of the curriculum alone")
    parser.add_argument("--list", action="store_true", help="print the names of all rows and stop")
    given = parser.parse_args(arguments)
    settings = config.load().settings
    rows = rows_of(settings, short=given.short)
    if given.list:
        print("\n".join(rows))
        return
    if unknown := [name for name in given.rows if name not in rows]:
        parser.error(f"there is no row '{unknown[0]}'; rows are: {', '.join(rows)}")
    chosen = {name: row for name, row in rows.items() if not given.rows or name in (BUILT_IN, *given.rows)}
    lines = []
    for line in table(Bench(settings), chosen, given.seeds or [settings.seed], final=given.final):
        lines.append(line)
        print(line, flush=True)
    print("\n" + "\n".join(lines))
