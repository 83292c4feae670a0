"""The taxonomy as a tree: who is related to whom, and how far apart any two codes lie."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps

import numpy as np
import polars as pl

from naics_pipeline.errors import NaicsError, SourceError

MERGED_SECTORS = {"32": "31", "33": "31", "45": "44", "49": "48"}
LEVELS = (2, 3, 4, 5, 6)
UNRELATED = 99
UNRELATED_DISTANCE = 10.0
BLOCK_ENTRIES = 2**23  # of a matrix over codes that is formed block by block: all of it up to 2,896 codes

# By the steps up from the shallower and from the deeper code to their lowest common ancestor.
RELATIONS: dict[tuple[int, int], tuple[int, str]] = {
    (0, 1): (1, "child"),
    (1, 1): (2, "sibling"),
    (0, 2): (3, "grandchild"),
    (0, 3): (4, "great-grandchild"),
    (1, 2): (5, "nephew/niece"),
    (0, 4): (6, "great-great-grandchild"),
    (2, 2): (7, "cousin"),
    (1, 3): (8, "grand-nephew/niece"),
    (1, 4): (9, "grand-grand-nephew/niece"),
    (2, 3): (10, "cousin once removed"),
    (3, 3): (11, "second cousin"),
    (2, 4): (12, "cousin twice removed"),
    (3, 4): (13, "second cousin once removed"),
    (4, 4): (14, "third cousin"),
}
RELATION_NAMES: dict[int, str] = dict(RELATIONS.values()) | {UNRELATED: "unrelated"}


def sector_of(code: str) -> str:
    """The two-digit code of a code's sector; manufacturing, retail trade and transportation are one sector each."""
    return MERGED_SECTORS.get(code[:2], code[:2])


def parent_of(code: str) -> str | None:
    """The code one level above, None for a sector."""
    if len(code) == 2:
        return None
    return sector_of(code) if len(code) == 3 else code[:-1]


def _cached(compute: Callable[["Tree"], np.ndarray]) -> Callable[["Tree"], np.ndarray]:
    @wraps(compute)
    def matrix(self: "Tree") -> np.ndarray:
        if compute.__name__ not in self._matrices:
            self._matrices[compute.__name__] = compute(self)
        return self._matrices[compute.__name__]

    return matrix


@dataclass(frozen=True, eq=False)
class Tree:
    """N codes in string order with one root, which is not a code, above the sectors.

    Attributes:
        codes: (N,) strings.
        level: (N,) int8, number of digits, 2 to 6.
        parent: (N,) int32, index of the code one level above, -1 for sectors.
        sector: (N,) int32, index of the code of the own sector.
    """

    codes: np.ndarray
    level: np.ndarray
    parent: np.ndarray
    sector: np.ndarray
    _matrices: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_codes(cls, codes: Sequence[str]) -> "Tree":
        """The tree of these codes, put into string order.

        Raises:
            SourceError: a code is not two to six digits, occurs twice, or has no parent among the codes.
        """
        ordered = sorted(codes)
        index = {code: position for position, code in enumerate(ordered)}
        _refuse_bad_codes(ordered, index)
        parents = [parent_of(code) for code in ordered]
        return cls(
            codes=np.array(ordered, dtype=np.str_),
            level=np.array([len(code) for code in ordered], dtype=np.int8),
            parent=np.array([-1 if parent is None else index[parent] for parent in parents], dtype=np.int32),
            sector=np.array([index[sector_of(code)] for code in ordered], dtype=np.int32),
        )

    def __len__(self) -> int:
        return len(self.codes)

    def position(self, codes: Iterable[str]) -> np.ndarray:
        """Index of each code, int64.

        Raises:
            NaicsError: a code is not in the taxonomy.
        """
        wanted = np.array(list(codes), dtype=np.str_)
        found = np.searchsorted(self.codes, wanted)
        unknown = wanted[self.codes[np.minimum(found, len(self) - 1)] != wanted]
        if unknown.size:
            raise NaicsError(
                f"{', '.join(unknown[:5].tolist())}: not a code of this taxonomy of {len(self)} codes. "
                "A code has two to six digits; sectors 31-33, 44-45 and 48-49 are 31, 44 and 48."
            )
        return found

    @_cached
    def ancestors(self) -> np.ndarray:
        """(N, 5) int32: index of the ancestor, or the code itself, at levels 2 to 6; -1 below the code's own level."""
        table = np.full((len(self), len(LEVELS)), -1, dtype=np.int32)
        current = np.arange(len(self), dtype=np.int32)
        for level in reversed(LEVELS):
            here = (current >= 0) & (self.level[current] == level)
            table[here, level - 2] = current[here]
            current = np.where(here, self.parent[current], current)
        return table

    @_cached
    def lca_depth(self) -> np.ndarray:
        """(N, N) uint8: depth of the lowest common ancestor; 0 root (other sector), 1 sector, ... 5 six digits."""
        return self.lca_depth_of(*self._all_pairs())

    @_cached
    def tree_distance(self) -> np.ndarray:
        """(N, N) uint8: edges on the path between two codes, over the root where the sectors differ (2 to 10)."""
        return self.tree_distance_of(*self._all_pairs())

    @_cached
    def distance(self) -> np.ndarray:
        """(N, N) float32: tree_distance, half a step less along a line of descent; 10 across sectors, 0 for itself."""
        return self.half_steps_of(*self._all_pairs()) / np.float32(2)

    @_cached
    def relation_id(self) -> np.ndarray:
        """(N, N) uint8: keys of RELATION_NAMES, symmetric; 0 for a code and itself."""
        return self.relation_id_of(*self._all_pairs())

    def lca_depth_of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """`lca_depth` of the codes `first` and `second`: indices that broadcast against each other."""
        depth = np.zeros(np.broadcast_shapes(first.shape, second.shape), dtype=np.uint8)
        for column in self.ancestors().T:
            # Below its own level a code has an ancestor that nobody shares.
            depth += np.where(column < 0, -2, column)[first] == column[second]
        return depth

    def tree_distance_of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """`tree_distance` of the codes `first` and `second`: indices that broadcast against each other."""
        depth = (self.level - 1).astype(np.uint8)
        return depth[first] + depth[second] - 2 * self.lca_depth_of(first, second)

    def half_steps_of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Twice the `distance` of the codes `first` and `second` (indices that broadcast), uint8."""
        lca = self.lca_depth_of(first, second)
        depth = (self.level - 1).astype(np.uint8)
        steps = 2 * (depth[first] + depth[second] - 2 * lca)
        steps -= np.minimum(depth[first], depth[second]) == lca
        steps[lca == 0] = round(2 * UNRELATED_DISTANCE)
        steps[np.broadcast_to(first == second, steps.shape)] = 0
        return steps

    def relation_id_of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """`relation_id` of the codes `first` and `second`: indices that broadcast against each other."""
        table = np.zeros((5, 5), dtype=np.uint8)
        for (shallow, deep), (identity, _) in RELATIONS.items():
            table[shallow, deep] = table[deep, shallow] = identity
        lca = self.lca_depth_of(first, second)
        depth = (self.level - 1).astype(np.uint8)
        related = lca > 0
        above, below = (np.where(related, depth[side] - lca, 0) for side in (first, second))
        return np.where(related, table[above, below], np.uint8(UNRELATED))

    def _all_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        every = np.arange(len(self))
        return every[:, None], every[None, :]

    def row_blocks(self, entries: int = BLOCK_ENTRIES) -> Iterator[np.ndarray]:
        """The codes in turn, as many as make a matrix of (codes, N) with about so many entries."""
        size = max(1, entries // len(self))
        for start in range(0, len(self), size):
            yield np.arange(start, min(start + size, len(self)))


def _refuse_bad_codes(ordered: list[str], index: dict[str, int]) -> None:
    """Raises SourceError naming the first code that does not fit into a tree."""
    if not ordered:
        raise SourceError("the taxonomy has no codes: check that the source is not empty.")
    for before, code in zip(["", *ordered], ordered, strict=False):
        if not (code.isascii() and code.isdigit() and 2 <= len(code) <= 6):
            raise SourceError(f"code {code!r}: a code has two to six digits; correct it in the source.")
        if code == before:
            raise SourceError(f"code {code} occurs more than once: remove the second one from the source.")
        above = parent_of(code)
        if above is None and code != sector_of(code):
            raise SourceError(f"code {code}: not a sector of its own but part of {sector_of(code)}; use that code.")
        if above is not None and above not in index:
            raise SourceError(f"code {code}: its parent {above} is missing; add the parent or remove the code.")


def excluded_matrix(descriptions: pl.DataFrame, tree: Tree) -> np.ndarray:
    """(N, N) bool, symmetric: one of the two codes names the other among what it excludes."""
    cited = descriptions.select("code", "excluded_codes").explode("excluded_codes").drop_nulls()
    matrix = np.zeros((len(tree), len(tree)), dtype=np.bool_)
    matrix[tree.position(cited["code"]), tree.position(cited["excluded_codes"])] = True
    return matrix | matrix.T


def held_out_pairs(tree: Tree, fraction: float) -> np.ndarray:
    """(N, N) bool, symmetric: pairs kept for validation, chosen by a hash of the two codes alone.

    A pair stays on its side when the taxonomy around it changes. Mixing: SplitMix64, Steele et al. (2014).
    """
    number, limit = tree.codes.astype(np.uint64), np.uint64(round(fraction * 10_000))
    held_out = np.empty((len(tree), len(tree)), dtype=np.bool_)
    for rows in tree.row_blocks():
        own = number[rows, None]
        key = np.minimum(own, number) * np.uint64(1_000_000) + np.maximum(own, number)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key ^= key >> np.uint64(31)
        held_out[rows] = key % np.uint64(10_000) < limit
    # A code is no pair with itself.
    np.fill_diagonal(held_out, False)
    return held_out


def relations(descriptions: pl.DataFrame) -> pl.DataFrame:
    """A row per unordered pair of codes, i < j: how the two are related, and whether either excludes the other."""
    tree = Tree.from_codes(descriptions["code"].to_list())
    first, second = np.triu_indices(len(tree), k=1)
    identity = pl.Series("relation_id", tree.relation_id()[first, second])
    names = pl.Series([RELATION_NAMES.get(number) for number in range(UNRELATED + 1)], dtype=pl.String)
    return _pairs(tree, first, second).with_columns(
        identity,
        names.gather(identity).alias("relation"),
        pl.Series("excluded", excluded_matrix(descriptions, tree)[first, second]),
    )


def distances(descriptions: pl.DataFrame) -> pl.DataFrame:
    """A row per unordered pair of codes, i < j: how far apart they lie in the tree."""
    tree = Tree.from_codes(descriptions["code"].to_list())
    first, second = np.triu_indices(len(tree), k=1)
    return _pairs(tree, first, second).with_columns(
        pl.Series("distance", tree.distance()[first, second]),
        pl.Series("tree_distance", tree.tree_distance()[first, second]),
    )


def _pairs(tree: Tree, first: np.ndarray, second: np.ndarray) -> pl.DataFrame:
    codes = pl.Series(tree.codes.tolist(), dtype=pl.String)
    return pl.DataFrame(
        {
            "idx_i": pl.Series(first.astype(np.uint16)),
            "idx_j": pl.Series(second.astype(np.uint16)),
            "code_i": codes.gather(first),
            "code_j": codes.gather(second),
        }
    )
