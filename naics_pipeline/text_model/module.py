"""The text model and its training step, as a Lightning module."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from naics_pipeline.errors import TrainingError
from naics_pipeline.settings import Settings
from naics_pipeline.text_model.curriculum import Stage
from naics_pipeline.text_model.data import Batch, TrainingInputs
from naics_pipeline.text_model.encoder import ChannelEncoder
from naics_pipeline.text_model.fusion import Fusion, drop_channels
from naics_pipeline.text_model.losses.balance import balance_loss
from naics_pipeline.text_model.losses.contrastive import contrastive_loss, norm_adaptive_margin
from naics_pipeline.text_model.losses.hierarchy import hierarchy_loss
from naics_pipeline.text_model.losses.query import query_loss, query_targets, rank_of_truth
from naics_pipeline.text_model.losses.radius import level_radius, radius_loss
from naics_pipeline.text_model.tokens import CHANNELS, Ragged

logger = logging.getLogger(__name__)

# Free text is read as a title: a short phrase that says what is done.
QUERY_CHANNEL = "title"

# (N, N) distances between all codes to named metrics; the evaluation lies above this package.
Metrics = Callable[[np.ndarray], dict[str, float]]


class TextModel(nn.Module):
    """Four channel texts to a point: encoder and fusion, with the learned scalars of the objective."""

    def __init__(self, base: Path, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = ChannelEncoder(base, settings.model)
        self.fusion = Fusion(self.encoder.width, settings.model)
        weights = settings.objective
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.log_temperature = nn.Parameter(
            torch.tensor(weights.temperature).log(), requires_grad=weights.learn_temperature
        )
        self.log_query_temperature = nn.Parameter(
            torch.tensor(weights.query_temperature).log(), requires_grad=weights.learn_query_temperature
        )

    @property
    def temperature(self) -> Tensor:
        """τ of the contrastive term; without a bound a learned one would fall to 0, where the loss has no minimum."""
        return self.log_temperature.exp().clamp(0.01, 10.0)

    @property
    def query_temperature(self) -> Tensor:
        return self.log_query_temperature.exp().clamp(0.01, 10.0)

    def channel_vectors(self, channels: Mapping[str, Ragged], rows: np.ndarray) -> Tensor:
        """(n, 4, width) vectors of chosen codes; zeros for absent channels."""
        device = self.log_scale.device
        columns = []
        for name in CHANNELS:
            column = torch.zeros(len(rows), self.encoder.width, device=device)
            there = np.flatnonzero(channels[name].lengths[rows])
            if len(there):
                vectors = self.encoder.encode(
                    name, channels[name], rows[there], self.settings.training.tokens_per_group
                )
                column = column.index_copy(0, torch.from_numpy(there).to(device), vectors)
            columns.append(column)
        return torch.stack(columns, dim=1)

    def query_vectors(self, queries: Ragged, rows: np.ndarray) -> Tensor:
        """(n, width) vectors of free text."""
        return self.encoder.encode(QUERY_CHANNEL, queries, rows, self.settings.training.tokens_per_group)

    def query_points(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Points (n, ·) of free text, of which one channel is known, and the gate's probabilities."""
        position = CHANNELS.index(QUERY_CHANNEL)
        channels = vectors.new_zeros(len(vectors), len(CHANNELS), self.encoder.width)
        channels[:, position] = vectors
        present = torch.zeros(len(vectors), len(CHANNELS), dtype=torch.bool, device=vectors.device)
        present[:, position] = True
        points, probabilities = self.fusion(channels, present)
        return points, probabilities

    def trained_state(self) -> dict[str, Tensor]:
        """The state without the frozen base, which the checkpoint names instead of holding it."""
        state = self.state_dict()
        return {name: value for name, value in state.items() if not name.startswith("encoder.") or "lora_" in name}


class StageModule(pl.LightningModule):
    """Trains a text model on one stage.

    Two tables hold the vectors of all codes' channels and of all queries from their last encoding. A step encodes the
    batch's `live` codes and queries afresh, which is where the adapters get their gradient, and takes the others from
    the tables. Fusion and projection run on all N codes each step, so every term sees points that are never staler than
    what the adapters changed since a text's last turn; the tables are renewed after every epoch.
    """

    # The frozen base is not in the checkpoint.
    strict_loading = False

    tree_distance: Tensor
    distance: Tensor
    level: Tensor
    present: Tensor
    leaves: Tensor
    query_code: Tensor
    query_under: Tensor
    code_table: Tensor
    query_table: Tensor

    def __init__(
        self,
        model: TextModel,
        inputs: TrainingInputs,
        stage: Stage,
        steps: int,
        validation: Batch,
        metrics: Metrics,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.inputs, self.stage = model, inputs, stage
        self.settings, self.steps, self.seed = model.settings, steps, seed
        self.validation, self.metrics = validation, metrics
        self.last_good: str | None = None
        tree = inputs.tree
        leaves = np.flatnonzero(tree.level == tree.level.max())
        self._constant("tree_distance", torch.from_numpy(tree.tree_distance().astype(np.float32)))
        self._constant("level", torch.from_numpy(tree.level.astype(np.int64)))
        self._constant("present", torch.from_numpy(inputs.present))
        self._constant("leaves", torch.from_numpy(leaves))
        self._constant("query_code", torch.from_numpy(inputs.query_code))
        self._constant("query_under", torch.from_numpy(inputs.query_under))
        self._constant("distance", torch.from_numpy(tree.distance()))
        self._constant("code_table", torch.zeros(len(tree), len(CHANNELS), model.encoder.width))
        self._constant("query_table", torch.zeros(len(inputs.queries), model.encoder.width))
        self._tables_are_fresh = False

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    # The loss

    def losses(self, batch: Batch, codes: Tensor, queries: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Every term of the objective with a weight above 0, unweighted.

        Args:
            codes: (N, 4, width) channel vectors of all codes.
            queries: (n, width) vectors of the batch's queries.
            present: (N, 4) bool, the channels that count.
        """
        points, gate = self.model.fusion(codes, present)
        gates = [gate]
        weights = self.settings.objective
        scale = self.model.log_scale.exp()
        terms: dict[str, Tensor] = {}
        if weights.contrastive and len(batch["anchor"]):
            terms["contrastive"] = self._contrastive(batch, points)
        if weights.query and len(batch["query"]):
            query, gate = self.model.query_points(queries)
            gates.append(gate)
            terms["query"] = self._query(batch["query"], query, points)
        if weights.hierarchy and len(batch["codes"]):
            distances = self.model.fusion.distances(points[batch["codes"]], points)
            terms["hierarchy"] = hierarchy_loss(distances, self.tree_distance[batch["codes"]], scale)
        if weights.radius:
            terms["radius"] = radius_loss(self.model.fusion.radii(points), self.level, scale)
        chosen = [gate for gate in gates if gate is not None]
        if weights.balance and chosen:
            terms["balance"] = balance_loss(torch.cat(chosen), self.settings.model.top_k)
        return terms

    def _contrastive(self, batch: Batch, points: Tensor) -> Tensor:
        weights, fusion = self.settings.objective, self.model.fusion
        anchor, positive, negative = batch["anchor"], batch["positive"], batch["negative"]
        margin = norm_adaptive_margin(fusion.radii(points[anchor]), weights.margin).unsqueeze(-1)
        codes = torch.cat([positive, batch["codes"]])
        to_codes = fusion.distances(points[anchor], points[codes])
        to_positive = to_codes[:, : len(positive)].diagonal()
        column = torch.searchsorted(batch["codes"], negative) + len(positive)
        to_negative = to_codes.gather(1, column) - margin
        if weights.in_batch_negatives:
            farther = self.distance[anchor][:, batch["codes"]] > self.distance[anchor, positive].unsqueeze(-1)
            others = (to_codes[:, len(positive) :] - margin).masked_fill(~farther, math.inf)
            # The K drawn ones are among the batch's codes already.
            to_negative = others
        return contrastive_loss(to_positive, to_negative, self.model.temperature, weights.contrastive_loss)

    def _query(self, rows: Tensor, query: Tensor, points: Tensor) -> Tensor:
        weights = self.settings.objective
        distances = self.model.fusion.distances(query, points[self.leaves])
        tree_distance = self.tree_distance[self.query_code[rows]][:, self.leaves]
        under = self.query_under[rows]
        depth_below = self.level[self.leaves] - self.level[under].unsqueeze(-1)
        confusing = (self.tree_distance[under][:, self.leaves] == depth_below) & (under >= 0).unsqueeze(-1)
        confusing &= tree_distance > tree_distance.min(dim=1, keepdim=True).values
        return query_loss(
            distances,
            query_targets(tree_distance, weights.query_smoothing),
            self.model.query_temperature,
            confusing,
            weights.query_margin,
        )

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        return torch.stack([getattr(self.settings.objective, name) * term for name, term in terms.items()]).sum()

    # Training

    def training_step(self, batch: Batch, _: int) -> Tensor:
        live, live_query = batch["live"], batch["live_query"]
        codes = self.model.channel_vectors(self.inputs.channels, live.cpu().numpy())
        table = self.code_table.index_copy(0, live, codes)
        self.code_table[live] = codes.detach()
        queries = self.query_table[batch["query"]]
        if len(live_query):
            fresh = self.model.query_vectors(self.inputs.queries, live_query.cpu().numpy())
            queries = torch.cat([fresh, queries[len(live_query) :]])
            self.query_table[live_query] = fresh.detach()
        present = drop_channels(self.present, self.settings.model.channel_dropout)
        terms = self.losses(batch, table, queries, present)
        loss = self._total(terms)
        self._refuse_non_finite(loss, terms, batch)
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, on_step=False, on_epoch=True)
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def _refuse_non_finite(self, loss: Tensor, terms: dict[str, Tensor], batch: Batch) -> None:
        if bool(torch.isfinite(loss)):
            return
        bad = [name for name, value in terms.items() if not bool(torch.isfinite(value))]
        codes = self.inputs.tree.codes[batch["anchor"].cpu().numpy()]
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        raise TrainingError(
            f"stage {self.stage.name}, epoch {self.current_epoch}: the loss is {float(loss)} (terms: {', '.join(bad)}) "
            f"at learning rate {rate:.3g}, on the batch of anchors {', '.join(codes[:20])}. Last good checkpoint: "
            f"{self.last_good or 'none yet'}. Lower learning_rate in the stage's file, or raise temperature."
        )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Not on_train_epoch_start: Lightning leaves that out for the first epoch of a resumed run.
        if batch_idx:
            return
        # Dropout of an epoch depends on nothing but seed and epoch, so that a resumed run repeats it.
        torch.manual_seed(self.seed * 10_007 + self.current_epoch)
        if not self._tables_are_fresh:
            self._renew_tables()
        self._tables_are_fresh = False
        self.model.train()

    @torch.no_grad()
    def _renew_tables(self) -> None:
        self.model.eval()
        self.code_table.copy_(self.model.channel_vectors(self.inputs.channels, np.arange(len(self.inputs.tree))))
        if len(self.inputs.queries):
            rows = np.arange(len(self.inputs.queries))
            self.query_table.copy_(self.model.query_vectors(self.inputs.queries, rows))
        self._tables_are_fresh = True

    # Validation

    def validation_step(self, batch: Batch, _: int) -> None:
        self._renew_tables()
        points, _gate = self.model.fusion(self.code_table, self.present)
        terms = self.losses(batch, self.code_table, self.query_table[batch["query"]], self.present)
        values = {f"val/{name}": float(value) for name, value in terms.items()}
        values["val/loss"] = float(self._total(terms))
        values |= self._query_hits(batch["query"], points)
        exact = points.double()
        values |= self.metrics(self.model.fusion.distances(exact, exact).cpu().numpy())
        radii = level_radius(self.model.fusion.radii(points), self.level)
        values |= {f"radius/level_{level}": radius for level, radius in radii.items()}
        values["scale"] = float(self.model.log_scale.exp())
        values["temperature"] = float(self.model.temperature)
        values["query_temperature"] = float(self.model.query_temperature)
        values["curvature"] = float(self.model.fusion.curvature)
        self.log_dict(values, batch_size=1)

    def _query_hits(self, rows: Tensor, points: Tensor) -> dict[str, float]:
        leaf = self.level[self.query_code[rows]] == self.level[self.leaves[0]]
        rows = rows[leaf]
        if not len(rows):
            return {}
        query, _ = self.model.query_points(self.query_table[rows])
        distances = self.model.fusion.distances(query, points[self.leaves])
        rank = rank_of_truth(distances, torch.searchsorted(self.leaves, self.query_code[rows]))
        return {"val/query_top1": float((rank < 1).float().mean()), "val/query_top5": float((rank < 5).float().mean())}

    # Optimisation and checkpoints

    def configure_optimizers(self) -> Any:
        rate, adapters = self.stage.learning_rate, self.settings.training.adapter_rate
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for name, p in named if "lora_" in name], "lr": rate * adapters},
            {"params": [p for name, p in named if "lora_" not in name and p.ndim > 1], "lr": rate},
            {"params": [p for name, p in named if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.settings.training.weight_decay)
        warmup = max(1, round(self.settings.training.warmup_fraction * self.steps))

        def schedule(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, self.steps - warmup))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {f"model.{name}": value for name, value in self.model.trained_state().items()}
        checkpoint["settings"] = self.settings.model_dump(mode="json")
        checkpoint["stage"] = self.stage.name
