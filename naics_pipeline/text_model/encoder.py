"""One frozen base transformer with a LoRA adapter for all short text, and one for each channel of long texts."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from naics_pipeline.errors import ModelError
from naics_pipeline.settings import Adapter, Model, TrainingPrecision
from naics_pipeline.text_model.base import length_groups, load_base, mean_pool
from naics_pipeline.text_model.device import in_half
from naics_pipeline.text_model.tokens import LONG_CHANNELS, SHORT, Ragged

BASE = "base"
"""In an adapter's place: the base as it came."""
# Families whose blocks take (hidden states, attention mask) and nothing else, so that the top ones can run alone.
SPLITTABLE = {"bert", "roberta", "xlm-roberta", "camembert"}


class TextEncoder(nn.Module):
    """Texts to vectors of length 1: the base transformer with an adapter, mean over real tokens.

    Where an adapter sits in the top n blocks only, the blocks below never change for it, so their output can be
    computed once (`lower`) and fed instead of token ids. `short_text: full` gives short text a base of its own, all of
    whose weights learn, in place of its adapter.

    In training mode, and inside `as_in_training`, it may read in bfloat16 (`in_half`): the transformer alone, since
    distances and losses need more digits, and nothing that is kept.

    Args:
        precision: `training.precision` of the settings.
    Raises:
        ModelError: the base model cannot be split where an adapter asks for it.
    """

    def __init__(self, base: Path, settings: Model, precision: TrainingPrecision = "32-true") -> None:
        from peft import get_peft_model

        super().__init__()
        model = load_base(base, settings.dropout)
        self.precision = precision
        self._halved = False
        self.width: int = model.config.hidden_size
        self.adapters: dict[str, Adapter] = {name: getattr(settings.adapters, name) for name in (SHORT, *LONG_CHANNELS)}
        self.depth: int = model.config.num_hidden_layers
        for name, adapter in self.adapters.items():
            self._check_split(name, adapter, model.config.model_type, settings.base)
        self.full = copy.deepcopy(model).requires_grad_(True) if settings.short_text == "full" else None
        # Gradients of one word in thousands: a dense table of moments for each would be all that an optimizer does.
        if self.full is not None:
            self.full.get_input_embeddings().requires_grad_(False)
        learning = [n for n, a in self.adapters.items() if a.blocks != 0 and not (n == SHORT and self.full is not None)]
        self.learning = tuple(learning)
        self.model = model
        # Named before the first adapter wraps them.
        loras = {name: self._lora(model, self.adapters[name]) for name in learning}
        for position, (name, lora) in enumerate(loras.items()):
            if position == 0:
                self.model = get_peft_model(model, lora, adapter_name=name)
            else:
                self.model.add_adapter(name, lora)
        self._all_adapters_learn()

    def _check_split(self, name: str, adapter: Adapter, kind: str, base: str) -> None:
        if adapter.blocks is not None and (kind not in SPLITTABLE or adapter.blocks > self.depth):
            raise ModelError(
                f"model.adapters.{name}.blocks: {adapter.blocks} of the {self.depth} blocks of '{base}' ({kind}) "
                f"cannot run alone. Set it to null, or to at most the number of blocks of a model of the kinds "
                f"{', '.join(sorted(SPLITTABLE))}."
            )

    def _lora(self, model: nn.Module, adapter: Adapter) -> Any:
        from peft import LoraConfig

        from naics_pipeline.text_model.lora import OneProduct

        blocks = _blocks(model, self.depth)
        first = 0 if adapter.blocks is None else self.depth - adapter.blocks
        names = {id(block): name for name, block in model.named_modules()}
        targets = [
            f"{names[id(block)]}.{name}"
            for block in blocks[first:]
            for name, module in block.named_modules()
            if isinstance(module, nn.Linear)
        ]
        if not targets:
            raise ModelError(f"model.base: no linear layer found in the blocks of {type(model).__name__}.")
        config = LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,
            lora_dropout=adapter.dropout,
            target_modules=targets,
            bias="none",
        )
        config._register_custom_module({nn.Linear: OneProduct})
        return config

    def _all_adapters_learn(self) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_" in name)

    @contextmanager
    def _use(self, name: str) -> Iterator[None]:
        """The base with this adapter, or with none where it has none."""
        if name in self.learning:
            self.model.set_adapter(name)
            # set_adapter freezes every other adapter, and all of them take part in one step.
            self._all_adapters_learn()
            yield
            return
        with self.model.disable_adapter() if self.learning else nullcontext():
            yield
        # So does the end of disable_adapter.
        self._all_adapters_learn()

    def merge_short(self) -> None:
        """From here on short texts alone are read, fast: by weights with their adapter's added, and by the base's.

        Long texts are no longer read as they were where an adapter read them. Takes the memory of another base.
        """
        if SHORT in self.learning:
            tuned: Any = copy.deepcopy(self.model)
            self.full = tuned.merge_and_unload(adapter_names=[SHORT])
        if self.learning:
            wrapped: Any = self.model
            self.model = wrapped.unload()
        self.learning = ()
        self.requires_grad_(False)

    def _base(self, name: str) -> Any:
        if name == SHORT and self.full is not None:
            return self.full
        return self.model.get_base_model() if self.learning else self.model

    def learns(self, name: str) -> bool:
        """Whether training changes what this adapter reads in a text."""
        return self.adapters[name].blocks != 0 or (name == SHORT and self.full is not None)

    def split(self, name: str) -> int:
        """How many blocks lie below those that the adapter sits in."""
        blocks = None if name == BASE else self.adapters[name].blocks
        return 0 if blocks is None else self.depth - blocks

    def lower(self, name: str, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states below the adapter's blocks, (n, length) ids to (n, length, width); never a gradient."""
        model = self._base(name)
        with torch.no_grad(), self._use(name):
            return _run(model, model.embeddings(input_ids=ids), mask, slice(0, self.split(name)))

    @property
    def halves(self) -> bool:
        """Whether training reads in bfloat16 where the encoder is now."""
        return in_half(self.precision, next(self.model.parameters()).device)

    @contextmanager
    def as_in_training(self) -> Iterator[None]:
        """Inside, it reads in the precision of training whatever its mode: for what only training looks at."""
        before, self._halved = self._halved, True
        try:
            yield
        finally:
            self._halved = before

    def _encode(self, name: str, values: Tensor, mask: Tensor) -> Tensor:
        half = self.halves and (self.training or self._halved)
        with torch.autocast(values.device.type, torch.bfloat16, enabled=half):
            hidden = self._hidden(name, values, mask)
        return normalize(mean_pool(hidden.float(), mask), dim=-1)

    def _hidden(self, name: str, values: Tensor, mask: Tensor) -> Tensor:
        """What the last block says of every token, (n, length, width)."""
        model = self._base(name)
        if name == BASE or self.adapters[name].blocks is None or (name == SHORT and self.full is not None):
            with self._use(name):
                whole: Tensor = model(input_ids=values, attention_mask=mask.long()).last_hidden_state
                return whole
        below = values if values.is_floating_point() else self.lower(name, values, mask)
        with self._use(name):
            return _run(model, below, mask, slice(self.split(name), None))

    def forward(self, name: str, values: Tensor, mask: Tensor, *, recompute: bool = False) -> Tensor:
        """Vectors of n texts.

        Args:
            name: the adapter that reads them, or BASE for none.
            values: token ids (n, length), or what `lower` gave, (n, length, width).
            mask: (n, length) bool, True at real tokens.
            recompute: keep nothing for the backward pass but the input; it runs the blocks again.
        Returns: (n, width), float32, of length 1.
        """
        if recompute and torch.is_grad_enabled():
            # The adapter is chosen inside, so that the recomputation in the backward pass chooses the same.
            vectors: Tensor = checkpoint(self._encode, name, values, mask, use_reentrant=False)
            return vectors
        return self._encode(name, values, mask)

    def encode(self, name: str, texts: Ragged, rows: np.ndarray, tokens_per_group: int) -> Tensor:
        """Vectors of chosen rows, each of at least one token: grouped by length, padded to the group's longest.

        Where they make several groups, the backward pass computes each anew but the largest, which it comes to first:
        the call's memory stays at that of one group.
        """
        device = next(self.model.parameters()).device
        if not len(rows):
            return torch.zeros(0, self.width, device=device)
        groups = length_groups(texts.lengths[rows], tokens_per_group)
        # Backward passes run from the last to the first.
        groups.sort(key=lambda group: len(group) * int(texts.lengths[rows[group]].max()))
        parts = []
        for number, group in enumerate(groups, 1):
            values, mask = texts.padded(rows[group])
            values = values.to(device)
            values = values.float() if values.is_floating_point() else values.long()
            parts.append(self(name, values, mask.to(device), recompute=number < len(groups)))
        order = torch.from_numpy(np.argsort(np.concatenate(groups))).to(device)
        return torch.cat(parts)[order]


def _run(model: Any, hidden: Tensor, mask: Tensor, blocks: slice) -> Tensor:
    from transformers.masking_utils import create_bidirectional_mask

    attention = create_bidirectional_mask(config=model.config, inputs_embeds=hidden, attention_mask=mask.long())
    for block in model.encoder.layer[blocks]:
        hidden = block(hidden, attention)
    return hidden


def _blocks(model: nn.Module, depth: int) -> nn.ModuleList:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"model.base: no list of {depth} transformer blocks found in {type(model).__name__}.")


def hidden_states(encoder: TextEncoder, name: str, texts: Ragged, tokens_per_group: int) -> Ragged:
    """What the blocks below an adapter say of every token of every text, float16: a `Ragged` of (tokens, width)."""
    device = next(encoder.model.parameters()).device
    states = np.zeros((len(texts.values), encoder.width), dtype=np.float16)
    rows = np.flatnonzero(texts.lengths)
    training = encoder.training
    encoder.eval()
    for group in length_groups(texts.lengths[rows], tokens_per_group):
        ids, mask = texts.padded(rows[group])
        hidden = encoder.lower(name, ids.long().to(device), mask.to(device)).half().cpu()
        inside = mask.numpy()
        position = texts.offsets[rows[group]][:, None] + np.arange(inside.shape[1])
        states[position[inside]] = hidden.numpy()[inside]
    encoder.train(training)
    return Ragged(states, texts.offsets)
