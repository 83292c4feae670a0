"""An index of a few codes whose text model is a tiny base with random weights: words decide."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from naics_pipeline.search.index import Index, Ingredients, write_index
from naics_pipeline.text_model.checkpoints import Checkpoint, write_checkpoint
from naics_pipeline.text_model.embeddings import Embeddings
from naics_pipeline.text_model.inference import TextEmbedder
from naics_pipeline.text_model.model import TextModel
from naics_pipeline_tests.text_model.small import settings_of

CODES = {
    "111110": "Soybean Farming",
    "111150": "Corn Farming",
    "722511": "Full-Service Restaurants",
    "722513": "Limited-Service Restaurants",
    "812910": "Pet Care Services",
}
ENTRIES = {
    "111110": ["soybean farming, field and seed production", "growing soybeans"],
    "111150": ["corn farming, field and seed production", "growing corn"],
    "722511": ["restaurants, full service", "family restaurants with waiters"],
    "722513": ["pizza delivery shops", "restaurants, fast food"],
    "812910": ["grooming of dogs", "kennels, pet boarding"],
}


def rows(pairs: list[tuple[str, str]], **columns: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"code": [code for code, _ in pairs], "text": [text for _, text in pairs], **columns})


def ingredients_of(tiny_base: Path, directory: Path) -> Ingredients:
    torch.manual_seed(0)
    above = {code[:digits] for code in CODES for digits in (2, 3, 4, 5)}
    codes = sorted({*CODES, *above})
    settings = settings_of(tiny_base)
    model = TextModel(tiny_base, settings, codes)
    model.fusion.start_from(
        torch.nn.functional.normalize(torch.randn(60, model.encoder.width), dim=-1), torch.arange(60) % 6
    )
    embedder = TextEmbedder(model, settings, "first", torch.device("cpu"))
    record = {"codes": codes, "stage": {"name": "first"}, "settings": settings.model_dump(mode="json")}
    state = {f"model.{name}": value for name, value in model.trained_state().items()}
    write_checkpoint(directory / "best.safetensors", Checkpoint(state, record))
    entries = [(code, text) for code, texts in ENTRIES.items() for text in texts]
    titles = [(code, CODES.get(code, f"Group {code}")) for code in codes]
    unseen = [(code, f"{text} here") for code, text in entries]
    space = embedder.embed_rows(rows(titles))
    descriptions = pl.DataFrame(
        {
            "code": codes,
            "title": [title for _, title in titles],
            "excluded_codes": [["722513"] if code == "722511" else [] for code in codes],
        },
        schema_overrides={"excluded_codes": pl.List(pl.String)},
    )
    return Ingredients(
        descriptions=descriptions,
        space=Embeddings(space.codes, space.points, space.curvature, space.geometry),
        places=embedder.embed_with_base(
            rows([*titles, *entries], kind=["title"] * len(titles) + ["entry"] * len(entries))
        ),
        queries=embedder.embed_with_base(rows(unseen, split=["validation"] * len(unseen))),
        checkpoint=directory / "best.safetensors",
        vintage=2022,
        seed=0,
    )


@pytest.fixture(scope="session")
def index_path(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("index")
    write_index(directory / "naics_index", ingredients_of(tiny_base, directory))
    return directory / "naics_index"


@pytest.fixture(scope="session")
def index(index_path: Path) -> Index:
    return Index.load(index_path)


def first_codes(chances: np.ndarray, index: Index) -> list[str]:
    found: list[str] = index.candidates[chances.argmax(axis=1)].tolist()
    return found
