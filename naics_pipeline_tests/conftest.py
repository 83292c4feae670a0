"""Fixtures shared by all tests: the bundled sample, the real workbooks where they are present, a tiny base
model, a browser."""

import os

# Before torch is imported, and for the processes that tests start: the tiny models gain nothing from several threads,
# which on a busy machine wait for one another instead.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from naics_pipeline.settings import Download
from naics_pipeline.taxonomy import census, text, tree

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """What a test draws is the same in every run, and whatever ran before it in the same process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def census_2022() -> Path:
    """Directory of the four NAICS 2022 workbooks."""
    directory = Path(os.environ.get("NAICS_CENSUS_DIR", REPOSITORY.parent / "shared" / "census" / "2022"))
    if not directory.is_dir():
        pytest.skip(f"no real workbooks at {directory}; set NAICS_CENSUS_DIR to a directory that holds them")
    return directory


@pytest.fixture(scope="session")
def real_books(census_2022: Path, tmp_path_factory: pytest.TempPathFactory) -> census.Workbooks:
    return census.read_source(str(census_2022), 2022, Download(), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_entries(real_books: census.Workbooks) -> pl.DataFrame:
    return text.index_entries(real_books, 0.2, 0.08)


@pytest.fixture(scope="session")
def real_descriptions(real_books: census.Workbooks, real_entries: pl.DataFrame) -> pl.DataFrame:
    return text.descriptions(real_books, real_entries)


@pytest.fixture(scope="session")
def real_tree(real_descriptions: pl.DataFrame) -> tree.Tree:
    return tree.Tree.from_codes(real_descriptions["code"].to_list())


@pytest.fixture(scope="session")
def sample_books(tmp_path_factory: pytest.TempPathFactory) -> census.Workbooks:
    return census.read_source("sample", 2022, Download(), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def sample_entries(sample_books: census.Workbooks) -> pl.DataFrame:
    return text.index_entries(sample_books, 0.2, 0.08)


@pytest.fixture(scope="session")
def sample_descriptions(sample_books: census.Workbooks, sample_entries: pl.DataFrame) -> pl.DataFrame:
    return text.descriptions(sample_books, sample_entries)


@pytest.fixture(scope="session")
def sample_tree(sample_descriptions: pl.DataFrame) -> tree.Tree:
    return tree.Tree.from_codes(sample_descriptions["code"].to_list())


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised BERT of two blocks and 32 dimensions, saved the way the hub serves models."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("tiny_base")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    ids = {token: position for position, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(directory)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=160,
    )
    # Of other weights one in twenty finds other codes for the few texts of a test.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium of this machine; CHROMIUM names another."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright, to test pages in a browser")
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium, or name one in CHROMIUM")
    with playwright.sync_playwright() as driver:
        # Chromium's own sandbox does not start for root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = driver.chromium.launch(executable_path=path, args=arguments)
        yield launched
        launched.close()
