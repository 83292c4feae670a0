"""Adapters, and the split of the base."""

from pathlib import Path

import numpy as np
import pytest
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.settings import Adapter, Adapters, Model, TrainingPrecision
from naics_pipeline.text_model.base import length_groups
from naics_pipeline.text_model.encoder import BASE, TextEncoder, hidden_states
from naics_pipeline.text_model.tokens import LONG_CHANNELS, SHORT, Ragged, tokenize
from naics_pipeline_tests.text_model.small import ALL

TEXTS = ["Growing soybeans", "Flour milling", "a", "Repair and maintenance of locomotives and rail cars"]


NAMES = (SHORT, *LONG_CHANNELS)


def encoder_of(tiny_base: Path, precision: TrainingPrecision = "32-true", **changes: object) -> TextEncoder:
    torch.manual_seed(0)
    model = Model(**({"base": str(tiny_base), "adapters": ALL} | changes))
    return TextEncoder(tiny_base, model, precision).eval()


def top_block(name: str = "description") -> dict[str, Adapters]:
    return {"adapters": ALL.model_copy(update={name: Adapter(blocks=1)})}


@pytest.fixture
def tokens(tiny_base: Path) -> Ragged:
    from transformers import AutoTokenizer

    return tokenize(AutoTokenizer.from_pretrained(tiny_base), TEXTS, 32)


def stir(encoder: TextEncoder) -> None:
    """LoRA starts as the identity (B = 0); give each adapter something to say."""
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def read(encoder: TextEncoder, name: str, texts: Ragged, tokens_per_group: int = 4096) -> torch.Tensor:
    return encoder.encode(name, texts, np.arange(len(texts)), tokens_per_group)


def scored(encoder: TextEncoder, tokens: Ragged, tokens_per_group: int = 4096) -> torch.Tensor:
    """A number that hangs on every adapter; of vectors of length 1 a plain sum of squares would not."""
    direction = torch.randn(encoder.width, generator=torch.Generator().manual_seed(1))
    return torch.stack([(read(encoder, name, tokens, tokens_per_group) @ direction).sum() for name in NAMES]).sum()


def test_half_precision_is_of_training_alone(tiny_base: Path, tokens: Ragged) -> None:
    exact, half = (encoder_of(tiny_base, precision, dropout=0.0) for precision in ("32-true", "bf16-mixed"))
    for encoder in (exact, half):
        torch.manual_seed(1)
        stir(encoder)
    assert torch.equal(read(half, SHORT, tokens), read(exact, SHORT, tokens))
    with half.as_in_training():
        drafted = read(half, SHORT, tokens)
    assert torch.equal(read(half, SHORT, tokens), read(exact, SHORT, tokens))
    near, far = read(half.train(), SHORT, tokens), read(exact.train(), SHORT, tokens)
    assert near.dtype == torch.float32
    assert torch.equal(near, drafted)
    assert not torch.equal(near, far)
    torch.testing.assert_close(near, far, atol=0.03, rtol=0)
    torch.testing.assert_close(near.norm(dim=1), torch.ones(len(near)))
    scored(half, tokens).backward()
    assert all(parameter.grad.isfinite().all() for parameter in half.parameters() if parameter.requires_grad)


def test_every_adapter_gets_a_gradient_in_one_step_and_the_base_none(tiny_base: Path, tokens: Ragged) -> None:
    encoder = encoder_of(tiny_base)
    stir(encoder)
    scored(encoder, tokens).backward()
    for name in NAMES:
        gradients = [p.grad for parameter, p in encoder.named_parameters() if f".{name}." in parameter]
        assert gradients
        assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    assert all(p.grad is None for name, p in encoder.named_parameters() if "lora_" not in name)


def test_adapters_lie_on_every_linear_layer_of_their_blocks_only(tiny_base: Path) -> None:
    def layers(encoder: TextEncoder, adapter: str) -> set[str]:
        return {name for name, _ in encoder.named_modules() if name.endswith(f"lora_A.{adapter}")}

    assert len(layers(encoder_of(tiny_base), SHORT)) == 2 * 6
    assert not any("pooler" in name for name in layers(encoder_of(tiny_base), SHORT))
    split = encoder_of(tiny_base, **top_block())
    assert len(layers(split, "description")) == 6
    assert all(".layer.1." in name for name in layers(split, "description"))
    assert len(layers(split, SHORT)) == 12


def test_without_blocks_there_is_no_adapter_and_the_base_itself_reads(tiny_base: Path, tokens: Ragged) -> None:
    encoder = encoder_of(tiny_base, adapters=Adapters(description=Adapter()))
    stir(encoder)
    assert not [name for name, _ in encoder.named_parameters() if ".excluded." in name]
    assert not encoder.learns("excluded")
    plain = encoder_of(tiny_base)
    torch.testing.assert_close(read(encoder, "excluded", tokens), read(plain, "excluded", tokens))
    states = hidden_states(encoder, "excluded", tokens, 64)
    torch.testing.assert_close(read(encoder, "excluded", states), read(plain, "excluded", tokens), atol=2e-3, rtol=2e-3)


def test_vectors_have_length_one(tiny_base: Path, tokens: Ragged) -> None:
    torch.testing.assert_close(read(encoder_of(tiny_base), SHORT, tokens).norm(dim=-1), torch.ones(4))


def test_top_blocks_over_cached_states_give_what_the_whole_model_gives(tiny_base: Path, tokens: Ragged) -> None:
    whole, split = encoder_of(tiny_base), encoder_of(tiny_base, **top_block())
    # An adapter of all blocks beside it must not reach what is cached.
    stir_short = [p for name, p in split.named_parameters() if "lora_B.short" in name]
    for parameter in stir_short:
        torch.nn.init.normal_(parameter, std=0.5)
    states = hidden_states(split, "description", tokens, 64)
    assert states.values.dtype == np.float16
    expected = read(whole, "description", tokens)
    torch.testing.assert_close(read(split, "description", states), expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(read(split, "description", tokens), expected)


def test_grouping_and_padding_do_not_change_a_text(tiny_base: Path, tokens: Ragged) -> None:
    encoder = encoder_of(tiny_base)
    stir(encoder)
    together = encoder.encode(SHORT, tokens, np.array([3, 0, 2]), 4096)
    apart = torch.cat([encoder.encode(SHORT, tokens, np.array([row]), 1) for row in (3, 0, 2)])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_adapters_differ_once_they_have_learned(tiny_base: Path, tokens: Ragged) -> None:
    encoder = encoder_of(tiny_base)
    torch.testing.assert_close(read(encoder, SHORT, tokens), read(encoder, "description", tokens))
    stir(encoder)
    assert not torch.allclose(read(encoder, SHORT, tokens), read(encoder, "description", tokens))


def test_several_groups_are_recomputed_with_the_same_adapter_and_give_the_same_gradients(
    tiny_base: Path, tokens: Ragged
) -> None:
    def gradients(tokens_per_group: int) -> dict[str, torch.Tensor]:
        encoder = encoder_of(tiny_base)
        stir(encoder)
        scored(encoder, tokens, tokens_per_group).backward()
        return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}

    one, several = gradients(4096), gradients(16)
    assert one.keys() == several.keys()
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, msg=name, atol=1e-5, rtol=1e-4)


def test_what_is_recomputed_repeats_the_dropout_of_the_first_time(
    tiny_base: Path, tokens: Ragged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> dict[str, torch.Tensor]:
        encoder = encoder_of(tiny_base).train()
        stir(encoder)
        torch.manual_seed(5)
        scored(encoder, tokens, 16).backward()
        return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}

    recomputed = gradients()
    monkeypatch.setattr(
        "naics_pipeline.text_model.encoder.checkpoint", lambda run, *values, use_reentrant: run(*values)
    )
    kept = gradients()
    assert recomputed.keys() == kept.keys()
    for name, value in kept.items():
        torch.testing.assert_close(recomputed[name], value, msg=name, atol=1e-6, rtol=1e-5)


def test_several_groups_keep_one_for_the_backward_pass(tiny_base: Path, tokens: Ragged) -> None:
    encoder, many = encoder_of(tiny_base), Ragged.joined([tokens] * 8)

    def kept(tokens_per_group: int) -> int:
        sizes: list[int] = []

        def pack(value: torch.Tensor) -> torch.Tensor:
            sizes.append(value.nbytes)
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            read(encoder, SHORT, many, tokens_per_group)
        return sum(sizes)

    groups = length_groups(many.lengths, 200)
    padded = [len(group) * int(many.lengths[group].max()) for group in groups]
    assert len(groups) > 2
    assert kept(200) < 1.2 * kept(8192) * max(padded) / sum(padded)


def test_the_largest_of_several_groups_is_read_once(
    tiny_base: Path, tokens: Ragged, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, many = encoder_of(tiny_base), Ragged.joined([tokens] * 8)
    groups = length_groups(many.lengths, 200)
    sizes: list[int] = []

    def counted(name: str, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        sizes.append(values.numel())
        return encode(name, values, mask)

    encode = encoder._encode
    monkeypatch.setattr(encoder, "_encode", counted)
    read(encoder, SHORT, many, 200).sum().backward()
    assert len(sizes) == 2 * len(groups) - 1
    assert sizes.count(max(sizes)) == 1


def test_dropout_is_on_in_training_and_off_in_evaluation(tiny_base: Path, tokens: Ragged) -> None:
    encoder = encoder_of(tiny_base)
    stir(encoder)
    assert torch.equal(read(encoder, SHORT, tokens), read(encoder, SHORT, tokens))
    encoder.train()
    assert not torch.equal(read(encoder, SHORT, tokens), read(encoder, SHORT, tokens))
    still = encoder_of(tiny_base, dropout=0.0).train()
    assert torch.equal(read(still, SHORT, tokens), read(still, SHORT, tokens))


def test_more_blocks_than_there_are_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.adapters\.short\.blocks: 3 of the 2 blocks"):
        encoder_of(tiny_base, adapters=Adapters(short=Adapter(blocks=3)))


def test_full_fine_tuning_trains_a_base_of_its_own_for_short_text(tiny_base: Path, tokens: Ragged) -> None:
    encoder = encoder_of(tiny_base, short_text="full")
    before = read(encoder, "description", tokens).detach()
    assert not [name for name, _ in encoder.named_parameters() if ".short." in name]
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.5)
    scored(encoder, tokens).backward()
    assert encoder.full is not None
    assert all(p.grad is not None for name, p in encoder.full.named_parameters() if "layer.1.attention.self" in name)
    optimizer.zero_grad()
    (read(encoder, SHORT, tokens)[:, 0]).sum().backward()
    optimizer.step()
    torch.testing.assert_close(read(encoder, "description", tokens), before)
    assert not torch.allclose(read(encoder, SHORT, tokens), before)


@pytest.mark.parametrize(
    "changes",
    [{}, top_block(SHORT), {"adapters": Adapters()}, {"short_text": "full"}],
    ids=["all adapters", "top block", "short alone", "full"],
)
def test_merged_weights_read_short_text_as_the_adapter_does(
    changes: dict[str, object], tiny_base: Path, tokens: Ragged
) -> None:
    encoder = encoder_of(tiny_base, **changes)
    stir(encoder)
    with torch.no_grad():
        before = {name: read(encoder, name, tokens) for name in (SHORT, BASE)}
        encoder.merge_short()
        for name, vectors in before.items():
            torch.testing.assert_close(read(encoder, name, tokens), vectors, atol=1e-5, rtol=1e-5)
    assert not [name for name, _ in encoder.named_parameters() if "lora_" in name]
