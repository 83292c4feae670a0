"""A checkpoint at work on short texts alone, as a search asks: the base's vectors and the adapter's, fast."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from naics_pipeline.settings import SearchPrecision, Settings
from naics_pipeline.text_model.base import length_groups
from naics_pipeline.text_model.bert import Bert, plain_bert
from naics_pipeline.text_model.checkpoints import Checkpoint
from naics_pipeline.text_model.device import halves_pay, resolve
from naics_pipeline.text_model.fusion import Fusion
from naics_pipeline.text_model.model import mixed
from naics_pipeline.text_model.tokens import SHORT, Ragged

logger = logging.getLogger(__name__)
Precision = Literal["float32", "bfloat16", "int8"]
_TOKENS = 2048
"""Of one group: what a block makes of them stays in the processor's cache."""
_GROUP_COST = 48
"""Tokens that could be read in the time that a group takes by itself, of any precision on two cores."""
_LORA = "model.encoder.model.base_model.model."
_FULL = "model.encoder.full."


def precision_of(asked: SearchPrecision, accelerator: str) -> Precision:
    """In which precision this machine reads where `search.precision` is as asked."""
    if asked != "auto":
        return asked
    device = resolve(accelerator)
    return "bfloat16" if device.type == "cpu" and halves_pay(device) else "float32"


class ShortTexts(nn.Module):
    """In place of a `TextModel` for those who read short texts alone: `Bert` with the base's weights, and the tuned."""

    def __init__(self, base: Bert, tuned: Bert, fusion: Fusion, settings: Settings) -> None:
        super().__init__()
        self.base, self.tuned, self.fusion, self.settings = base, tuned, fusion, settings

    def base_vectors(self, texts: Ragged) -> Tensor:
        """As `TextModel.base_vectors`."""
        return _read(self.base, texts)

    def read_short(self, texts: Ragged, base: Tensor | None = None) -> Tensor:
        """As `TextModel.read_short`."""
        share = self.settings.model.base_share
        tuned = _read(self.tuned, texts)
        if share == 0:
            return tuned
        return mixed(tuned, self.base_vectors(texts) if base is None else base, share)


def short_texts(
    directory: Path, checkpoint: Checkpoint, settings: Settings, precision: Precision = "float32"
) -> ShortTexts | None:
    """The reader of a checkpoint's short texts; None where its base, in a directory, is none that `Bert` reads."""
    if (plain := plain_bert(directory)) is None:
        return None
    config, weights = plain
    kind = getattr(torch, precision)
    if kind == torch.int8 and not torch.cpu._is_vnni_supported():
        logger.warning("search.precision: int8 would be slow on this processor, which lacks VNNI; float32 is used")
        kind = torch.float32
    fusion = Fusion(config["hidden_size"], settings.model)
    fusion.load_state_dict(checkpoint.part("model.fusion."))
    tuned = tuned_weights(weights, checkpoint, settings)
    return ShortTexts(Bert(config, weights, kind), Bert(config, tuned, kind), fusion, settings)


def tuned_weights(base: Mapping[str, Tensor], checkpoint: Checkpoint, settings: Settings) -> dict[str, Tensor]:
    """The weights that read short text: the base's with its adapter's added, or those of its own base (`full`)."""
    if settings.model.short_text == "full":
        return {**base, **checkpoint.part(_FULL)}
    tuned, adapter = dict(base), settings.model.adapters.short
    down, up = (f".lora_{side}.{SHORT}.weight" for side in "AB")
    matrices = checkpoint.part(_LORA)
    for name in [name.removesuffix(down) for name in matrices if name.endswith(down)]:
        learned = matrices[name + up] @ matrices[name + down]
        tuned[f"{name}.weight"] = base[f"{name}.weight"] + adapter.alpha / adapter.rank * learned
    return tuned


def _read(bert: Bert, texts: Ragged) -> Tensor:
    vectors = torch.zeros(len(texts), bert.width)
    there = texts.lengths.nonzero()[0]
    for group in length_groups(texts.lengths[there], _TOKENS, _GROUP_COST):
        ids, mask = texts.padded(there[group])
        vectors[torch.from_numpy(there[group])] = bert(ids, mask)
    return vectors
