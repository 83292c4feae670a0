"""A BERT that reads, and no more: what takes the libraries that training needs seconds to import and build is left out.

Any base may be trained; most are of this kind, and for them a search starts in half the time. Others, and this one
wherever it trains, are read by transformers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from naics_pipeline.text_model.base import WEIGHTS, mean_pool

TOKENIZER = "tokenizer.json"
_PLAIN = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
"""What a configuration says of the kind that is read here; all but the first are what it means without a word."""
_MATRICES = ("attention.output.dense", "intermediate.dense", "output.dense")
_FUSED = ("query", "key", "value")
_EMBEDDINGS = [f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]


_TINY = torch.finfo(torch.float32).tiny


class Plain:
    """x Wᵀ + b, (…, in) to (…, out), multiplied in some precision and given in it.

    Args:
        weight, bias: (out, in) and (out,).
        precision: float32 or bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor, precision: torch.dtype) -> None:
        self._weight, self._bias, self._precision = weight.to(precision), bias.to(precision), precision

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self._precision), self._weight, self._bias)


class Whole:
    """x Wᵀ + b, (…, in) to (…, out) float32, multiplied as whole numbers of eight bits; their sums are exact.

    Each row of W, and each row of x when it comes, has a unit of its own, so that its greatest number is 127: what is
    said of a text does not hang on the texts beside it (Dettmers et al., 2022).

    Args:
        weight, bias: (out, in) and (out,).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._unit = weight.abs().amax(1).clamp_min(_TINY) / 127
        self._weight = (weight / self._unit[:, None]).round().to(torch.int8).T.contiguous()
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        unit = rows.abs().amax(1, keepdim=True).clamp_min(_TINY) / 127
        sums = torch._int_mm((rows / unit).round_().to(torch.int8), self._weight)
        return torch.addcmul(self._bias, sums.float().mul_(unit), self._unit).view(*x.shape[:-1], -1)


@dataclass(frozen=True)
class _Block:
    """One block; attend gives query, key and value at once."""

    attend: Plain | Whole
    attended: Plain | Whole
    wide: Plain | Whole
    narrow: Plain | Whole
    norm: tuple[Tensor, Tensor]
    last_norm: tuple[Tensor, Tensor]


class Bert:
    """Token ids to vectors of length 1, the mean over real tokens; float32 but for the matrices, on the CPU.

    Args:
        config: the base's config.json.
        tensors: its weights by their names in transformers.
        precision: float32, bfloat16 or int8: of the matrices and of what they are multiplied by.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], precision: torch.dtype) -> None:
        self.width, self.heads = config["hidden_size"], config["num_attention_heads"]
        self._eps = config.get("layer_norm_eps", 1e-12)
        self._tensors, self._precision = tensors, precision
        words, places, segments = (tensors[name] for name in _EMBEDDINGS)
        # A text is one segment.
        self._words, self._places = words, places + segments[0]
        self._norm = self._pair("embeddings.LayerNorm")
        self.blocks = [self._block(f"encoder.layer.{number}") for number in range(config["num_hidden_layers"])]
        del self._tensors

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]

    def _block(self, name: str) -> _Block:
        three = [self._pair(f"{name}.attention.self.{part}") for part in _FUSED]
        weight, bias = (torch.cat(parts) for parts in zip(*three, strict=True))
        attended, wide, narrow = (self._linear(*self._pair(f"{name}.{matrix}")) for matrix in _MATRICES)
        return _Block(
            attend=self._linear(weight, bias),
            attended=attended,
            wide=wide,
            narrow=narrow,
            norm=self._pair(f"{name}.attention.output.LayerNorm"),
            last_norm=self._pair(f"{name}.output.LayerNorm"),
        )

    def _linear(self, weight: Tensor, bias: Tensor) -> Plain | Whole:
        return Whole(weight, bias) if self._precision == torch.int8 else Plain(weight, bias, self._precision)

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(n, width) from token ids (n, length) and a mask (n, length) bool, True at real tokens."""
        hidden = F.embedding(ids, self._words) + self._places[: ids.shape[1]]
        hidden = F.layer_norm(hidden, hidden.shape[-1:], *self._norm, eps=self._eps)
        attended = None if bool(mask.all()) else mask[:, None, None, :]
        for block in self.blocks:
            hidden = self._read(block, hidden, attended)
        return F.normalize(mean_pool(hidden, mask), dim=-1)

    def _read(self, block: _Block, hidden: Tensor, mask: Tensor | None) -> Tensor:
        n, length, width = hidden.shape
        three = block.attend(hidden).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = three.unbind()
        mixed = _attention(query, key, value, mask).transpose(1, 2).reshape(n, length, width)
        hidden = hidden + block.attended(mixed)
        hidden = F.layer_norm(hidden, (width,), *block.norm, eps=self._eps)
        hidden = hidden + block.narrow(F.gelu(block.wide(hidden)))
        return F.layer_norm(hidden, (width,), *block.last_norm, eps=self._eps)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al., 2017, equation 1), (n, heads, length, width of a head).

    Two products for all heads at once: of a dozen tokens PyTorch's own, a loop over blocks of one head, takes up to
    four times as long on a CPU.

    Args:
        mask: (n, 1, 1, length), True at real tokens; None: all are.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    return scores.softmax(-1) @ value


def plain_bert(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Configuration and weights, by their names without a prefix, of a located base that `Bert` reads; else None."""
    from safetensors.torch import load_file

    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if not (directory / TOKENIZER).is_file() or any(
        config.get(name, usual if name != "model_type" else None) != usual for name, usual in _PLAIN.items()
    ):
        return None
    tensors = {name.removeprefix("bert."): value.float() for name, value in load_file(directory / WEIGHTS).items()}
    return (config, tensors) if _needed(config) <= tensors.keys() else None


def _needed(config: Mapping[str, Any]) -> set[str]:
    blocks = [f"encoder.layer.{number}" for number in range(config["num_hidden_layers"])]
    linear = [
        *(f"attention.self.{part}" for part in _FUSED),
        *_MATRICES,
        "attention.output.LayerNorm",
        "output.LayerNorm",
    ]
    pairs = ["embeddings.LayerNorm", *(f"{block}.{name}" for block in blocks for name in linear)]
    return {*_EMBEDDINGS, *(f"{pair}.{part}" for pair in pairs for part in ("weight", "bias"))}


class Tokens:
    """The tokenizer of a `plain_bert`, called as those of transformers are."""

    def __init__(self, directory: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(directory / TOKENIZER))
        self._tokenizer.no_padding()

    def __call__(
        self, texts: Sequence[str], *, truncation: bool, max_length: int, **_: object
    ) -> dict[str, list[list[int]]]:
        """`input_ids` of texts, truncated to so many."""
        if truncation:
            self._tokenizer.enable_truncation(max_length)
        return {"input_ids": [found.ids for found in self._tokenizer.encode_batch_fast(list(texts))]}
