"""One product says what PEFT's two say, forwards and backwards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn

from naics_pipeline.settings import Adapter, Adapters, Model
from naics_pipeline.text_model.encoder import TextEncoder
from naics_pipeline.text_model.lora import OneProduct
from naics_pipeline.text_model.tokens import SHORT, Ragged

small = st.integers(1, 5)


def layer_of(wide: int = 4, out: int = 3, rank: int = 2, bias: bool = True, dropout: float = 0.0) -> OneProduct:
    """With an adapter that has something to say, in float64."""
    config = LoraConfig(r=rank, lora_alpha=3, lora_dropout=dropout)
    layer = OneProduct(nn.Linear(wide, out, bias=bias), "own", config=config, r=rank, lora_alpha=3)
    nn.init.normal_(layer.lora_B["own"].weight)
    layer.base_layer.requires_grad_(False)
    return layer.double()


def found(layer: OneProduct, x: Tensor, *, by_peft: bool) -> list[Tensor]:
    """What it says of x, and the gradients of x, A and B."""
    x = x.clone().requires_grad_()
    said = Linear.forward(layer, x) if by_peft else layer(x)
    learned = [layer.lora_A["own"].weight, layer.lora_B["own"].weight]
    return [said, *torch.autograd.grad((said**2).sum(), [x, *learned])]


@given(st.lists(small, min_size=1, max_size=3), small, small, small, st.booleans())
def test_it_equals_the_layer_of_peft(shape: list[int], wide: int, out: int, rank: int, bias: bool) -> None:
    layer, x = layer_of(wide, out, rank, bias), torch.randn(*shape, wide, dtype=torch.float64)
    for ours, theirs in zip(found(layer, x, by_peft=False), found(layer, x, by_peft=True), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_needs_no_gradient_gets_none() -> None:
    layer, x = layer_of(), torch.randn(5, 4, dtype=torch.float64)
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.base_layer.weight.grad is None
    assert layer.lora_A["own"].weight.grad is not None


def test_the_sum_of_matrices_is_not_formed_in_half_precision() -> None:
    layer, x = layer_of().float(), torch.randn(5, 4)
    with torch.no_grad():
        # A step too small for eight bits of a weight, and not for eight bits of its own.
        layer.base_layer.weight.fill_(1.0)
        layer.lora_B["own"].weight.mul_(1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), Linear.forward(layer, x))


def test_dropout_is_of_what_the_adapter_reads_alone() -> None:
    layer, x = layer_of(dropout=0.5), torch.randn(64, 4, dtype=torch.float64)
    torch.manual_seed(1)
    ours = layer(x)
    torch.manual_seed(1)
    assert torch.equal(ours, Linear.forward(layer, x))
    torch.testing.assert_close(layer.eval()(x), Linear.forward(layer, x))


def test_an_adapter_at_rest_says_nothing() -> None:
    layer, x = layer_of(), torch.randn(5, 4, dtype=torch.float64)
    with_adapter, base = layer(x), layer.base_layer(x)
    assert not torch.allclose(with_adapter, base)
    layer.enable_adapters(False)
    assert torch.equal(layer(x), base)
    layer.enable_adapters(True)
    layer.merge()
    torch.testing.assert_close(layer(x), with_adapter)


def test_every_adapter_of_the_encoder_is_read_in_one_product(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def two_products(*_: object) -> None:
        raise AssertionError("multiplied as PEFT does")

    encoder = TextEncoder(tiny_base, Model(base=str(tiny_base), adapters=Adapters(description=Adapter(blocks=1))))
    texts = Ragged(np.array([3, 4, 5], dtype=np.int32), np.array([0, 3]))
    monkeypatch.setattr(Linear, "forward", two_products)
    # The lower block carries no adapter of descriptions.
    with pytest.raises(AssertionError, match="as PEFT does"):
        encoder.encode("description", texts, np.array([0]), 64)
    assert encoder.encode(SHORT, texts, np.array([0]), 64).shape == (1, encoder.width)
