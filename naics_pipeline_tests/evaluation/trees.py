"""Small random taxonomies and distances for tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from naics_pipeline.taxonomy.tree import Tree


def random_tree(rng: np.random.Generator, sectors: int = 3, most_children: int = 3) -> Tree:
    """A taxonomy in which every code above six digits has one to `most_children` children; 31 spans 31 to 33."""
    codes = ["31", "11", "22", "53"][:sectors]
    generation = codes
    for _ in range(4):
        generation = [
            child for code in generation for child in _children(code, int(rng.integers(1, most_children + 1)))
        ]
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


def balanced_tree(codes: int) -> Tree:
    """A taxonomy of exactly so many codes, 25 to 222,220: up to 20 sectors, as many children everywhere but for leaves.

    All levels are there; sectors are two digits that no other sector owns.
    """
    sizes = [(sectors * sum(b**i for i in range(5)), sectors, b) for b in range(1, 11) for sectors in range(2, 21)]
    size, sectors, children = min(choice for choice in sizes if choice[0] >= codes)
    names = [str(number) for number in range(50, 50 + sectors)]
    generation = names
    for _ in range(4):
        generation = [f"{code}{digit}" for code in generation for digit in range(children)]
        names = names + generation
    spared = np.linspace(0, len(generation) - 1, size - codes).round().astype(int)
    dropped = {generation[leaf] for leaf in spared}
    return Tree.from_codes([code for code in names if code not in dropped])


@pytest.fixture
def peak_memory() -> Callable[[], float]:
    """Most bytes of memory that this process has held since the test began."""
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not forget.exists():
        pytest.skip("peak memory is measured on Linux only")
    forget.write_text("5")
    return lambda: 1e3 * int(next(x for x in status.read_text().splitlines() if x.startswith("VmHWM")).split()[1])
