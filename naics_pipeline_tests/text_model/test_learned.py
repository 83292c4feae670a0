"""What a step moves, and what it leaves as it is."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from naics_pipeline.errors import SettingsError
from naics_pipeline.settings import Adapter, Adapters
from naics_pipeline.text_model.tokens import LONG_CHANNELS, SHORT
from naics_pipeline.text_model.training.batches import Batch
from naics_pipeline.text_model.training.module import StageModule
from naics_pipeline_tests.text_model.small import (
    CACHED,
    STAGE,
    module_of,
    settings_of,
    total_loss,
)


def learned(module: StageModule) -> list[tuple[str, torch.nn.Parameter]]:
    """Parameters of the model by their names there, and those of the objective."""
    own = [(f"objective.{name}", value) for name, value in module.objective.named_parameters()]
    return [*module.model.named_parameters(), *own]


def moved(module: StageModule, batches: list[Batch], steps: int = 2) -> set[str]:
    """Names of parameters that some steps change."""
    module.train()
    before = {name: value.clone() for name, value in learned(module)}
    optimizer = module.configure_optimizers()["optimizer"]
    for _, batch in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        total_loss(module, batch).backward()
        optimizer.step()
    return {name for name, value in learned(module) if not torch.equal(value, before[name])}


def adapters_of(names: set[str], adapter: str) -> set[str]:
    return {name for name in names if f".{adapter}." in name and "lora_" in name}


def test_every_weight_of_every_adapter_moves_in_a_step_and_none_of_the_base(one_step) -> None:
    module, batches = one_step
    names = {name for name, _ in learned(module)}
    changed_names = moved(module, batches)
    for adapter in (SHORT, *LONG_CHANNELS):
        # Two matrices, six linear layers, two blocks.
        assert len(adapters_of(names, adapter)) == 24
        assert adapters_of(changed_names, adapter) == adapters_of(names, adapter)
    assert not {name for name in changed_names if name.startswith("encoder.") and "lora_" not in name}
    assert {
        "offset",
        "fusion.log_share",
        "fusion.log_radius",
        "fusion.log_text_radius",
        "objective.log_scale",
    } <= changed_names
    assert not {name for name in changed_names if name.startswith("fusion.projection")}


def test_an_adapter_of_the_top_block_leaves_the_others_to_the_base(inputs_of, tiny_base: Path) -> None:
    settings = settings_of(tiny_base, CACHED)
    names = moved(*module_of(inputs_of(settings), settings))
    assert len(adapters_of(names, SHORT)) == 24
    for adapter in LONG_CHANNELS:
        assert len(adapters_of(names, adapter)) == 12
        assert all(".layer.1." in name for name in adapters_of(names, adapter))


def test_without_blocks_there_is_no_adapter_and_nothing_is_learned(inputs_of, tiny_base: Path) -> None:
    none = Adapters(short=Adapter(blocks=0), description=Adapter(), excluded=Adapter(blocks=0))
    settings = settings_of(tiny_base, {"adapters": none, "base_share": 0.0})
    module, batches = module_of(inputs_of(settings), settings)
    before = module.tables.short.values.clone(), module.tables.long["excluded"].values.clone()
    names = moved(module, batches)
    assert not adapters_of(names, SHORT) | adapters_of(names, "excluded")
    # The one beside them learns none the less.
    assert len(adapters_of(names, "description")) == 24
    module.tables.renew(module.model)
    assert torch.equal(module.tables.short.values, before[0])
    assert torch.equal(module.tables.long["excluded"].values, before[1])


def test_full_fine_tuning_moves_a_base_of_its_own(inputs_of, tiny_base: Path) -> None:
    settings = settings_of(tiny_base, {"short_text": "full"})
    names = moved(*module_of(inputs_of(settings), settings))
    assert not adapters_of(names, SHORT)
    own = {name for name in names if name.startswith("encoder.full.")}
    assert all(
        any(f".layer.{block}.{part}" in name for name in own) for block in (0, 1) for part in ("attention", "output")
    )
    assert not {name for name in names if name.startswith("encoder.model.") and "lora_" not in name}


def test_adapters_stay_at_rate_zero_and_the_fusion_learns(inputs_of, tiny_base: Path) -> None:
    settings = settings_of(tiny_base)
    names = moved(*module_of(inputs_of(settings), settings, STAGE.model_copy(update={"adapter_rate": 0.0})))
    assert not {name for name in names if name.startswith("encoder.")}
    assert "offset" in names


def test_a_share_of_the_base_stays_in_what_short_text_says(inputs_of, tiny_base: Path) -> None:
    settings = settings_of(tiny_base, {"base_share": 0.4})
    module, batches = module_of(inputs_of(settings), settings)
    base = module.tables.short.values.clone()
    torch.testing.assert_close(base, module.tables.base_short, atol=1e-5, rtol=1e-5)
    moved(module, batches)
    module.tables.renew(module.model)
    module.eval()
    tuned = module.model.read(SHORT, module.plan.inputs.short.tokens).detach()
    assert not torch.allclose(tuned, base, atol=1e-3)
    torch.testing.assert_close(
        module.tables.short.values, normalize(0.6 * tuned + 0.4 * base, dim=-1), atol=1e-5, rtol=1e-5
    )


def test_retention_brings_back_an_adapter_that_went_astray(inputs_of, tiny_base: Path) -> None:
    settings = settings_of(tiny_base, {"base_share": 0.0}, retention=1.0, neighbour=0.0)
    module, batches = module_of(inputs_of(settings), settings)
    astray = {name: value for name, value in learned(module) if "lora_" in name and f".{SHORT}." in name}
    with torch.no_grad():
        for value in astray.values():
            value.add_(0.1 * torch.randn_like(value))
    terms = []
    for _ in range(8):
        term = module.read_and_score(batches[0])["retention"]
        terms.append(term.item())
        for value, gradient in zip(astray.values(), torch.autograd.grad(term, list(astray.values())), strict=True):
            value.data.sub_(0.3 * gradient)
    assert terms[-1] < 0.5 * terms[0]


def test_texts_of_a_code_come_together(inputs_of, tiny_base: Path) -> None:
    settings = settings_of(tiny_base, {"base_share": 0.0}, neighbour=1.0, query=0.0, hierarchy=0.0, contrastive=0.0)
    module, batches = module_of(inputs_of(settings), settings)

    def term() -> float:
        module.eval()
        with torch.no_grad():
            return sum(module.read_and_score(batch)["neighbour"].item() for batch in batches) / len(batches)

    before = term()
    moved(module, 6 * batches, steps=24)
    assert term() < 0.9 * before


@pytest.mark.parametrize("term", ["neighbour", "retention"])
def test_a_term_of_texts_that_learn_reads_them_by_itself(inputs_of, tiny_base: Path, term: str) -> None:
    settings = settings_of(tiny_base, query=0.0, contrastive=0.0, hierarchy=0.0, **{term: 1.0})
    module, (batch, *_) = module_of(inputs_of(settings), settings)
    assert term in module.read_and_score(batch)
    resting = STAGE.model_copy(update={"adapter_rate": 0.0})
    with pytest.raises(SettingsError, match="would read nothing"):
        module_of(inputs_of(settings), settings, resting)


def test_a_stage_may_not_ask_a_base_that_nobody_reads(inputs_of, tiny_base: Path) -> None:
    settings = settings_of(tiny_base, {"base_share": 0.0}, retention=0.0)
    with pytest.raises(SettingsError, match="stage first: retention has a weight here"):
        module_of(inputs_of(settings), settings, STAGE.model_copy(update={"retention": 1.0}))
