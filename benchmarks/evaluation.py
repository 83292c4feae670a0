"""Metrics of all codes, queries and the paired bootstrap, on the workbooks in NAICS_CENSUS_DIR, else on the sample."""

import math
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.data import WORKBOOKS
from benchmarks.measure import Row, Work
from naics_pipeline.evaluation.baselines import baselines
from naics_pipeline.evaluation.compare import paired_bootstrap
from naics_pipeline.evaluation.frozen import FrozenVectors
from naics_pipeline.evaluation.retrieval import query_metrics
from naics_pipeline.evaluation.structure import evaluate_embeddings
from naics_pipeline.evaluation.tasks import embedding_tasks
from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Download, Model
from naics_pipeline.taxonomy import census, text
from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline_tests.evaluation.trees import balanced_tree

BASE = "all-MiniLM-L6-v2"
NAIVE_CODES = 50
QUERIES = 4103

ROWS = [
    Row("every structure metric from points", "to_metrics", "naive_metrics"),
    Row("the same, 300 synthetic codes", "metrics_of_300"),
    Row("the same, 2,125 synthetic codes", "metrics_of_2125"),
    Row("the same, 20,000 synthetic codes, no matrix of all pairs", "metrics_of_20000"),
    Row("every task of the six-digit codes", "to_tasks"),
    Row(f"every metric of {QUERIES:,} queries", "to_query_metrics", "naive_queries"),
    Row("paired bootstrap, 5,000 resamples", "to_bootstrap", "naive_bootstrap"),
    Row("all baselines", "to_baselines"),
]


def frames() -> tuple[pl.DataFrame, pl.DataFrame, Tree]:
    source = str(WORKBOOKS) if WORKBOOKS.is_dir() else "sample"
    books = census.read_source(source, 2022, Download(), Path(tempfile.gettempdir()))
    entries = text.index_entries(books, 0.2, 0.08)
    descriptions = text.descriptions(books, entries)
    return descriptions, entries, Tree.from_codes(descriptions["code"].to_list())


def _embeddings(tree: Tree) -> Embeddings:
    dim = Model().embedding_dim
    tangent = torch.from_numpy(np.random.default_rng(0).normal(0, 2.4 / dim**0.5, (len(tree), dim)))
    return Embeddings(tree.codes, lorentz.exp0(tangent).numpy())


def to_metrics(directory: Path) -> Work:
    tree = frames()[2]
    embeddings = _embeddings(tree)
    return lambda: print(evaluate_embeddings(embeddings, tree=tree)["ndcg@10"])


def _metrics(codes: int, directory: Path) -> Work:
    tree = balanced_tree(codes)
    embeddings = _embeddings(tree)
    return lambda: print(evaluate_embeddings(embeddings, tree=tree)["ndcg@10"])


metrics_of_300, metrics_of_2125, metrics_of_20000 = (partial(_metrics, codes) for codes in (300, 2125, 20_000))


def to_tasks(directory: Path) -> Work:
    tree = frames()[2]
    embeddings = _embeddings(tree)
    return lambda: print(embedding_tasks(embeddings, tree, seed=0).metrics["classify_sector"])


def naive_metrics(directory: Path) -> tuple[Work, float]:
    """Code by code, pair by pair, with lists: correlation, ndcg, purity, edges, parents, children, siblings."""
    tree = frames()[2]
    x = torch.from_numpy(_embeddings(tree).points)
    distances = lorentz.pairwise_distance(x, x).tolist()
    steps, depth = tree.tree_distance().tolist(), tree.lca_depth().tolist()
    level, parent = tree.level.tolist(), tree.parent.tolist()

    def work() -> None:
        sums = [0.0] * 6
        totals: dict[str, float] = {}
        for code in range(NAIVE_CODES):
            others = [other for other in range(len(tree)) if other != code]
            for other in others:
                d, t = distances[code][other], steps[code][other]
                sums = [value + term for value, term in zip(sums, (1, d, t, d * d, t * t, d * t), strict=True)]
            nearest = sorted(others, key=lambda other: distances[code][other])
            ideal = sorted((depth[code][other] for other in others), reverse=True)
            scores = {"sector_purity@10": sum(depth[code][other] > 0 for other in nearest[:10]) / 10}
            for k in (5, 10, 20):
                gain = sum(depth[code][other] / math.log2(rank + 2) for rank, other in enumerate(nearest[:k]))
                scores[f"ndcg@{k}"] = gain / sum(value / math.log2(rank + 2) for rank, value in enumerate(ideal[:k]))
            edges = [other for other in nearest if parent[other] == code or parent[code] == other]
            places = [nearest.index(other) + 1 for other in edges]
            scores["map_edges"] = sum(i / place for i, place in enumerate(places, 1)) / len(places)
            scores["mean_rank_edges"] = sum(place - i for i, place in enumerate(places)) / len(places)
            above, below, beside = ([o for o in nearest if level[o] == level[code] + step] for step in (-1, 1, 0))
            scores["parent_retrieval@5"] = parent[code] in above[:5]
            scores["child_recall@5"] = sum(parent[other] == code for other in below[:5])
            scores["sibling_precision@5"] = sum(parent[other] == parent[code] for other in beside[:5]) / 5
            totals = {name: totals.get(name, 0) + value for name, value in scores.items()}
        print(sums, totals)

    return work, NAIVE_CODES / len(tree)


def _queries() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tree = frames()[2]
    candidates, rng = tree.codes[tree.level == 6], np.random.default_rng(0)
    return rng.uniform(size=(QUERIES, len(candidates))), candidates, rng.choice(candidates, QUERIES)


def to_query_metrics(directory: Path) -> Work:
    distances, candidates, truth = _queries()
    return lambda: print(query_metrics(distances, candidates, truth)["query_mrr"])


def naive_queries(directory: Path) -> Work:
    distances, candidates, truth = _queries()
    rows, codes = distances.tolist(), candidates.tolist()

    def work() -> None:
        total = 0.0
        for row, right in zip(rows, truth.tolist(), strict=True):
            ranking = [code for _, code in sorted(zip(row, codes, strict=True))]
            total += 1 / (ranking.index(right) + 1)
        print(total / len(rows))

    return work


def _scores() -> tuple[np.ndarray, np.ndarray]:
    first, second = np.random.default_rng(0).integers(0, 2, (2, QUERIES)).astype(np.float64)
    return first, second


def to_bootstrap(directory: Path) -> Work:
    first, second = _scores()
    return lambda: print(paired_bootstrap(first, second, seed=0))


def naive_bootstrap(directory: Path) -> Work:
    first, second = _scores()

    def work() -> None:
        rng = np.random.default_rng(0)
        means = []
        for _ in range(5000):
            drawn = rng.integers(0, len(first), len(first))
            means.append((second[drawn] - first[drawn]).mean())
        print(np.quantile(means, [0.025, 0.975]))

    return work


def to_baselines(directory: Path) -> Work:
    descriptions, entries, tree = frames()
    return lambda: print(baselines(descriptions, entries, FrozenVectors(BASE, None, "cpu", None), tree, seed=0))
