"""Quality against one setting at a time, on validation entries: `python -m benchmarks curves [SETTING…]`.

Every point places the codes anew, by the last stage of the curriculum alone and with the adapters as 00_short_text left
them, which takes a minute or two where whole training takes half an hour. So the points compare with one another and
not with the whole pipeline. Settings come from profile and environment as everywhere; the data directory has to
hold the taxonomy's assets and that stage.
"""

from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch

from naics_pipeline import config
from naics_pipeline.evaluation.structure import structure_metrics
from naics_pipeline.evaluation.summary import measure
from naics_pipeline.settings import Settings
from naics_pipeline.taxonomy.text import VALIDATION
from naics_pipeline.text_model.base import locate
from naics_pipeline.text_model.checkpoints import BEST, load_weights, read_record
from naics_pipeline.text_model.curriculum.stage import load_curriculum
from naics_pipeline.text_model.curriculum.state import CurriculumState
from naics_pipeline.text_model.inference import TextEmbedder
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.training.batches import Plan, epoch
from naics_pipeline.text_model.training.inputs import TrainingInputs, load_inputs
from naics_pipeline.text_model.training.loop import places_of
from naics_pipeline.text_model.training.module import StageModule

FIRST = f"stages/00_short_text/{BEST}"
CURVES: dict[str, tuple[Any, ...]] = {
    "objective.hierarchy": (0.0, 0.1, 0.3, 0.5, 1.0, 3.0),
    "model.embedding_dim": (16, 32, 64, 128, 256),
    "model.edge_length": (0.125, 0.25, 0.5, 1.0),
    "model.curvature": (0.1, 0.3, 1.0, 3.0),
}
SHOWN = {
    "code top-1": "validation/query_top1",
    "code top-5": "validation/query_top5",
    "mixed top-1": "validation/mixed/query_top1",
    "mixed top-5": "validation/mixed/query_top5",
    "cophenetic": "cophenetic_correlation",
    "spearman": "spearman_correlation",
    "parent@1": "parent_retrieval@1",
}


class Bench:
    """What all points share: the texts, and what the trained adapters say of them."""

    def __init__(self, settings: Settings) -> None:
        self.settings, root = settings, Path(settings.data_dir)
        names = ("descriptions", "index_entries", "activity_phrases")
        self.descriptions, self.entries, phrases = (pl.read_parquet(root / f"{name}.parquet") for name in names)
        self.checkpoint = root / FIRST
        # Only what the adapters say is taken over, so the checkpoint's own dimension counts here.
        trained = Settings.model_validate(read_record(self.checkpoint)["settings"])
        model = self.model(trained)
        load_weights(model, self.checkpoint)
        self.inputs: TrainingInputs = load_inputs(
            self.descriptions,
            self.entries,
            phrases,
            settings,
            token_cache=root / "token_cache",
            hidden_cache=root / "hidden_states",
            model=model,
        )
        self.asked = self.entries.filter(pl.col("split") == VALIDATION).rename({"entry": "text"})
        module = self.module(model, trained)
        module.tables.renew(model)
        self.short, self.long = module.tables.short.values, module.tables.long_values()
        embedder = TextEmbedder(model, trained, "", torch.device("cpu"))
        self.queries = embedder.vectors(self.asked["text"].to_list())

    def model(self, settings: Settings) -> TextModel:
        torch.manual_seed(settings.seed)
        return TextModel(locate(settings.model.base), settings, self.descriptions["code"].to_list())

    def module(self, model: TextModel, settings: Settings) -> StageModule:
        stage = load_curriculum(Path(settings.curriculum))[-1].model_copy(update={"adapter_rate": 0.0})
        plan = Plan.of(self.inputs, stage, settings)
        return StageModule(model, plan, len(plan) * stage.epochs, partial(structure_metrics, tree=self.inputs.tree))

    def point(self, settings: Settings) -> dict[str, float]:
        """Metrics after training the places of the codes, and nothing else, with these settings."""
        model = self.model(settings)
        module = self.module(model, settings)
        module.tables.short.renew(self.short)
        for name, values in self.long.items():
            module.tables.long[name].renew(values)
        texts = torch.from_numpy(module.plan.queries)
        model.fusion.start_from(self.short[texts], torch.from_numpy(self.inputs.short.code)[texts])
        train(module)
        embedder = TextEmbedder(model, settings, "", torch.device("cpu"))
        tree = self.inputs.tree
        codes = embedder.codes(tree.codes, module.tables.code_vectors())
        queries = embedder.texts(self.asked["code"].to_numpy().astype(str), self.queries, self.asked.drop("code"))
        places = places_of(embedder, self.inputs, self.short)
        return measure(codes, queries, tree, settings.evaluation.cutoffs, places)[0]


def train(module: StageModule) -> None:
    """All epochs of the module's stage, without a trainer around them."""
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    module.model.train()
    for number in range(module.plan.stage.epochs):
        torch.manual_seed(number)
        for position, batch in enumerate(epoch(module.plan, CurriculumState(number))):
            module.on_train_batch_start(batch, position)
            optimizer.zero_grad()
            module.objective.total(module.read_and_score(batch)).backward()
            torch.nn.utils.clip_grad_norm_(module.model.parameters(), module.settings.training.gradient_clip)
            optimizer.step()
            scheduler.step()


def with_value(settings: Settings, key: str, value: Any) -> Settings:
    section, _, name = key.partition(".")
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update={name: value})})


def main(names: list[str]) -> None:
    if unknown := set(names) - set(CURVES):
        raise SystemExit(f"no curve of {', '.join(sorted(unknown))}; there are {', '.join(CURVES)}")
    bench = Bench(config.load().settings)
    for key, values in CURVES.items():
        if names and key not in names:
            continue
        print(f"### {key}\n\n| {key.partition('.')[2]} | {' | '.join(SHOWN)} |\n| --- {'| --- ' * len(SHOWN)}|")
        for value in values:
            found = bench.point(with_value(bench.settings, key, value))
            print(f"| {value:g} | {' | '.join(f'{found[name]:.3f}' for name in SHOWN.values())} |", flush=True)
        print()
