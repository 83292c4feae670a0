"""What all texts say at this moment: vectors of every text, of which a step replaces those that it has just read."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from naics_pipeline.text_model.model import CodeVectors, TextModel
from naics_pipeline.text_model.tokens import LONG_CHANNELS
from naics_pipeline.text_model.training.inputs import TrainingInputs
from naics_pipeline.text_model.training.processes import joined, leader_first, own_share


class LiveTable(nn.Module):
    """(rows, width) vectors; the only place where freshly read ones, with their gradient, join the others.

    What several processes have read comes here joined: the tables of all processes are the same.
    """

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


class TextTables(nn.Module):
    """What all texts said when they were last read: short ones, those of the long channels, and validation entries.

    Args:
        resting: whether the adapters stay as they are: then what they said before need not be read again.
    """

    present: Tensor
    base_short: Tensor
    example_rows: Tensor
    example_code: Tensor

    def __init__(self, inputs: TrainingInputs, width: int, *, resting: bool) -> None:
        super().__init__()
        self.inputs, self.resting = inputs, resting
        examples = inputs.short.examples
        constants = {
            "present": torch.from_numpy(inputs.present),
            "base_short": inputs.base_short,
            "example_rows": torch.from_numpy(examples),
            "example_code": torch.from_numpy(inputs.short.code[examples]),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.short = LiveTable(len(inputs.short.kind), width)
        self.long = LiveTables(LONG_CHANNELS, len(inputs.tree), width)
        self.validation = LiveTable(len(inputs.validation), width)
        self.fresh = False

    @torch.no_grad()
    def renew(self, model: TextModel, *, to_keep: bool = False) -> None:
        """Reads every text anew, each process a share of them.

        Args:
            to_keep: in full precision, not in that of training; what the cache gives always is.
        """
        model.eval()
        tokens = self.inputs.short.tokens
        if self.resting:
            with leader_first():
                self.short.renew(self.inputs.cache.short_vectors(model, tokens, self.base_short))
        with nullcontext() if to_keep else model.encoder.as_in_training():
            if not self.resting:
                own = own_share(len(tokens))
                self.short.renew(joined(model.read_short(tokens.taken(own), self.base_short[own]), len(tokens)))
            for name in LONG_CHANNELS:
                texts = self.inputs.long[name]
                self.long[name].renew(joined(model.read(name, texts, own_share(len(texts))), len(texts)))
            entries = self.inputs.validation
            self.validation.renew(joined(model.read_short(entries.taken(own_share(len(entries)))), len(entries)))
        self.fresh = True

    def long_values(self) -> dict[str, Tensor]:
        """(N, width) by long channel."""
        return {name: self.long[name].values for name in LONG_CHANNELS}

    def codes(self, short: Tensor, long: dict[str, Tensor], present: Tensor) -> CodeVectors:
        """What these values of the tables say of all codes."""
        titles = short[: len(self.inputs.tree)]
        return CodeVectors.of(titles, short[self.example_rows], self.example_code, long, present)

    def code_vectors(self) -> CodeVectors:
        """What the tables say of all codes."""
        return self.codes(self.short.values, self.long_values(), self.present)
