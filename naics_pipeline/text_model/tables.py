"""What all texts say at this moment: vectors of every text, of which a step replaces those that it has just read."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LiveTable(nn.Module):
    """(rows, width) vectors; the only place where freshly read ones, with their gradient, join the others."""

    values: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(rows, width), persistent=False)

    def renew(self, values: Tensor) -> None:
        """Replaces the whole table."""
        self.values.copy_(values)

    def replace(self, rows: Tensor, fresh: Tensor) -> Tensor:
        """The table with these rows replaced, with a gradient in `fresh`; the table keeps them without it.

        Args:
            rows: (n,) distinct indices.
            fresh: (n, width).
        """
        live = self.values.index_copy(0, rows, fresh)
        self.values = live.detach()
        return live


class LiveTables(nn.Module):
    """One `LiveTable` for each channel of long texts, (rows, width) each."""

    def __init__(self, names: Sequence[str], rows: int, width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: LiveTable(rows, width) for name in names})

    def __getitem__(self, name: str) -> LiveTable:
        table = self.tables[name]
        assert isinstance(table, LiveTable)
        return table


def set_sums(vectors: Tensor, owner: Tensor, owners: int) -> tuple[Tensor, Tensor]:
    """Sum of the vectors of each owner's set, (owners, width), and how many there are, (owners,).

    Args:
        vectors: (n, width).
        owner: (n,) index of the set each belongs to.
    """
    total = vectors.new_zeros(owners, vectors.shape[1]).index_add(0, owner, vectors)
    return total, torch.bincount(owner, minlength=owners).to(vectors.dtype)
