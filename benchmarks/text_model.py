"""The text model at full size: the token cache, short texts, whole training steps, and what they cost by size."""

import itertools
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from peft.tuners.lora import Linear

from benchmarks.data import WORKBOOKS, texts
from benchmarks.measure import Row, Work
from naics_pipeline import config
from naics_pipeline.settings import Adapter, Adapters, Download, Model, Settings, Tokens, Training, TrainingPrecision
from naics_pipeline.taxonomy import census, text
from naics_pipeline.text_model.base import load_base, load_tokenizer, locate, mean_pool
from naics_pipeline.text_model.curriculum.stage import Buckets, Stage, load_curriculum
from naics_pipeline.text_model.lora import OneProduct
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.tokens import CHANNELS, build_token_cache
from naics_pipeline.text_model.training.batches import Batch, Plan, epoch
from naics_pipeline.text_model.training.inputs import TrainingInputs, load_inputs
from naics_pipeline.text_model.training.module import StageModule

BASE = "all-MiniLM-L6-v2"
PAIRS, NEGATIVES, QUERIES = 32, 16, 256
NAIVE_PAIRS = 1
BATCHES = 8
Batches = Iterator[Batch]

STEP = f"one training step: {PAIRS} pairs, {NEGATIVES} negatives, {QUERIES} short texts"
ROWS = [
    Row("token cache of all codes", "to_token_cache"),
    Row(f"{BATCHES * QUERIES} short texts, forward and backward", "read_grouped", "read_padded"),
    Row("the same, an adapter as one product; beside it PEFT's two", "read_grouped", "read_by_peft"),
    Row("the same in bfloat16; beside it in float32", "read_in_half", "read_grouped"),
    Row(f"{STEP}; adapters in all blocks", "step_all_blocks", "step_published"),
    Row(f"{STEP}; long texts from cached states", "step_cached", "step_published"),
    Row("one training step of the profile cpu; beside it its transformer alone", "step_cpu", "step_cpu_transformer"),
    *(
        Row(f"{BATCHES} such steps, {codes:,} codes, {entries:,} entries", f"step_{codes}_{entries}")
        for codes, entries in ((300, 16_000), (2_125, 16_000), (2_125, 160_000), (2_125, 1_600_000), (20_000, 16_000))
    ),
]

CPU = Model(dropout=0.0, expert_dim=192)
CACHED = CPU.model_copy(update={"adapters": Adapters(description=Adapter(blocks=1), excluded=Adapter(blocks=1))})
ALL_BLOCKS = CPU.model_copy(update={"adapters": Adapters(description=Adapter(), excluded=Adapter())})
STAGE = Stage(
    name="benchmark",
    positive_levels=(6,),
    negatives=Buckets(difficulty_buckets=(1, 5), bucket_percentages={1: 0.5, 5: 0.5}),
    k_negatives=NEGATIVES,
    epochs=1,
    learning_rate=0.001,
)


def to_token_cache(directory: Path) -> Work:
    frame = texts()

    def work() -> None:
        build_token_cache(frame, Tokens(), locate(BASE), directory / "token_cache")

    return work


def _sources() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    source = str(WORKBOOKS) if WORKBOOKS.is_dir() else "sample"
    books = census.read_source(source, 2022, Download(), Path(tempfile.gettempdir()))
    entries = text.index_entries(books, 0.2, 0.08)
    codes = text.descriptions(books, entries)
    return codes, entries, text.activity_phrases(books, codes, entries)


def _module(directory: Path, model: Model, precision: TrainingPrecision = "32-true") -> tuple[StageModule, Batches]:
    return _module_of(
        directory, Settings(model=model, training=Training(queries_per_batch=QUERIES, precision=precision))
    )


def _module_of(directory: Path, settings: Settings, stage: Stage = STAGE) -> tuple[StageModule, Batches]:
    codes, entries, phrases = _sources()
    text_model = TextModel(locate(BASE), settings, codes["code"].to_list())
    inputs = load_inputs(
        codes,
        entries,
        phrases,
        settings,
        # What the base says of all texts takes minutes: once for all rows.
        token_cache=directory.parent / "tokens",
        hidden_cache=directory.parent / "states",
        model=text_model,
    )
    return _over(text_model, inputs, settings, stage)


def _over(
    model: TextModel, inputs: TrainingInputs, settings: Settings, stage: Stage = STAGE
) -> tuple[StageModule, Batches]:
    plan = Plan.of(inputs, stage, settings)
    module = StageModule(model, plan, len(plan), lambda distances: {}).train()
    tables, width = module.tables, model.encoder.width
    # What tables hold does not change what a step costs; reading every text first would take minutes.
    tables.short.renew(torch.nn.functional.normalize(torch.randn(len(inputs.short.kind), width), dim=-1))
    for name in inputs.long:
        tables.long[name].renew(torch.nn.functional.normalize(torch.randn(len(inputs.tree), width), dim=-1))
    model.fusion.start_from(tables.short.values, torch.from_numpy(inputs.short.code))
    return module, epoch(plan, module.state)


def _steps(module: StageModule, batches: Batches, count: int) -> Work:
    drawn = list(itertools.islice(batches, count))

    def work() -> None:
        for batch in drawn:
            torch.stack(list(module.read_and_score(batch).values())).sum().backward()

    return work


def step_all_blocks(directory: Path) -> Work:
    """Every distinct code's long texts, and the short ones, through six blocks with adapters."""
    return _steps(*_module(directory, ALL_BLOCKS), 1)


def step_cached(directory: Path) -> Work:
    """Adapters of long texts in the top block, over cached states; of short text in all."""
    return _steps(*_module(directory, CACHED), 1)


def step_cpu(directory: Path) -> Work:
    """As `00_short_text` takes one, with all that the profile says."""
    return _steps(*_first_stage(directory), 1)


def step_cpu_transformer(directory: Path) -> Work:
    """What `step_cpu` reads, and nothing else of that step."""
    module, batches = _first_stage(directory)
    batch = next(batches)

    def work() -> None:
        module.read_queries(batch)["tuned"].sum().backward()

    return work


def _first_stage(directory: Path) -> tuple[StageModule, Batches]:
    settings = config.load("cpu", environ={}).settings
    return _module_of(directory, settings, load_curriculum(Path(settings.curriculum))[0])


def step_published(directory: Path) -> tuple[Work, float]:
    """The published way: every row and every channel of it, padded to 512 tokens, with a base for each."""
    frame = texts()
    tokenizer = load_tokenizer(locate(BASE))
    bases = [load_base(locate(BASE)).train().requires_grad_(True) for _ in CHANNELS]
    rows = np.random.default_rng(0).integers(0, frame.height, (NAIVE_PAIRS, 2 + NEGATIVES)).ravel()
    frame = frame.with_columns(pl.col("examples").list.join("; "))

    def work() -> None:
        for channel, base in zip(CHANNELS, bases, strict=True):
            words = frame[channel].gather(rows).fill_null("").to_list()
            batch = tokenizer(words, padding="max_length", truncation=True, max_length=512, return_tensors="pt")
            torch.sum(base(**batch).last_hidden_state.mean(1)).backward()

    return work, NAIVE_PAIRS / PAIRS


def read_grouped(directory: Path) -> Work:
    """As training reads them: batches of like length, adapters in all blocks."""
    return _readings(*_module(directory, CPU))


def read_in_half(directory: Path) -> Work:
    """Likewise, the transformer in bfloat16: slower on a processor without its products."""
    return _readings(*_module(directory, CPU, "bf16-mixed"))


def read_by_peft(directory: Path) -> Work:
    """The same by PEFT's own layer: the adapter's product is added to what the frozen matrix says."""
    module, batches = _module(directory, CPU)
    for layer in module.modules():
        if isinstance(layer, OneProduct):
            layer.__class__ = Linear  # type: ignore[assignment]
    return _readings(module, batches)


def _readings(module: StageModule, batches: Batches) -> Work:
    drawn = list(itertools.islice(batches, BATCHES))

    def work() -> None:
        for batch in drawn:
            module.read_queries(batch)["tuned"].sum().backward()

    return work


def read_padded(directory: Path) -> Work:
    """The plain loop: the same number of texts in random order, padded to 32 tokens, the whole base learning."""
    codes, entries, _ = _sources()
    pool = [*codes["title"].to_list(), *entries["entry"].to_list()]
    tokenizer, base = load_tokenizer(locate(BASE)), load_base(locate(BASE), 0.0).train().requires_grad_(True)
    rows = np.random.default_rng(0).choice(len(pool), (BATCHES, QUERIES))

    def work() -> None:
        for batch_rows in rows:
            words = [pool[row] for row in batch_rows]
            batch = tokenizer(words, padding="max_length", truncation=True, max_length=32, return_tensors="pt")
            mean_pool(base(**batch).last_hidden_state, batch["attention_mask"]).sum().backward()

    return work


def _synthetic_steps(codes: int, entries: int, directory: Path) -> Work:
    """Steps over made-up codes and entries, whose texts are drawn from the real ones."""
    from naics_pipeline_tests.evaluation.trees import balanced_tree

    # To read what the base itself says of a million texts would take the most of an hour.
    training = Training(queries_per_batch=QUERIES, precision="32-true")
    settings = Settings(model=CPU.model_copy(update={"base_share": 0.0}), training=training)
    tree = balanced_tree(codes)
    model = TextModel(locate(BASE), settings, tree.codes.tolist())
    generator = np.random.default_rng(0)
    leaves = tree.codes[tree.level == tree.level.max()]
    real, real_entries, _ = _sources()
    titles = real["title"].gather(generator.integers(real.height, size=codes))
    words = real_entries["entry"].gather(generator.integers(real_entries.height, size=entries))
    own = pl.DataFrame({"code": generator.choice(leaves, entries), "entry": words}).with_columns(
        entry=pl.col("entry") + " " + pl.int_range(pl.len()).cast(pl.String)
    )
    listed = own.group_by("code").agg(pl.col("entry").alias("examples"))
    frame = pl.DataFrame({"code": tree.codes, "title": titles}).with_columns(
        description=pl.col("title"),
        description_from=pl.col("code"),
        excluded=pl.lit(None, pl.String),
        excluded_codes=pl.lit([], pl.List(pl.String)),
    )
    frame = frame.join(listed, on="code", how="left", maintain_order="left")
    inputs = load_inputs(
        frame,
        own.with_columns(split=pl.lit("train")),
        pl.DataFrame(schema={"phrase": pl.String, "code": pl.String, "under": pl.String}),
        settings,
        token_cache=directory / "tokens",
        hidden_cache=directory / "states",
        model=model,
    )
    return _steps(*_over(model, inputs, settings), BATCHES)


def __getattr__(name: str) -> partial[Work]:
    """step_{codes}_{entries}: a function for each size of the table."""
    parts = name.split("_")
    if len(parts) == 3 and parts[0] == "step" and parts[1].isdigit():
        return partial(_synthetic_steps, int(parts[1]), int(parts[2]))
    raise AttributeError(name)
