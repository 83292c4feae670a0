"""One stage after another: what the next begins with, and what makes it another."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.text_model import checkpoints, inference
from naics_pipeline.text_model.checkpoints import load_weights
from naics_pipeline.text_model.curriculum.stage import Stage
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.training import run as training_run
from naics_pipeline.text_model.training.run import stage_key
from naics_pipeline_tests.text_model.small import ONE_EPOCH, STAGE, changed, settings_of, state_of, trained_terms


def test_the_next_stage_starts_from_the_weights_of_the_one_before(run, finished, tiny_base: Path) -> None:
    still = ONE_EPOCH.model_copy(update={"name": "second", "after": "first", "learning_rate": 1e-12})
    second = state_of(run(settings_of(tiny_base), still, start_from=finished.best.parent).last)
    for name, value in state_of(finished.best).items():
        torch.testing.assert_close(second[name], value, msg=name, atol=1e-6, rtol=1e-4)


def test_a_stage_is_known_by_all_that_it_depends_on(frames, tiny_base: Path, tmp_path: Path, monkeypatch) -> None:
    settings = settings_of(tiny_base)
    keys = [
        stage_key(STAGE, settings, frames, tiny_base, None),
        stage_key(ONE_EPOCH, settings, frames, tiny_base, None),
        stage_key(STAGE, settings, frames, tiny_base, "earlier"),
        stage_key(STAGE, changed(settings, "model", base_share=0.1), frames, tiny_base, None),
        stage_key(STAGE, changed(settings, "tokens", short=13), frames, tiny_base, None),
        stage_key(STAGE, settings, frames | {"phrases": frames["phrases"][1:]}, tiny_base, None),
    ]
    monkeypatch.setattr(training_run, "code_version", lambda: "another loss")
    keys.append(stage_key(STAGE, settings, frames, tiny_base, None))
    monkeypatch.undo()
    other_base = shutil.copytree(tiny_base, tmp_path / "base")
    with (other_base / "model.safetensors").open("ab") as file:
        file.write(b"tuned")
    keys.append(stage_key(STAGE, settings, frames, other_base, None))
    assert len(set(keys)) == len(keys)
    elsewhere = settings.model_copy(update={"data_dir": "elsewhere"})
    assert stage_key(STAGE, changed(elsewhere, "graph", steps=9), frames, tiny_base, None) == keys[0]


def test_weights_of_another_shape_or_a_damaged_checkpoint_are_refused(
    run, stage_directory: Path, tiny_base: Path, tmp_path: Path
) -> None:
    after = ONE_EPOCH.model_copy(update={"name": "second", "after": "first"})
    for model in ({"embedding_dim": 9}, {"short_text": "full"}):
        with pytest.raises(ModelError, match="trained with other model settings"):
            run(changed(settings_of(tiny_base), "model", **model), after, start_from=stage_directory)
    best = stage_directory / checkpoints.BEST
    settings = settings_of(tiny_base)
    with pytest.raises(ModelError, match="trained for other codes"):
        load_weights(TextModel(tiny_base, settings, ["11", "21"]), best)
    best.write_bytes(best.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        run(settings_of(tiny_base), after, start_from=stage_directory)
    best.unlink()
    with pytest.raises(ModelError, match="no finished checkpoint"):
        run(settings_of(tiny_base), after, start_from=stage_directory)
    with pytest.raises(ModelError, match="no such checkpoint"):
        inference.TextEmbedder.load(best, "cpu")


def test_a_stage_may_weigh_terms_anew_and_leave_the_adapters_alone(run, tiny_base: Path) -> None:
    alone = Stage(name="short", contrastive=0, hierarchy=0, radius=0, epochs=1, learning_rate=0.003)
    first = run(settings_of(tiny_base), alone)
    assert trained_terms(first) == {"query", "neighbour", "balance"}
    assert not [name for name in first.history[0] if name.startswith("negatives/")]
    still = ONE_EPOCH.model_copy(update={"name": "still", "after": "short", "adapter_rate": 0.0, "query": 0.5})
    second = run(settings_of(tiny_base, radius=0.0), still, start_from=first.best.parent)
    assert trained_terms(second) == {"query", "balance", "contrastive", "hierarchy"}
    before, after = state_of(first.best), state_of(second.best)
    assert all(torch.equal(before[name], after[name]) for name in before if "lora_" in name)
    assert torch.equal(before["model.fusion.projection.weight"], after["model.fusion.projection.weight"])
    assert not torch.equal(before["model.offset"], after["model.offset"])


def test_a_stage_that_leaves_the_adapters_alone_does_not_read_again_what_the_last_one_read(
    run, tiny_base: Path, tmp_path: Path, monkeypatch
) -> None:
    settings = settings_of(tiny_base)
    first = run(settings, ONE_EPOCH)
    read, texts = TextModel.read_short, []

    def counted(self, tokens, base=None):
        texts.append(len(tokens))
        return read(self, tokens, base)

    monkeypatch.setattr(TextModel, "read_short", counted)
    still = ONE_EPOCH.model_copy(update={"name": "still", "after": "first", "adapter_rate": 0.0})
    kept = run(settings, still, start_from=first.best.parent)
    assert max(texts) < len(first.places.codes)
    for file in (tmp_path / "hidden").glob("read-*"):
        file.unlink()
    anew = run(settings, still, start_from=first.best.parent, place="anew")
    assert max(texts) == len(first.places.codes)
    np.testing.assert_allclose(kept.codes.points, anew.codes.points, rtol=1e-5)
    other = run(settings.model_copy(update={"seed": 5}), ONE_EPOCH, place="other")
    assert len(list((tmp_path / "hidden").glob("read-*"))) == 1
    assert not np.allclose(other.places.points, first.places.points)
