"""Small random taxonomies and distances for tests."""

import numpy as np

from naics_pipeline.taxonomy.tree import Tree


def random_tree(rng: np.random.Generator, sectors: int = 3, most_children: int = 3) -> Tree:
    """A taxonomy in which every code above six digits has one to `most_children` children; 31 spans 31 to 33."""
    codes = ["31", "11", "22", "53"][:sectors]
    generation = codes
    for _ in range(4):
        generation = [child for code in generation for child in _children(code, rng.integers(1, most_children + 1))]
        codes = codes + generation
    return Tree.from_codes(codes)


def _children(code: str, count: int) -> list[str]:
    if code == "31":
        return ["311", "321", "331"][:count]
    return [f"{code}{digit}" for digit in range(1, count + 1)]


def random_distances(rng: np.random.Generator, n: int, ties: bool) -> np.ndarray:
    """(n, n) symmetric with a zero diagonal; whole numbers from 1 to 4 where ties are wanted."""
    values = rng.integers(1, 5, (n, n)).astype(float) if ties else rng.uniform(0.5, 5, (n, n))
    upper = np.triu(values, 1)
    return upper + upper.T
