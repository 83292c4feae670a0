"""One stage's training step, as a Lightning module."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from naics_pipeline.text_model.checkpoints import Checkpoint
from naics_pipeline.text_model.curriculum.state import CurriculumState
from naics_pipeline.text_model.device import give_back_memory
from naics_pipeline.text_model.fusion import drop_channels
from naics_pipeline.text_model.losses.balance import choices
from naics_pipeline.text_model.losses.view import CodePairs, Neighbours, Queries, Suspects, TreeTensors, View
from naics_pipeline.text_model.model import CodeVectors, TextModel, mixed
from naics_pipeline.text_model.objective import Objective
from naics_pipeline.text_model.tokens import LONG_CHANNELS, SHORT, Ragged
from naics_pipeline.text_model.training.batches import Batch, Plan, epochs_of
from naics_pipeline.text_model.training.checks import refuse_non_finite
from naics_pipeline.text_model.training.optimiser import optimiser
from naics_pipeline.text_model.training.outlook import prepare
from naics_pipeline.text_model.training.processes import joined, leads, own_dropout, own_share, told
from naics_pipeline.text_model.training.tables import TextTables
from naics_pipeline.text_model.training.validation import Metrics, Validation

TRIM_EVERY = 16
"""Steps from one return of memory to the next; it takes a hundredth of their time."""


class StageModule(pl.LightningModule):
    """Trains a text model on one stage.

    A step reads its queries afresh, and the long texts of its `live` codes; these take their places in tables of what
    all texts said when they were last read, renewed after every epoch. Fusion and projection run on all N codes, so
    every term sees points that are staler than the present weights only by what the adapters changed since a text's
    last turn.

    Args:
        steps: of the optimiser, in the whole stage.
        metrics: (N, N) distances to named metrics, after every epoch.
    """

    place_code: Tensor
    # The frozen base is not in the checkpoint.
    strict_loading = False

    def __init__(self, model: TextModel, plan: Plan, steps: int, metrics: Metrics) -> None:
        super().__init__()
        self.model, self.plan, self.steps = model, plan, steps
        self.settings = plan.settings
        self.state = CurriculumState(epochs=epochs_of(plan.stage, plan.settings))
        self.objective = Objective(plan.stage.weigh(self.settings.objective), self.settings.model)
        self.tree = TreeTensors(plan.inputs.tree, plan.held_out, plan.inputs.left_out)
        self.tables = TextTables(plan.inputs, model.encoder.width, resting=plan.frozen)
        self.validation = Validation(plan, self.tree, metrics)
        place_code = np.full(len(plan.inputs.short.code), -1)
        place_code[plan.queries] = plan.inputs.short.code[plan.queries]
        self.register_buffer("place_code", torch.from_numpy(place_code), persistent=False)
        self.last_good: Path | None = None
        self.chosen: Tensor | None = None
        self.dropout = torch.Generator()

    def begin_epoch(self) -> CurriculumState:
        """Makes ready what an epoch starts from; the state its batches are drawn by."""
        # Dropout of an epoch depends on nothing but seed and epoch, so that a resumed run repeats it.
        seed = self.settings.seed * 10_007 + self.current_epoch
        torch.manual_seed(seed)
        self.dropout.manual_seed(seed)
        if not self.tables.fresh:
            self.tables.renew(self.model)
        self.tables.fresh = self.plan.frozen
        self.state.epoch = self.current_epoch
        if self.plan.draws_pairs:
            prepare(self.state, self.plan, self.model, self.tables)
        self.model.train()
        return self.state

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx % self.settings.training.accumulate == 0:
            self.chosen = None

    def training_step(self, batch: Batch, _: int) -> Tensor:
        terms = self.read_and_score(batch)
        loss = self.objective.total(terms)
        refuse_non_finite(self, loss, terms, batch)
        drawn, asked, short = (batch[name].cpu().numpy() for name in ("drawn", "asked", "short"))
        self.state.count(drawn, asked, short, self._suspected(batch))
        values = {f"train/{name}": value.detach() for name, value in terms.items()} | {"train/loss": loss.detach()}
        self.log_dict(values, on_step=False, on_epoch=True, prog_bar=True, batch_size=1)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % TRIM_EVERY == 0 and self.device.type == "cpu":
            give_back_memory()

    def read_and_score(self, batch: Batch) -> dict[str, Tensor]:
        """Reads the texts of a batch afresh and gives the terms of the objective, unweighted."""
        short, long = self.tables.short.values, self.tables.long_values()
        said: dict[str, Tensor] = {}
        if self.plan.frozen:
            queries = short[batch["query_row"]]
        else:
            with own_dropout(self.dropout):
                said, live = self.read_queries(batch), self._read_live(batch["live"])
            queries = mixed(said["tuned"], said["base"], self.settings.model.base_share)
            known = (batch["query_row"] >= 0).nonzero().squeeze(-1)
            short = self.tables.short.replace(batch["query_row"][known], queries[known])
            long |= live
        present = drop_channels(self.tables.present, self.settings.model.channel_dropout)
        kept = torch.rand(len(present), 1, device=present.device) >= self.settings.model.offset_dropout
        codes = self.tables.codes(short, long, present)
        view = self.view(batch, queries, codes, short, self.model.offset * kept, **said)
        terms = self.objective(view)
        if view.gate is not None:
            chosen = choices(view.gate.detach()[self.tree.trained], self.settings.model.top_k)
            self.chosen = chosen if self.chosen is None else self.chosen + chosen
        return terms

    def view(
        self, batch: Batch, queries: Tensor, codes: CodeVectors, short: Tensor, offset: Tensor, **said: Tensor
    ) -> View:
        """What the losses see of a batch.

        Args:
            queries: (Q, width) vectors of the batch's queries.
            codes: of all codes, with the channels that count.
            short: (M, width) vectors of all short texts.
            offset: (N, d + 1), those of the codes that count.
            said: of the queries, where they were read afresh; see `read_queries`.
        """
        points, gate = self.model.fusion(codes.channels, codes.present, offset)
        asked = None
        if self.plan.reads_queries and len(queries):
            left = short[batch["left_row"]]
            own = codes.leave_one_out(batch["query_code"], batch["left_channel"], left, batch["left_of"])
            alone, _ = self.model.fusion(*own, offset[batch["query_code"]])
            placed = self.model.fusion.place_texts(queries)
            asked = Queries(placed, batch["query_code"], batch["query_under"], own=alone, **said)
        return View(
            space=self.model.fusion,
            tree=self.tree,
            points=points,
            gate=gate,
            pairs=pairs_of(batch),
            queries=asked,
            rows=batch["codes"],
            counted=~self.tree.held_out[batch["codes"]],
            spread=self.tree.trained,
            unseen=self.tree.held_out,
            suspects=self._suspects(),
            chosen=self.chosen,
            neighbours=self._neighbours(batch, short) if asked else None,
        )

    def _neighbours(self, batch: Batch, short: Tensor) -> Neighbours | None:
        """The texts of the table, or a random sample where they are too many for one step."""
        if not self.objective.weights.neighbour or self.plan.frozen:
            return None
        rows = torch.arange(len(short), device=short.device)
        if len(rows) > (most := self.settings.training.neighbours_per_step):
            rows = rows[torch.randperm(len(rows), device=rows.device)[:most]]
        place = torch.full((len(short),), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        left = place[batch["itself_row"]]
        return Neighbours(
            self.model.fusion.text_directions(short[rows]),
            self.place_code[rows],
            left_row=left[left >= 0],
            left_of=batch["itself_of"][left >= 0],
        )

    def _suspects(self) -> Suspects | None:
        if self.state.clusters is None or not self.plan.draws_pairs:
            return None
        rule = self.state.phase(self.plan.stage).false_negatives
        if rule is None:
            return None
        return Suspects(torch.from_numpy(self.state.clusters).to(self.tree.level.device), rule.mode)

    def _suspected(self, batch: Batch) -> int:
        """How many of a batch's negatives lie in the cluster of their anchor."""
        suspects = self._suspects()
        return 0 if suspects is None else int(suspects.of(batch["anchor"], batch["negative"]).sum())

    def read_queries(self, batch: Batch) -> dict[str, Tensor]:
        """What the adapter says of a batch's queries, read afresh, and what the base says: tuned, base, (Q, width)."""
        every = Ragged(batch["query_values"].cpu().numpy(), batch["query_offsets"].cpu().numpy())
        own = own_share(len(every))
        texts, rows = every.taken(own), batch["query_row"][torch.from_numpy(own).to(self.device)]
        said = {"tuned": self.model.read(SHORT, texts), "base": self._base_vectors(texts, rows)}
        return {name: joined(vectors, len(every)) for name, vectors in said.items()}

    def _base_vectors(self, texts: Ragged, row: Tensor) -> Tensor:
        """What the base says of a batch's queries: kept of the table's texts, read of those that are made up."""
        vectors = self.tables.base_short[row]
        made_up = (row < 0).nonzero().squeeze(-1)
        if len(made_up) and self.settings.reads_base:
            vectors[made_up] = self.model.base_vectors(texts.taken(made_up.cpu().numpy()))
        return vectors

    def _read_live(self, live: Tensor) -> dict[str, Tensor]:
        """Tables of the long texts that learn, with those of the live codes read afresh."""
        long, own = self.plan.inputs.long, live.cpu().numpy()[own_share(len(live))]
        return {
            name: self.tables.long[name].replace(live, joined(self.model.read(name, long[name], own), len(live)))
            for name in LONG_CHANNELS
            if self.model.encoder.learns(name) and len(live)
        }

    @torch.no_grad()
    def validation_step(self, batch: Batch, _: int) -> None:
        if not self.tables.fresh:
            self.tables.renew(self.model)
        measured = self.validation(self.model, self.objective, self.tables, pairs_of(batch)) if leads() else None
        self.log_dict(told(measured), batch_size=1)

    def configure_optimizers(self) -> Any:
        return optimiser(self.model, self.objective, self.plan.stage, self.settings.training, self.steps)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Read with the weights that the run began with.
        self.tables.fresh = False
        self.state.load_state_dict(checkpoint["curriculum"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = Checkpoint.of(self.model, self.objective, {}).tensors
        checkpoint["curriculum"] = self.state.state_dict()


def pairs_of(batch: Batch) -> CodePairs | None:
    """The pairs of a batch, where it has any."""
    if not len(batch["anchor"]):
        return None
    return CodePairs(batch["anchor"], batch["positive"], batch["negative"], batch["codes"])
