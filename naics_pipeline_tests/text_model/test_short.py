"""Short texts read without the libraries that training needs: as with them, and where that cannot be, with them."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from naics_pipeline.settings import Adapter, Adapters
from naics_pipeline.text_model.base import load_tokenizer, locate
from naics_pipeline.text_model.bert import Tokens, Whole
from naics_pipeline.text_model.checkpoints import Checkpoint, write_checkpoint
from naics_pipeline.text_model.inference import ShortTextEmbedder, TextEmbedder, load_short
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.short import Precision, ShortTexts, precision_of
from naics_pipeline_tests.text_model.small import settings_of

TEXTS = ["Growing soybeans", "flour milling, and more of it", "a", "", "Repair of locomotives " * 9, "growing corn"]
ROWS = pl.DataFrame({"text": TEXTS, "code": [""] * len(TEXTS)})


def written(base: Path, path: Path, **changes: object) -> TextEmbedder:
    """The embedder of a model whose adapters have something to say; its checkpoint is written."""
    torch.manual_seed(0)
    settings = settings_of(base, changes)
    model = TextModel(base, settings, ["11", "111"])
    for name, parameter in model.encoder.named_parameters():
        if "lora_B" in name or name.startswith("full.encoder"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.fusion.start_from(
        torch.nn.functional.normalize(torch.randn(60, model.encoder.width), dim=-1), torch.arange(60) % 6
    )
    record = {"codes": model.codes, "stage": {"name": "first"}, "settings": settings.model_dump(mode="json")}
    write_checkpoint(path, Checkpoint({f"model.{name}": v for name, v in model.trained_state().items()}, record))
    return TextEmbedder(model, settings, "first", torch.device("cpu"))


def vectors(embedder: ShortTextEmbedder) -> np.ndarray:
    return embedder.embed_with_base(ROWS).columns["vector"].to_numpy()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapters": Adapters(short=Adapter(rank=4, alpha=12, blocks=1))},
        {"adapters": Adapters(short=Adapter(blocks=0))},
        {"short_text": "full"},
        {"base_share": 0.0},
        {"geometry": "euclidean"},
    ],
    ids=["all blocks", "top block", "no adapter", "full", "tuned alone", "euclidean"],
)
def test_a_bert_is_read_alone_as_by_transformers(changes: dict[str, object], tiny_base: Path, tmp_path: Path) -> None:
    whole = written(tiny_base, tmp_path / "best", **changes)
    short = load_short(tmp_path / "best", "cpu")
    assert isinstance(short.model, ShortTexts)
    assert vectors(short) == pytest.approx(vectors(whole), abs=1e-5)
    assert short.embed_texts(TEXTS) == pytest.approx(whole.embed_texts(TEXTS), abs=1e-5)
    assert short.embed_texts([]).shape == whole.embed_texts([]).shape


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"is_decoder": True}, {"model_type": "roberta"}])
def test_any_other_base_is_read_by_transformers(change: dict[str, object], tiny_base: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    whole = written(other, tmp_path / "best")
    (other / "config.json").write_text(json.dumps(config | change))
    if "hidden_act" in change:
        whole = written(other, tmp_path / "best")
    short = load_short(tmp_path / "best", "cpu")
    assert isinstance(short.model, TextModel)
    if "hidden_act" in change:
        assert vectors(short) == pytest.approx(vectors(whole), abs=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_fewer_digits_read_nearly_the_same(
    precision: Precision, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    written(tiny_base, tmp_path / "best")
    exact, near = (vectors(load_short(tmp_path / "best", "cpu", None, kind)) for kind in ("float32", precision))
    assert (exact * near).sum(axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=2e-3)
    assert (exact != near).any()


@pytest.mark.parametrize(
    ("asked", "accelerator", "pays", "expected"),
    [
        ("auto", "cpu", True, "bfloat16"),
        ("auto", "cpu", False, "float32"),
        ("auto", "cuda", True, "float32"),
        ("float32", "cpu", True, "float32"),
        ("int8", "cpu", True, "int8"),
    ],
)
def test_in_which_precision_a_search_reads(asked, accelerator, pays, expected, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: pays)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision_of(asked, accelerator) == expected


def test_whole_numbers_multiply_each_row_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(24, 16, generator=generator), torch.randn(24, generator=generator)
    x = torch.randn(3, 5, 16, generator=generator) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    x[0, 0] = 0
    found, exact = Whole(weight, bias)(x), torch.nn.functional.linear(x, weight, bias)
    size = x.abs().amax(-1, keepdim=True) * weight.abs().amax(1)
    assert ((found - exact).abs() <= 0.05 * size + 1e-6).all()
    # A text beside others is read as alone.
    assert torch.equal(Whole(weight, bias)(x[1:2]), found[1:2])


def test_a_processor_without_the_instructions_reads_in_float32(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    written(tiny_base, tmp_path / "best")
    exact, near = (vectors(load_short(tmp_path / "best", "cpu", None, kind)) for kind in ("float32", "int8"))
    assert (exact == near).all()
    assert "lacks VNNI; float32 is used" in caplog.text


def test_texts_are_cut_into_the_tokens_that_transformers_cuts_them_into() -> None:
    directory = locate("all-MiniLM-L6-v2")
    texts = [
        *TEXTS,
        "CAFÉ; crêpes—and “soup”",
        "狗 美容",
        "a\tb\nc\x00d",
        "naïve e-commerce (B2B) 24/7",
        "[SEP] [MASK] x",
        "🐶",
    ]
    known = load_tokenizer(directory)(texts, truncation=True, max_length=16, return_attention_mask=False)["input_ids"]
    assert Tokens(directory)(texts, truncation=True, max_length=16) == {"input_ids": known}
