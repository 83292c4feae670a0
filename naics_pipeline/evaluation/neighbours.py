"""What is asked of each code: which codes lie nearest to it, and where its parent, children and siblings lie."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from naics_pipeline.errors import ModelError
from naics_pipeline.evaluation.distances import Distances
from naics_pipeline.taxonomy.tree import LEVELS, Tree

CUTOFFS = (5, 10, 20)
MAIN_CUTOFF = 10
"""Among the cutoffs whatever they are: the gate and the report's first table read ndcg@10."""
_BLOCK = 512
_BLOCK_ENTRIES = 2**21
_GATHERED_ENTRIES = 2**20


def code_scores(distances: Distances, tree: Tree, *, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
    """The metrics that are means over codes, code by code: name → (N,), NaN where a code does not take part."""
    return neighbour_scores(distances, tree, cutoffs)[0]


def neighbour_scores(
    distances: Distances,
    tree: Tree,
    cutoffs: Sequence[int],
    on_block: Callable[[np.ndarray, np.ndarray], None] = lambda rows, block: None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`code_scores`, and the rank of each edge, seen from either end.

    Args:
        cutoffs: the k of ndcg@k; 10 joins them where it is not among them.
        on_block: told the indices and the distances of each block of rows on the way.
    """
    family, cutoffs = _Family.of(tree), sorted({*cutoffs, MAIN_CUTOFF})
    scores: dict[str, np.ndarray] = {}
    ranks: list[np.ndarray] = []
    for rows in _row_blocks(tree):
        block = distances[rows].astype(np.float64, copy=False)
        refuse_diverged(block)
        on_block(rows, block)
        block[np.arange(len(rows)), rows] = np.inf
        found = _neighbour_scores(block, rows, tree, cutoffs)
        found["map_edges"], rank = _edges(block, rows, family)
        found |= _parent_scores(block, rows, family) | _sibling_scores(block, rows, family)
        for name, values in found.items():
            scores.setdefault(name, np.full(len(tree), np.nan))[rows] = values
        ranks.append(rank)
    return scores, np.concatenate(ranks)


def refuse_diverged(distances: np.ndarray | float) -> None:
    """Raises ModelError where a distance is not finite."""
    if not np.isfinite(distances).all():
        raise ModelError("distances between codes are not all finite: the embeddings diverged; train them again.")


def _row_blocks(tree: Tree) -> Iterator[np.ndarray]:
    """All codes, in blocks of one level each."""
    size = max(1, min(_BLOCK, _BLOCK_ENTRIES // len(tree)))
    for level in LEVELS:
        codes = np.flatnonzero(tree.level == level)
        yield from (codes[start : start + size] for start in range(0, len(codes), size))


@dataclass(frozen=True)
class _Family:
    """Pairs (code, relative) as two lists of indices each, sorted by code: its parent, its children, its siblings."""

    tree: Tree
    parents: tuple[np.ndarray, np.ndarray]
    children: tuple[np.ndarray, np.ndarray]
    siblings: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, tree: Tree) -> "_Family":
        born = np.flatnonzero(tree.parent >= 0)
        parent = tree.parent[born].astype(np.int64)
        order = np.argsort(parent, kind="stable")
        children = parent[order], born[order]
        count = np.bincount(parent, minlength=len(tree))
        first = np.cumsum(count) - count
        code = np.repeat(born, count[parent])
        of_parent = np.repeat(parent, count[parent])
        run = np.arange(len(code)) - np.repeat(np.cumsum(count[parent]) - count[parent], count[parent])
        sibling = children[1][first[of_parent] + run] if len(code) else code
        other = code != sibling
        return cls(tree, (born, parent), children, (code[other], sibling[other]))

    def among(self, rows: np.ndarray, relatives: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The pairs whose code is one of `rows` (sorted): its place among them, and the relative."""
        place = np.searchsorted(rows, relatives[0])
        inside = rows[np.minimum(place, len(rows) - 1)] == relatives[0]
        return place[inside], relatives[1][inside]

    def level(self, rows: np.ndarray, step: int) -> np.ndarray:
        """The codes so many levels below that of `rows`."""
        return np.flatnonzero(self.tree.level == self.tree.level[rows[0]] + step)


def _parent_scores(block: np.ndarray, rows: np.ndarray, family: _Family) -> dict[str, np.ndarray]:
    place, parent = family.among(rows, family.parents)
    brood = np.bincount(family.parents[1], minlength=len(family.tree))[parent]
    upward = _place(block, place, parent, family.level(rows, -1))
    scores = {}
    for k in (1, 5):
        found = np.full(len(rows), np.nan)
        found[place] = np.where(brood > 1, upward.within(k), np.nan)
        scores[f"parent_retrieval@{k}"] = found
    place, child = family.among(rows, family.children)
    downward = _place(block, place, child, family.level(rows, 1))
    scores["child_recall@5"] = _per_row(len(rows), place, downward.within(5))
    return scores


def _sibling_scores(block: np.ndarray, rows: np.ndarray, family: _Family) -> dict[str, np.ndarray]:
    place, sibling = family.among(rows, family.siblings)
    level = family.level(rows, 0)
    beside = _place(block, place, sibling, level)
    having = np.bincount(place, minlength=len(rows)) > 0
    scores = {}
    for k in (5, 10):
        hits = np.bincount(place, weights=beside.within(k), minlength=len(rows))
        scores[f"sibling_precision@{k}"] = np.where(having, hits / max(min(k, len(level) - 1), 1), np.nan)
    return scores


def _per_row(rows: int, row: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(rows,) mean of the values that belong to each row, NaN where there are none."""
    count = np.bincount(row, minlength=rows).astype(np.float64)
    count[count == 0] = np.nan
    return np.bincount(row, weights=values, minlength=rows) / count


def _neighbour_scores(block: np.ndarray, rows: np.ndarray, tree: Tree, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    depth = tree.lca_depth_of(rows[:, None], np.arange(len(tree)))
    depth[np.arange(len(rows)), rows] = 0
    k = min(max(cutoffs), len(tree) - 1)
    discount = 1 / np.log2(np.arange(k) + 2)
    gain, same_sector = _nearest_gains(block, (depth, depth > 0), k)
    ideal = np.zeros((len(rows), k))
    for least in range(1, max(LEVELS)):
        ideal += np.count_nonzero(depth >= least, axis=1)[:, None] > np.arange(k)
    scores = {}
    for cutoff in cutoffs:
        best = ideal[:, :cutoff] @ discount[:cutoff]
        best[best == 0] = np.nan
        scores[f"ndcg@{cutoff}"] = gain[:, :cutoff] @ discount[:cutoff] / best
    if k:
        scores["sector_purity@10"] = same_sector[:, :10].mean(axis=1)
    return scores


def _nearest_gains(ranked: np.ndarray, gains: tuple[np.ndarray, ...], k: int) -> list[np.ndarray]:
    """Gain at each of the k nearest places, the mean of its tie group: (rows, k) for each of the (rows, N) gains."""
    if not k:
        return [np.empty((len(ranked), 0)) for _ in gains]
    farthest = np.partition(ranked, k - 1, axis=1)[:, k - 1 : k]
    # Ties of the k-th place among them, however many: a tie group is averaged as a whole.
    width = int(np.count_nonzero(ranked <= farthest, axis=1).max())
    order = np.argpartition(ranked, width - 1, axis=1)[:, :width]
    value = np.take_along_axis(ranked, order, axis=1)
    inner = np.argsort(value, axis=1)
    order, value = np.take_along_axis(order, inner, axis=1), np.take_along_axis(value, inner, axis=1)
    place = np.arange(width)
    opens = np.ones(value.shape, dtype=bool)
    opens[:, 1:] = value[:, 1:] != value[:, :-1]
    start = np.maximum.accumulate(np.where(opens, place, 0), axis=1)[:, :k]
    following = np.full(value.shape, width)
    following[:, :-1] = np.where(opens[:, 1:], place[1:], width)
    end = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1][:, :k]
    averaged = []
    for gain in gains:
        total = np.zeros((len(value), width + 1))
        np.cumsum(np.take_along_axis(gain, order, axis=1), axis=1, dtype=np.float64, out=total[:, 1:])
        group = np.take_along_axis(total, end, axis=1) - np.take_along_axis(total, start, axis=1)
        averaged.append(group / (end - start))
    return averaged


@dataclass(frozen=True)
class _Places:
    """How many candidates lie closer than the target, and how many as close, itself counted where it is one."""

    closer: np.ndarray
    tied: np.ndarray

    def within(self, k: int) -> np.ndarray:
        """Chance that the target is among the k nearest, over all orders of tied candidates."""
        return np.clip((k - self.closer) / self.tied, 0, 1)


def _place(block: np.ndarray, row: np.ndarray, target: np.ndarray, candidates: np.ndarray | None = None) -> _Places:
    """Place of the code target[i] among the candidates (indices; without them all codes) of the row row[i]."""
    limit = block[row, target][:, None]
    values = block if candidates is None else block[:, candidates]
    size = max(1, _GATHERED_ENTRIES // max(1, values.shape[1]))
    closer, tied = np.empty(len(row), dtype=np.int64), np.empty(len(row), dtype=np.int64)
    for start in range(0, len(row), size):
        here = slice(start, start + size)
        gathered = values[row[here]]
        closer[here] = np.count_nonzero(gathered < limit[here], axis=1)
        tied[here] = np.count_nonzero(gathered == limit[here], axis=1)
    return _Places(closer, tied)


def _place_among_own(row: np.ndarray, value: np.ndarray) -> _Places:
    """Place of value[i] among the values of the same row."""
    order = np.lexsort((value, row))
    sorted_row, sorted_value = row[order], value[order]
    opens = np.ones(len(row), dtype=bool)
    opens[1:] = (sorted_row[1:] != sorted_row[:-1]) | (sorted_value[1:] != sorted_value[:-1])
    start = np.flatnonzero(opens)
    group = np.cumsum(opens) - 1
    closer, tied = np.empty(len(row), dtype=np.int64), np.empty(len(row), dtype=np.int64)
    closer[order] = start[group] - np.searchsorted(sorted_row, sorted_row)
    tied[order] = np.diff(start, append=len(row))[group]
    return _Places(closer, tied)


def _edges(block: np.ndarray, rows: np.ndarray, family: _Family) -> tuple[np.ndarray, np.ndarray]:
    """Mean precision at the places of each code's parent and children, and their ranks among codes that are neither."""
    pairs = [family.among(rows, relatives) for relatives in (family.parents, family.children)]
    row, neighbour = (np.concatenate(side) for side in zip(*pairs, strict=True))
    near, of_all = _place_among_own(row, block[row, neighbour]), _place(block, row, neighbour)
    before = of_all.closer - near.closer + (of_all.tied - near.tied) / 2
    own = near.closer + (near.tied + 1) / 2
    return _per_row(len(rows), row, own / (own + before)), 1 + before
