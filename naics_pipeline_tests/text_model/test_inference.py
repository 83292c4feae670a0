"""A trained text model at work: where it puts codes and texts, and what of it is kept and read back."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Model
from naics_pipeline.text_model import inference
from naics_pipeline_tests.text_model.small import CACHED, ONE_EPOCH, changed, settings_of, state_of


def test_codes_lie_where_their_cached_states_put_them(run, tiny_base: Path, frames) -> None:
    result = run(settings_of(tiny_base, CACHED))
    afresh = inference.TextEmbedder.load(result.best, "cpu").embed_codes(frames["descriptions"])
    assert result.codes.codes.tolist() == afresh.codes.tolist()
    np.testing.assert_allclose(result.codes.points, afresh.points, rtol=0, atol=0.02 * afresh.points[:, 1:].std())


def test_short_texts_are_places_of_the_space_and_unseen_ones_are_not(finished, frames) -> None:
    places, entries = finished.places, frames["index_entries"]
    assert set(places.columns["kind"]) == {"title", "entry", "phrase", "sentence"}
    texts = set(places.columns.filter(kind="entry")["text"])
    assert not set(entries.filter(pl.col("split") != "train")["entry"]) & set(places.columns["text"])
    assert set(entries.filter(split="train")["entry"]) <= texts
    afresh = finished.embedder.embed_texts(places.columns["text"].to_list())
    np.testing.assert_allclose(places.points, afresh, atol=1e-4)


def sound(points: np.ndarray, rows: int, embeddings: inference.Embeddings) -> None:
    width = 8 if embeddings.geometry == "euclidean" else 9
    assert points.shape == (rows, width)
    assert np.isfinite(points).all()
    if width == 9:
        assert float(lorentz.violation(torch.from_numpy(points), curvature=embeddings.curvature).max()) < 1e-9


@pytest.mark.parametrize(
    "model",
    [
        {"fusion": "linear"},
        {"geometry": "euclidean"},
        CACHED,
        {"learn_curvature": True, "curvature": 1.0},
        {"base_share": 0.0},
    ],
    ids=["linear", "euclidean", "cached", "curvature", "no share of the base"],
)
def test_ablations_train_and_embed(run, tiny_base: Path, frames, model) -> None:
    result = run(settings_of(tiny_base, model), ONE_EPOCH)
    embedder = inference.TextEmbedder.load(result.best, "cpu")
    codes = embedder.embed_codes(frames["descriptions"])
    sound(codes.points, frames["descriptions"].height, codes)
    sound(embedder.embed_texts(["growing soybeans", "bank"]), 2, codes)
    start = model.get("curvature", Model().curvature)
    assert (codes.curvature != pytest.approx(start)) == model.get("learn_curvature", False)


def test_full_fine_tuning_is_saved_and_read_back(run, tiny_base: Path, frames) -> None:
    result = run(settings_of(tiny_base, {"short_text": "full"}), ONE_EPOCH)
    state = {name: value for name, value in state_of(result.best).items() if ".encoder.full." in name}
    base = inference.TextEmbedder.load(result.best, "cpu").model.encoder.model.get_base_model().state_dict()
    moved = {name for name, value in state.items() if "lora" not in name and _differs(name, value, base)}
    assert len(moved) > 20
    read_back = inference.TextEmbedder.load(result.best, "cpu")
    np.testing.assert_allclose(
        read_back.embed_texts(["software publishing"]), result.embedder.embed_texts(["software publishing"]), atol=1e-6
    )
    np.testing.assert_allclose(read_back.embed_codes(frames["descriptions"]).points, result.codes.points, atol=1e-4)


def _differs(name: str, value: torch.Tensor, base: dict[str, torch.Tensor]) -> bool:
    """Whether a weight of the trained base is another than the frozen one's, which PEFT may call base_layer."""
    stem, _, last = name.removeprefix("model.encoder.full.").rpartition(".")
    frozen = base.get(f"{stem}.{last}", base.get(f"{stem}.base_layer.{last}"))
    return frozen is not None and not torch.equal(value, frozen)


def test_a_code_that_training_did_not_know_takes_its_place_beside_those_that_say_the_same(finished, frames) -> None:
    embedder = inference.TextEmbedder.load(finished.best, "cpu")
    descriptions = frames["descriptions"]
    place = embedder.model.codes.index("722511")
    # To a base this small all texts say much the same; the place must be one that no other code's comes near.
    embedder.model.offset.data[place] = 1.0
    known = embedder.embed_codes(descriptions)
    twin = descriptions.filter(code="722511").with_columns(code=pl.lit("722599"))
    found = embedder.embed_codes(pl.concat([descriptions, twin]))
    np.testing.assert_allclose(found.points[:-1], known.points, atol=1e-6)
    row = int(np.flatnonzero(known.codes == "722511")[0])
    embedder.model.offset.data[place] = 0
    unplaced = embedder.embed_codes(descriptions)
    np.testing.assert_allclose(np.delete(unplaced.points, row, 0), np.delete(known.points, row, 0), atol=1e-6)
    embedder.model.offset.data.zero_()
    alone = embedder.embed_codes(descriptions)
    assert np.abs(alone.points - known.points).max() > 1e-3

    def from_place(point: np.ndarray) -> float:
        return float(lorentz.distance(*torch.from_numpy(np.stack([known.points[row], point]))))

    assert from_place(found.points[-1]) < from_place(alone.points[row])
    assert np.abs(unplaced.points[row] - alone.points[row]).max() > 1e-4


def test_exported_points_are_those_that_training_evaluated(finished, frames) -> None:
    embeddings = inference.TextEmbedder.load(finished.best, "cpu").embed_codes(frames["descriptions"])
    np.testing.assert_allclose(embeddings.points, finished.codes.points, atol=1e-4)
    points = torch.from_numpy(embeddings.points)
    largest = float(lorentz.pairwise_distance(points, points, curvature=embeddings.curvature).max())
    assert largest == pytest.approx(finished.metrics["largest"], rel=1e-3)


def test_what_was_trained_in_half_precision_is_kept_in_full(run, tiny_base: Path, frames) -> None:
    result = run(changed(settings_of(tiny_base), "training", precision="bf16-mixed"), ONE_EPOCH)
    embedder = inference.TextEmbedder.load(result.best, "cpu")
    np.testing.assert_allclose(embedder.embed_codes(frames["descriptions"]).points, result.codes.points, atol=1e-4)
    places = embedder.embed_texts(result.places.columns["text"].to_list())
    np.testing.assert_allclose(places, result.places.points, atol=1e-4)
