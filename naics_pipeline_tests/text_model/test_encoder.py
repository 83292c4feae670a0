"""Adapters, split of the base, and fusion."""

from pathlib import Path

import numpy as np
import pytest
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Lora, Model
from naics_pipeline.text_model.encoder import ChannelEncoder, hidden_states
from naics_pipeline.text_model.fusion import Fusion, MixtureOfExperts, drop_channels
from naics_pipeline.text_model.tokens import CHANNELS, Ragged, tokenize

TEXTS = ["Growing soybeans", "Flour milling", "a", "Repair and maintenance of locomotives and rail cars"]


def encoder_of(tiny_base: Path, **changes: object) -> ChannelEncoder:
    torch.manual_seed(0)
    return ChannelEncoder(tiny_base, Model(base=str(tiny_base), **changes)).eval()


@pytest.fixture
def tokens(tiny_base: Path) -> Ragged:
    from transformers import AutoTokenizer

    return tokenize(AutoTokenizer.from_pretrained(tiny_base), TEXTS, 32)


def stir(encoder: ChannelEncoder) -> None:
    """LoRA starts as the identity (B = 0); give each adapter something to say."""
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def test_every_adapter_gets_a_gradient_in_one_step_and_the_base_none(tiny_base: Path, tokens: Ragged) -> None:
    encoder = encoder_of(tiny_base)
    stir(encoder)
    sum(encoder.encode(channel, tokens, np.arange(4), 4096).sum() for channel in CHANNELS).backward()
    for channel in CHANNELS:
        gradients = [p.grad for name, p in encoder.named_parameters() if f".{channel}." in name]
        assert gradients
        assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    assert all(p.grad is None for name, p in encoder.named_parameters() if "lora_" not in name)


def test_adapters_lie_on_every_linear_layer_of_the_blocks_only(tiny_base: Path) -> None:
    names = {name for name, _ in encoder_of(tiny_base).named_modules() if name.endswith("lora_A.title")}
    assert len(names) == 2 * 6
    assert not any("pooler" in name for name in names)
    top = {
        name for name, _ in encoder_of(tiny_base, trainable_blocks=1).named_modules() if name.endswith("lora_A.title")
    }
    assert len(top) == 6
    assert all(".layer.1." in name for name in top)


def test_top_blocks_over_cached_states_give_what_the_whole_model_gives(tiny_base: Path, tokens: Ragged) -> None:
    whole, split = encoder_of(tiny_base), encoder_of(tiny_base, trainable_blocks=1)
    states = hidden_states(split, tokens, 64)
    assert states.values.dtype == np.float16
    expected = whole.encode("title", tokens, np.arange(4), 4096)
    torch.testing.assert_close(split.encode("title", states, np.arange(4), 4096), expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(split.encode("title", tokens, np.arange(4), 4096), expected)


def test_grouping_and_padding_do_not_change_a_text(tiny_base: Path, tokens: Ragged) -> None:
    encoder = encoder_of(tiny_base)
    stir(encoder)
    together = encoder.encode("title", tokens, np.array([3, 0, 2]), 4096)
    apart = torch.cat([encoder.encode("title", tokens, np.array([row]), 1) for row in (3, 0, 2)])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_channels_differ_once_their_adapters_do(tiny_base: Path, tokens: Ragged) -> None:
    encoder = encoder_of(tiny_base)
    first, second = (encoder.encode(channel, tokens, np.arange(4), 4096) for channel in CHANNELS[:2])
    torch.testing.assert_close(first, second)
    stir(encoder)
    first, second = (encoder.encode(channel, tokens, np.arange(4), 4096) for channel in CHANNELS[:2])
    assert not torch.allclose(first, second)


def test_gradient_checkpointing_recomputes_with_the_same_adapter(tiny_base: Path, tokens: Ragged) -> None:
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        encoder = encoder_of(tiny_base, gradient_checkpointing=checkpointing)
        stir(encoder)
        sum(
            (position + 1) * encoder.encode(channel, tokens, np.arange(4), 64).square().sum()
            for position, channel in enumerate(CHANNELS)
        ).backward()
        return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, msg=name)


def test_dropout_is_on_in_training_and_off_in_evaluation(tiny_base: Path, tokens: Ragged) -> None:
    encoder = encoder_of(tiny_base)
    stir(encoder)
    rows = np.arange(4)
    assert torch.equal(encoder.encode("title", tokens, rows, 4096), encoder.encode("title", tokens, rows, 4096))
    encoder.train()
    assert not torch.equal(encoder.encode("title", tokens, rows, 4096), encoder.encode("title", tokens, rows, 4096))
    still = encoder_of(tiny_base, dropout=0.0, lora=Lora(dropout=0.0)).train()
    assert torch.equal(still.encode("title", tokens, rows, 4096), still.encode("title", tokens, rows, 4096))


def test_more_trainable_blocks_than_there_are_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.trainable_blocks: 3 of the 2 blocks"):
        encoder_of(tiny_base, trainable_blocks=3)


def test_experts_match_their_definition() -> None:
    torch.manual_seed(0)
    moe = MixtureOfExperts(6, 8, 5, experts=4, top_k=2)
    torch.nn.init.normal_(moe.gate.weight)
    x = torch.randn(7, 6)
    out, probabilities = moe(x)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(7))
    for row in range(7):
        top = probabilities[row].topk(2)
        expected = sum(
            weight / top.values.sum() * moe.experts[int(index)](x[row])
            for weight, index in zip(top.values, top.indices, strict=True)
        )
        torch.testing.assert_close(out[row], expected)


@pytest.mark.parametrize("fusion", ["moe", "linear"])
@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
def test_an_absent_channel_counts_as_its_learned_vector(fusion: str, geometry: str) -> None:
    torch.manual_seed(0)
    model = Fusion(8, Model(fusion=fusion, geometry=geometry, embedding_dim=4, expert_dim=8)).eval()
    channels = torch.randn(3, 4, 8)
    present = torch.ones(3, 4, dtype=torch.bool)
    present[1, 2] = False
    before, _ = model(channels, present)
    channels[1, 2] = 99.0
    after, _ = model(channels, present)
    torch.testing.assert_close(before, after)
    after.square().sum().backward()
    assert model.absent.grad[2].abs().sum() > 0
    assert (model.absent.grad[[0, 1, 3]] == 0).all()
    if geometry == "lorentz":
        assert lorentz.violation(after.double()).max() < 1e-4
        assert after.shape == (3, 5)
    else:
        assert after.shape == (3, 4)


@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
def test_distances_are_those_of_the_geometry(geometry: str) -> None:
    torch.manual_seed(0)
    model = Fusion(8, Model(geometry=geometry, embedding_dim=4, expert_dim=8)).eval()
    points, _ = model(torch.randn(80, 4, 8), torch.ones(80, 4, dtype=torch.bool))
    points = points.double()
    found = model.distances(points, points)
    reference = {"lorentz": lambda u, v: lorentz.distance(u[:, None], v[None]), "euclidean": torch.cdist}
    expected = reference[geometry](points, points)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_curvature_is_learned_only_when_asked_and_stays_in_bounds() -> None:
    assert not Fusion(8, Model()).log_curvature.requires_grad
    model = Fusion(8, Model(learn_curvature=True, embedding_dim=4, expert_dim=8))
    points, _ = model(torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool))
    model.distances(points, points).sum().backward()
    assert model.log_curvature.grad.abs() > 0
    with torch.no_grad():
        model.log_curvature.fill_(9.0)
    assert model.curvature == 10


def test_channel_dropout_keeps_at_least_one_present_channel() -> None:
    torch.manual_seed(0)
    present = torch.tensor([[True, True, False, False], [False, True, False, False]]).repeat(500, 1)
    kept = drop_channels(present, 0.5)
    assert (kept <= present).all()
    assert kept.any(-1).all()
    assert 0.5 < kept[::2, 0].float().mean() < 0.8
    assert torch.equal(drop_channels(present, 0.0), present)
