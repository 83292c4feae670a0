"""Adapters, split of the base, and fusion."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Adapter, Adapters, Model, Shares, TrainingPrecision
from naics_pipeline.text_model.base import length_groups
from naics_pipeline.text_model.encoder import BASE, TextEncoder, hidden_states
from naics_pipeline.text_model.fusion import Fusion, MixtureOfExperts, drop_channels
from naics_pipeline.text_model.tokens import CHANNELS, LONG_CHANNELS, SHORT, Ragged, tokenize
from naics_pipeline_tests.text_model.small import ALL, discriminants

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
    near, far = read(half.train(), SHORT, tokens), read(exact.train(), SHORT, tokens)
    assert near.dtype == torch.float32
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


def test_experts_match_their_definition() -> None:
    torch.manual_seed(0)
    moe = MixtureOfExperts(6, 8, 5, experts=4, top_k=2, dropout=0.0)
    assert (moe(torch.randn(7, 6))[0] == 0).all()
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter)
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


@pytest.mark.parametrize("curvature", [0.1, 1.0, 10.0])
def test_points_at_the_bound_of_the_radius_are_exact_whatever_the_curvature(curvature: float) -> None:
    fusion = Fusion(8, Model(curvature=curvature, learn_curvature=True, embedding_dim=4, expert_dim=8)).eval()
    torch.nn.init.constant_(fusion.log_text_radius, 6.0)
    points = fusion.place_texts(torch.randn(20, 8))
    torch.testing.assert_close(fusion.radii(points), torch.full((20,), 8 / curvature**0.5), rtol=1e-4, atol=0)
    exact = lorentz.from_spatial(points[:, 1:].double(), curvature=curvature)
    assert lorentz.violation(exact, curvature=curvature).max() < 1e-6
    distances = fusion.distances(points, points)
    distances.sum().backward()
    assert torch.isfinite(fusion.log_curvature.grad)
    assert torch.isfinite(distances).all()


@pytest.mark.parametrize("fusion", ["moe", "linear"])
@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
def test_an_absent_channel_counts_as_its_learned_vector(fusion: str, geometry: str) -> None:
    torch.manual_seed(0)
    model = Fusion(8, Model(fusion=fusion, geometry=geometry, embedding_dim=4, expert_dim=8)).eval()
    channels = torch.randn(3, 4, 8)
    present = torch.ones(3, 4, dtype=torch.bool)
    present[1, 2] = False
    for parameter in model.experts.parameters():
        torch.nn.init.normal_(parameter, std=0.01)
    offset = 0.1 * torch.randn(3, 5)
    before, _ = model(channels, present, offset)
    channels[1, 2] = 99.0
    after, _ = model(channels, present, offset)
    torch.testing.assert_close(before, after)
    after.square().sum().backward()
    assert model.absent.grad[2].abs().sum() > 0
    assert (model.absent.grad[[0, 1, 3]] == 0).all()
    if geometry == "lorentz":
        assert lorentz.violation(after.double(), curvature=float(model.curvature)).max() < 1e-4
        assert after.shape == (3, 5)
    else:
        assert after.shape == (3, 4)


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_code_lies_towards_the_channel_with_the_greatest_share(channel: str) -> None:
    torch.manual_seed(0)
    shares = Shares(**{name: 1.0 if name == channel else 1e-3 for name in CHANNELS})
    model = Fusion(8, Model(shares=shares, embedding_dim=4, expert_dim=8)).eval()
    channels = torch.nn.functional.normalize(torch.randn(1, 4, 8), dim=-1)
    code, _ = model(channels, torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 5))
    distance = model.distances(code, model.place_texts(channels[0]))
    assert CHANNELS[int(distance.argmin())] == channel


@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
def test_distances_are_those_of_the_geometry(geometry: str) -> None:
    torch.manual_seed(0)
    model = Fusion(8, Model(geometry=geometry, embedding_dim=4, expert_dim=8)).eval()
    points, _ = model(torch.randn(80, 4, 8), torch.ones(80, 4, dtype=torch.bool), torch.zeros(80, 5))
    points = points.double()
    found = model.distances(points, points)
    curved = partial(lorentz.distance, curvature=model.curvature)
    reference = {"lorentz": lambda u, v: curved(u[:, None], v[None]), "euclidean": torch.cdist}
    expected = reference[geometry](points, points)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_space_starts_as_the_cosine_of_discriminant_directions() -> None:
    torch.manual_seed(0)
    code = torch.arange(12).repeat_interleave(5)
    vectors = torch.nn.functional.normalize(torch.randn(12, 16)[code] + torch.randn(60, 16) + 1, dim=-1)
    model = Fusion(16, Model(embedding_dim=4, expert_dim=8)).eval()
    model.start_from(vectors, code)
    channels, present = torch.zeros(60, 4, 16), torch.zeros(60, 4, dtype=torch.bool)
    channels[:, 0], present[:, 0] = vectors, True
    points, _ = model(channels, present, torch.zeros(60, 5))
    torch.testing.assert_close(model.place_texts(vectors), points)
    exact = vectors.double().numpy()
    kept = torch.from_numpy((exact - exact.mean(0)) @ discriminants(exact, code.numpy(), 4))
    kept = torch.nn.functional.normalize(kept, dim=-1)
    found = model.distances(points.double(), points.double())
    assert torch.equal(found.argsort(1)[:, 1:], (-kept @ kept.T).argsort(1)[:, 1:])
    radii = model.radii(points)
    torch.testing.assert_close(radii, radii[0].expand(60), rtol=1e-4, atol=1e-4)


def test_the_space_starts_with_what_tells_codes_apart_rather_than_with_what_varies_most() -> None:
    torch.manual_seed(0)
    code = torch.arange(4).repeat_interleave(100)
    noise = torch.randn(400, 16) * torch.tensor([1.0] * 8 + [0.1] * 8)
    vectors = torch.nn.functional.normalize(noise + torch.nn.functional.one_hot(code + 8, 16), dim=-1)
    model = Fusion(16, Model(embedding_dim=3, expert_dim=8)).eval()
    model.start_from(vectors, code)
    points = model.place_texts(vectors)
    nearest = model.distances(points, points).fill_diagonal_(torch.inf).argmin(1)
    assert (code[nearest] == code).float().mean() > 0.9


def test_a_single_code_and_as_many_dimensions_as_the_base_has_are_a_start_as_well() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    model = Fusion(8, Model(embedding_dim=12, expert_dim=8)).eval()
    model.start_from(vectors, torch.zeros(5, dtype=torch.int64))
    assert model.place_texts(vectors).isfinite().all()


@pytest.mark.parametrize("geometry", ["lorentz", "euclidean"])
def test_an_offset_turns_a_code_and_moves_it_in_or_out(geometry: str) -> None:
    torch.manual_seed(0)
    model = Fusion(8, Model(geometry=geometry, embedding_dim=4, expert_dim=8)).eval()
    channels, present = torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool)
    offset = torch.zeros(3, 5)
    offset[1, :4], offset[2, 4] = 5.0, 0.3
    with torch.no_grad():
        plain, moved = model(channels, present, torch.zeros(3, 5))[0], model(channels, present, offset)[0]
    torch.testing.assert_close(moved[0], plain[0])
    radii, others = model.radii(plain), model.radii(moved)
    torch.testing.assert_close(others[1], radii[1])
    assert model.paired_distances(plain, moved)[1] > 1
    assert float(others[2] / radii[2]) == pytest.approx(np.exp(0.3), rel=0.05)


def test_curvature_is_learned_only_when_asked_and_stays_in_bounds() -> None:
    assert not Fusion(8, Model()).log_curvature.requires_grad
    model = Fusion(8, Model(learn_curvature=True, embedding_dim=4, expert_dim=8))
    points, _ = model(torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, 5))
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
