"""The text model: texts to vectors, vectors to points."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from naics_pipeline.settings import Settings
from naics_pipeline.text_model.encoder import BASE, TextEncoder
from naics_pipeline.text_model.fusion import Fusion
from naics_pipeline.text_model.tokens import CHANNELS, LONG_CHANNELS, SHORT, Ragged

EXAMPLES = CHANNELS.index("examples")
_RELATIVES, _RELATED = 5, 0.02
"""How many codes lend a new one their offsets, and the temperature of their cosines in it."""


@dataclass(frozen=True)
class CodeVectors:
    """What the texts of N codes say.

    Attributes:
        channels: (N, 4, width); zeros where a channel is absent. The examples channel is the mean of a set.
        present: (N, 4) bool.
        example_sum: (N, width), the set's sum.
        example_count: (N,), its size.
    """

    channels: Tensor
    present: Tensor
    example_sum: Tensor
    example_count: Tensor

    @classmethod
    def of(
        cls, titles: Tensor, examples: Tensor, owner: Tensor, long: dict[str, Tensor], present: Tensor
    ) -> "CodeVectors":
        """From vectors of titles (N, width), examples (E, width) with the code of each, and long texts (N, width)."""
        total, count = set_sums(examples, owner, len(titles))
        by_name = {"title": titles, "examples": total / count.clamp_min(1).unsqueeze(-1), **long}
        return cls(torch.stack([by_name[name] for name in CHANNELS], dim=1), present, total, count)

    def leave_one_out(self, code: Tensor, channel: Tensor, left: Tensor, left_of: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of Q queries as they are without the query itself: channels (Q, 4, width) and presence (Q, 4).

        Otherwise training offers a look-up that text from outside does not have. A code of which nothing else is known
        keeps its description, which every code has.

        Args:
            code: (Q,) indices.
            channel: (Q,) the channel that consists of the query's own words, -1 for none.
            left: (R, width) vectors of examples that a query is or is made of, each of its code.
            left_of: (R,) the query each belongs to.
        """
        gone, removed = set_sums(left, left_of, len(code))
        rest = self.example_count[code] - removed
        examples = (self.example_sum[code] - gone) / rest.clamp_min(1).unsqueeze(-1)
        position = torch.arange(len(CHANNELS), device=code.device)
        channels = torch.where((position == EXAMPLES)[:, None], examples.unsqueeze(1), self.channels[code])
        known = self.present[code] & (position != channel.unsqueeze(1))
        known &= (position != EXAMPLES) | (rest > 0.5).unsqueeze(1)
        description = position == CHANNELS.index("description")
        return channels, torch.where(known.any(1, keepdim=True), known, description)


def set_sums(vectors: Tensor, owner: Tensor, owners: int) -> tuple[Tensor, Tensor]:
    """Sum of the vectors of each owner's set, (owners, width), and how many there are, (owners,).

    Args:
        vectors: (n, width).
        owner: (n,) index of the set each belongs to.
    """
    total = vectors.new_zeros(owners, vectors.shape[1]).index_add(0, owner, vectors)
    return total, torch.bincount(owner, minlength=owners).to(vectors.dtype)


def mixed(tuned: Tensor, base: Tensor, share: float) -> Tensor:
    """Vectors of length 1, (n, width), with a share of the base's own."""
    return normalize((1 - share) * tuned + share * base, dim=-1)


class TextModel(nn.Module):
    """Encoder and fusion, with an offset for each code.

    Args:
        codes: the N codes that training places.
    """

    def __init__(self, base: Path, settings: Settings, codes: Sequence[str]) -> None:
        super().__init__()
        self.settings, self.codes = settings, list(codes)
        self.encoder = TextEncoder(base, settings.model, settings.training.precision)
        self.fusion = Fusion(self.encoder.width, settings.model)
        self.offset = nn.Parameter(torch.zeros(len(self.codes), settings.model.embedding_dim + 1))

    def read(self, name: str, texts: Ragged, rows: np.ndarray | None = None) -> Tensor:
        """Vectors of texts, (n, width), by the adapter of that name; zeros where a text is absent.

        Args:
            rows: which of them; None: all.
        """
        rows = np.arange(len(texts)) if rows is None else rows
        there = np.flatnonzero(texts.lengths[rows])
        vectors = self.encoder.encode(name, texts, rows[there], self.settings.training.tokens_per_group)
        if len(there) == len(rows):
            return vectors
        place = torch.from_numpy(there).to(vectors.device)
        return vectors.new_zeros(len(rows), vectors.shape[1]).index_copy(0, place, vectors)

    def read_short(self, texts: Ragged, base: Tensor | None = None) -> Tensor:
        """Vectors of short texts of length 1, (n, width): mostly the adapter's, with a share of the base's own.

        The more of it, the more is found in descriptions by business owners and the less of index entries; ensembles of
        a tuned and an untuned model trade likewise (Wortsman et al., 2022).

        Args:
            base: the base's own vectors, where they are known.
        """
        share = self.settings.model.base_share
        tuned = self.read(SHORT, texts)
        if share == 0:
            return tuned
        return mixed(tuned, self.base_vectors(texts) if base is None else base, share)

    @torch.no_grad()
    def base_vectors(self, texts: Ragged) -> Tensor:
        """What the base itself says of texts, (n, width); the same in training and evaluation."""
        if not self.encoder.training:
            return self.read(BASE, texts)
        self.encoder.eval()
        vectors = self.read(BASE, texts)
        self.encoder.train()
        return vectors

    def code_vectors(
        self, titles: Ragged, examples: Ragged, example_code: np.ndarray, long: dict[str, Ragged], present: np.ndarray
    ) -> CodeVectors:
        """Every text of N codes, read once."""
        device = self.offset.device
        return CodeVectors.of(
            self.read_short(titles),
            self.read_short(examples),
            torch.from_numpy(example_code).to(device),
            {name: self.read(name, long[name]) for name in LONG_CHANNELS},
            torch.from_numpy(present).to(device),
        )

    def code_points(self, vectors: CodeVectors, codes: np.ndarray) -> Tensor:
        """Points (n, ·) of the codes with these names and texts.

        One that training did not place has no offset of its own: it takes that of the codes whose texts are nearest.
        Of a tenth of the six-digit codes of NAICS 2022, left out of all training, so 0.91 have their parent as nearest
        code one level up, and 0.64 without: all others have moved to their places in the tree.
        """
        row = {code: number for number, code in enumerate(self.codes)}
        rows = torch.tensor([row.get(code, -1) for code in codes.tolist()], device=self.offset.device)
        offset = torch.where(rows.unsqueeze(-1) >= 0, self.offset[rows], 0)
        placed = offset.any(dim=1)
        if placed.any() and not placed.all():
            said = normalize(self.fusion.said(vectors.channels, vectors.present), dim=-1)
            nearest = (said[~placed] @ said[placed].mT).topk(min(_RELATIVES, int(placed.sum())), dim=1)
            share = (nearest.values / _RELATED).softmax(dim=1).unsqueeze(-1)
            offset[~placed] = (share * offset[placed][nearest.indices]).sum(dim=1)
        points: Tensor = self.fusion(vectors.channels, vectors.present, offset)[0]
        return points

    def encoder_state(self) -> dict[str, Tensor]:
        """The part of `trained_state` that reads texts."""
        return {name: value for name, value in self.trained_state().items() if name.startswith("encoder.")}

    def trained_state(self) -> dict[str, Tensor]:
        """The state without the frozen base, which the checkpoint names instead of holding it."""
        state = self.state_dict()
        frozen = "encoder.model."
        return {name: value for name, value in state.items() if not name.startswith(frozen) or "lora_" in name}
