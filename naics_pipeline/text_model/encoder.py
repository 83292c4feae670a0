"""One frozen base transformer with a LoRA adapter per channel."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from naics_pipeline.errors import ModelError
from naics_pipeline.settings import Model
from naics_pipeline.text_model.base import length_groups, load_base, mean_pool
from naics_pipeline.text_model.tokens import CHANNELS, Ragged

# Families whose blocks take (hidden states, attention mask) and nothing else, so that the top ones can run alone.
SPLITTABLE = {"bert", "roberta", "xlm-roberta", "camembert"}


class ChannelEncoder(nn.Module):
    """Texts of a channel to vectors: the base transformer with that channel's adapter, mean over real tokens.

    With `trainable_blocks` n only the top n blocks carry adapters; the blocks below never change, so their output can
    be computed once (`lower`) and fed instead of token ids.

    Raises:
        ModelError: the base model cannot be split at `trainable_blocks`.
    """

    def __init__(self, base: Path, settings: Model) -> None:
        from peft import LoraConfig, get_peft_model

        super().__init__()
        model = load_base(base, settings.dropout)
        self.width: int = model.config.hidden_size
        self.gradient_checkpointing = settings.gradient_checkpointing
        depth = model.config.num_hidden_layers
        blocks = _blocks(model, depth)
        self.top = settings.trainable_blocks
        if self.top is not None and (model.config.model_type not in SPLITTABLE or self.top > depth):
            raise ModelError(
                f"model.trainable_blocks: {self.top} of the {depth} blocks of '{settings.base}' "
                f"({model.config.model_type}) cannot run alone. Set it to null, or to at most the number of blocks "
                f"of a {', '.join(sorted(SPLITTABLE))} model."
            )
        first = 0 if self.top is None else depth - self.top
        block_names = {id(block): name for name, block in model.named_modules()}
        targets = [
            f"{block_names[id(block)]}.{name}"
            for block in blocks[first:]
            for name, module in block.named_modules()
            if isinstance(module, nn.Linear)
        ]
        lora = LoraConfig(
            r=settings.lora.rank,
            lora_alpha=settings.lora.alpha,
            lora_dropout=settings.lora.dropout,
            target_modules=targets,
            bias="none",
        )
        self.model = get_peft_model(model, lora, adapter_name=CHANNELS[0])
        for channel in CHANNELS[1:]:
            self.model.add_adapter(channel, lora)
        self._all_adapters_learn()

    def _all_adapters_learn(self) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_" in name)

    def _use(self, channel: str) -> None:
        self.model.set_adapter(channel)
        # set_adapter freezes every other adapter, and all of them take part in one step.
        self._all_adapters_learn()

    @property
    def _base(self) -> Any:
        return self.model.get_base_model()

    def lower(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states below the trainable blocks, (n, length) ids to (n, length, width); never a gradient."""
        from transformers.masking_utils import create_bidirectional_mask

        model = self._base
        with torch.no_grad():
            hidden = model.embeddings(input_ids=ids)
            attention = create_bidirectional_mask(config=model.config, inputs_embeds=hidden, attention_mask=mask.long())
            for block in model.encoder.layer[: len(model.encoder.layer) - (self.top or 0)]:
                hidden = block(hidden, attention)
        return hidden

    def _upper(self, hidden: Tensor, mask: Tensor) -> Tensor:
        from transformers.masking_utils import create_bidirectional_mask

        model = self._base
        attention = create_bidirectional_mask(config=model.config, inputs_embeds=hidden, attention_mask=mask.long())
        for block in model.encoder.layer[len(model.encoder.layer) - (self.top or 0) :]:
            hidden = block(hidden, attention)
        return hidden

    def _encode(self, channel: str, values: Tensor, mask: Tensor) -> Tensor:
        self._use(channel)
        if self.top is None:
            hidden = self.model(input_ids=values, attention_mask=mask.long()).last_hidden_state
        else:
            hidden = self._upper(values if values.is_floating_point() else self.lower(values, mask), mask)
        return mean_pool(hidden, mask)

    def forward(self, channel: str, values: Tensor, mask: Tensor) -> Tensor:
        """Vectors of n texts.

        Args:
            channel: whose adapter reads them.
            values: token ids (n, length), or what `lower` gave, (n, length, width).
            mask: (n, length) bool, True at real tokens.
        Returns: (n, width), float32.
        """
        if self.gradient_checkpointing and torch.is_grad_enabled():
            # The adapter is chosen inside, so that the recomputation in the backward pass chooses the same.
            return checkpoint(self._encode, channel, values, mask, use_reentrant=False).float()
        return self._encode(channel, values, mask).float()

    def encode(self, channel: str, texts: Ragged, rows: np.ndarray, tokens_per_group: int) -> Tensor:
        """Vectors of chosen rows, each of at least one token: grouped by length, padded to the group's longest."""
        device = next(self.model.parameters()).device
        if not len(rows):
            return torch.zeros(0, self.width, device=device)
        groups = length_groups(texts.lengths[rows], tokens_per_group)
        parts = []
        for group in groups:
            values, mask = texts.padded(rows[group])
            values = values.to(device)
            parts.append(
                self(channel, values.float() if values.is_floating_point() else values.long(), mask.to(device))
            )
        order = torch.from_numpy(np.argsort(np.concatenate(groups))).to(device)
        return torch.cat(parts)[order]


def _blocks(model: nn.Module, depth: int) -> nn.ModuleList:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"model.base: no list of {depth} transformer blocks found in {type(model).__name__}.")


def hidden_states(encoder: ChannelEncoder, texts: Ragged, tokens_per_group: int) -> Ragged:
    """What the frozen blocks say of every token of every text, float16: a `Ragged` of (tokens, width)."""
    device = next(encoder.model.parameters()).device
    states = np.zeros((len(texts.values), encoder.width), dtype=np.float16)
    rows = np.flatnonzero(texts.lengths)
    training = encoder.training
    encoder.eval()
    for group in length_groups(texts.lengths[rows], tokens_per_group):
        ids, mask = texts.padded(rows[group])
        hidden = encoder.lower(ids.long().to(device), mask.to(device)).half().cpu()
        inside = mask.numpy()
        position = texts.offsets[rows[group]][:, None] + np.arange(inside.shape[1])
        states[position[inside]] = hidden.numpy()[inside]
    encoder.train(training)
    return Ragged(states, texts.offsets)
