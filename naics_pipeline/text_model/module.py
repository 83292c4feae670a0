"""One stage's training step, as a Lightning module."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from naics_pipeline.errors import TrainingError
from naics_pipeline.text_model.curriculum import Stage
from naics_pipeline.text_model.data import Batch, StageBatches, TrainingInputs, adapter_rate
from naics_pipeline.text_model.fusion import drop_channels
from naics_pipeline.text_model.losses.balance import balance_loss
from naics_pipeline.text_model.losses.contrastive import contrastive_loss, norm_adaptive_margin
from naics_pipeline.text_model.losses.hierarchy import hierarchy_loss
from naics_pipeline.text_model.losses.query import query_loss, query_targets, rank_of_truth
from naics_pipeline.text_model.losses.radius import level_radius, radius_loss
from naics_pipeline.text_model.model import CodeVectors, TextModel
from naics_pipeline.text_model.tables import LiveTable, LiveTables
from naics_pipeline.text_model.tokens import LONG_CHANNELS, Ragged

# (N, N) distances between all codes to named metrics; the evaluation lies above this package.
Metrics = Callable[[np.ndarray], dict[str, float]]


class StageModule(pl.LightningModule):
    """Trains a text model on one stage.

    A step reads its queries afresh, and the long texts of its `live` codes; these take their places in tables of what
    all texts said when they were last read, renewed after every epoch. Fusion and projection run on all N codes, so
    every term sees points that are staler than the present weights only by what the adapters changed since a text's
    last turn.
    """

    # The frozen base is not in the checkpoint.
    strict_loading = False

    tree_distance: Tensor
    distance: Tensor
    held_out: Tensor
    validation_pairs: Tensor
    trained: Tensor
    level: Tensor
    present: Tensor
    leaves: Tensor
    leaf_of: Tensor
    base_short: Tensor
    example_rows: Tensor
    example_code: Tensor

    def __init__(
        self,
        model: TextModel,
        inputs: TrainingInputs,
        stage: Stage,
        steps: int,
        batches: StageBatches,
        metrics: Metrics,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.inputs, self.stage = model, inputs, stage
        self.settings, self.steps, self.seed = model.settings, steps, seed
        self.objective = stage.weigh(self.settings.objective)
        self.frozen = adapter_rate(stage, self.settings.training) == 0
        self.validation, self.metrics = batches.validation(), metrics
        self.last_good: str | None = None
        tree = inputs.tree
        leaves = np.flatnonzero((tree.level == tree.level.max()) & ~inputs.left_out)
        leaf_of = np.full(len(tree), -1)
        leaf_of[leaves] = np.arange(len(leaves))
        # Whole numbers up to 10 and their halves: exact in the small types.
        self._constant("tree_distance", torch.from_numpy(tree.tree_distance()))
        self._constant("distance", torch.from_numpy(tree.distance()).half())
        self._constant("held_out", torch.from_numpy(batches.held_out))
        self._constant("validation_pairs", torch.from_numpy(batches.hashed[~inputs.left_out]))
        self._constant("trained", torch.from_numpy(np.flatnonzero(~inputs.left_out)))
        self._constant("level", torch.from_numpy(tree.level.astype(np.int64)))
        self._constant("present", torch.from_numpy(inputs.present))
        self._constant("leaves", torch.from_numpy(leaves))
        self._constant("leaf_of", torch.from_numpy(leaf_of))
        self._constant("example_rows", torch.from_numpy(inputs.short.examples))
        self._constant("example_code", torch.from_numpy(inputs.short.code[inputs.short.examples]))
        self._constant("base_short", inputs.base_short)
        self.short = LiveTable(len(inputs.short.kind), model.encoder.width)
        self.long = LiveTables(LONG_CHANNELS, len(tree), model.encoder.width)
        self.validation_vectors = LiveTable(len(inputs.validation), model.encoder.width)
        self.tables_are_fresh = False

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    # The loss

    def losses(
        self, batch: Batch, queries: Tensor, codes: CodeVectors, short: Tensor, offset: Tensor
    ) -> dict[str, Tensor]:
        """Every term of the objective with a weight above 0, unweighted.

        Args:
            queries: (Q, width) vectors of the batch's queries.
            codes: of all codes, with the channels that count.
            short: (M, width) vectors of all short texts.
            offset: (N, d + 1), those of the codes that count.
        """
        points, gate = self.model.fusion(codes.channels, codes.present, offset)
        weights, scale = self.objective, self.model.log_scale.exp()
        terms: dict[str, Tensor] = {}
        if weights.contrastive and len(batch["anchor"]):
            terms["contrastive"] = self._contrastive(batch, points)
        if weights.query and len(queries):
            query = self.model.fusion.place_texts(queries)
            left = short[batch["left_row"]]
            own = codes.leave_one_out(batch["query_code"], batch["left_channel"], left, batch["left_of"])
            alone, _ = self.model.fusion(*own, offset[batch["query_code"]])
            distances = self._query_distances(batch["query_code"], query, points, alone)
            terms["query"] = self._query(batch["query_code"], batch["query_under"], distances, held_out=False)
        if weights.hierarchy and len(batch["codes"]):
            terms["hierarchy"] = self._hierarchy(points, batch["codes"], ~self.held_out[batch["codes"]])
        if weights.radius:
            terms["radius"] = radius_loss(
                self.model.fusion.radii(points[self.trained]), self.level[self.trained], scale
            )
        if weights.balance and gate is not None:
            terms["balance"] = balance_loss(gate[self.trained], self.settings.model.top_k)
        return terms

    def _hierarchy(self, points: Tensor, rows: Tensor, counted: Tensor) -> Tensor:
        distances = self.model.fusion.distances(points[rows], points)
        return hierarchy_loss(distances, self.tree_distance[rows].float(), self.model.log_scale.exp(), counted)

    def _contrastive(self, batch: Batch, points: Tensor) -> Tensor:
        weights, fusion = self.objective, self.model.fusion
        anchor, positive, negative = batch["anchor"], batch["positive"], batch["negative"]
        margin = norm_adaptive_margin(fusion.radii(points[anchor]), weights.margin).unsqueeze(-1)
        codes = torch.cat([positive, batch["codes"]])
        to_codes = fusion.distances(points[anchor], points[codes])
        to_positive = to_codes[:, : len(positive)].diagonal()
        if weights.in_batch_negatives:
            # The K drawn ones are among the batch's codes already.
            farther = self.distance[anchor][:, batch["codes"]] > self.distance[anchor, positive].unsqueeze(-1)
            farther &= ~self.held_out[anchor][:, batch["codes"]]
            to_negative = (to_codes[:, len(positive) :] - margin).masked_fill(~farther, math.inf)
        else:
            column = torch.searchsorted(batch["codes"], negative) + len(positive)
            to_negative = to_codes.gather(1, column) - margin
        return contrastive_loss(to_positive, to_negative, self.model.temperature, weights.contrastive_loss)

    def _query_distances(self, code: Tensor, query: Tensor, points: Tensor, own: Tensor) -> Tensor:
        """(Q, L) to every leaf; to the own one as it is without the query."""
        distances = self.model.fusion.distances(query, points[self.leaves])
        column = self.leaf_of[code]
        rows = (column >= 0).nonzero().squeeze(-1)
        to_own = self.model.fusion.paired_distances(query[rows], own[rows])
        return distances.index_put((rows, column[rows]), to_own)

    def _query(self, code: Tensor, under: Tensor, distances: Tensor, *, held_out: bool) -> Tensor:
        """The term for distances (Q, L).

        Args:
            held_out: whether the pairs that are held out have a part in it.
        """
        weights = self.objective
        below, tree_distance = self._leaves_below(code), self.tree_distance[code][:, self.leaves].float()
        confusing = self._leaves_below(under) & (under >= 0).unsqueeze(-1) & ~below
        left_out = None
        if not held_out:
            left_out = self.held_out[code][:, self.leaves]
            confusing &= ~self.held_out[under][:, self.leaves]
            tree_distance = tree_distance.masked_fill(left_out, math.inf)
            # A query with no leaf of its own left would be sent to a stranger's.
            kept = (below & ~left_out).any(1)
            tree_distance, distances = tree_distance[kept], distances[kept]
            confusing, left_out = confusing[kept], left_out[kept]
        return query_loss(
            distances,
            query_targets(tree_distance, weights.query_smoothing),
            self.model.query_temperature,
            confusing,
            weights.query_margin,
            left_out,
        )

    def _leaves_below(self, code: Tensor) -> Tensor:
        """(Q, L) bool: which leaves are a code or lie below it."""
        depth = self.level[self.leaves] - self.level[code].unsqueeze(-1)
        return self.tree_distance[code][:, self.leaves] == depth

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms."""
        return torch.stack([getattr(self.objective, name) * term for name, term in terms.items()]).sum()

    # Training

    def training_step(self, batch: Batch, _: int) -> Tensor:
        terms = self.read_and_score(batch)
        loss = self.total(terms)
        self._refuse_non_finite(loss, terms, batch)
        values = {f"train/{name}": value.detach() for name, value in terms.items()} | {"train/loss": loss.detach()}
        self.log_dict(values, on_step=False, on_epoch=True, prog_bar=True, batch_size=1)
        return loss

    def read_and_score(self, batch: Batch) -> dict[str, Tensor]:
        """Reads the texts of a batch afresh and gives the terms of the objective, unweighted."""
        short, long = self.short.values, self._long_values()
        if self.frozen:
            queries = short[batch["query_row"]]
        else:
            texts = Ragged(batch["query_values"].cpu().numpy(), batch["query_offsets"].cpu().numpy())
            known = (batch["query_row"] >= 0).nonzero().squeeze(-1)
            queries = self.model.read_short(texts, self._base_vectors(texts, batch["query_row"]))
            short = self.short.replace(batch["query_row"][known], queries[known])
            long |= self._read_live(batch["live"])
        present = drop_channels(self.present, self.settings.model.channel_dropout)
        kept = torch.rand(len(self.present), 1, device=present.device) >= self.settings.model.offset_dropout
        return self.losses(batch, queries, self._codes(short, long, present), short, self.model.offset * kept)

    def _base_vectors(self, texts: Ragged, row: Tensor) -> Tensor:
        """What the base says of a batch's queries: kept of the table's texts, read of those that are made up."""
        vectors = self.base_short[row]
        made_up = (row < 0).nonzero().squeeze(-1)
        if len(made_up) and self.settings.model.base_share:
            vectors[made_up] = self.model.base_vectors(texts.taken(made_up.cpu().numpy()))
        return vectors

    def _long_values(self) -> dict[str, Tensor]:
        return {name: self.long[name].values for name in LONG_CHANNELS}

    def _read_live(self, live: Tensor) -> dict[str, Tensor]:
        """Tables of the long texts that learn, with those of the live codes read afresh."""
        rows = live.cpu().numpy()
        return {
            name: self.long[name].replace(live, self.model.read(name, self.inputs.long[name], rows))
            for name in LONG_CHANNELS
            if self.model.encoder.learns(name) and len(rows)
        }

    def _codes(self, short: Tensor, long: dict[str, Tensor], present: Tensor) -> CodeVectors:
        titles = short[: len(self.inputs.tree)]
        return CodeVectors.of(titles, short[self.example_rows], self.example_code, long, present)

    def _refuse_non_finite(self, loss: Tensor, terms: dict[str, Tensor], batch: Batch) -> None:
        if bool(torch.isfinite(loss)):
            return
        bad = [name for name, value in terms.items() if not bool(torch.isfinite(value))]
        of = batch["anchor"] if len(batch["anchor"]) else batch["query_code"]
        codes = self.inputs.tree.codes[of.cpu().numpy()]
        rate = self.optimizers().param_groups[-1]["lr"]  # type: ignore[union-attr]
        raise TrainingError(
            f"stage {self.stage.name}, epoch {self.current_epoch}: the loss is {float(loss)} (terms: {', '.join(bad)}) "
            f"at learning rate {rate:.3g}, on a batch of codes {', '.join(codes[:20])}. Last good checkpoint: "
            f"{self.last_good or 'none yet'}. Lower learning_rate in the stage's file, or raise temperature."
        )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Not on_train_epoch_start: Lightning leaves that out for the first epoch of a resumed run.
        if batch_idx:
            return
        # Dropout of an epoch depends on nothing but seed and epoch, so that a resumed run repeats it.
        torch.manual_seed(self.seed * 10_007 + self.current_epoch)
        if not self.tables_are_fresh:
            self.renew_tables()
        self.tables_are_fresh = self.frozen
        self.model.train()

    @torch.no_grad()
    def renew_tables(self) -> None:
        """Reads every text anew."""
        self.model.eval()
        self.short.renew(self.model.read_short(self.inputs.short.tokens, self.base_short))
        for name in LONG_CHANNELS:
            self.long[name].renew(self.model.read(name, self.inputs.long[name]))
        self.validation_vectors.renew(self.model.read_short(self.inputs.validation))
        self.tables_are_fresh = True

    def code_vectors(self) -> CodeVectors:
        """What the tables say of all codes."""
        return self._codes(self.short.values, self._long_values(), self.present)

    # Validation

    @torch.no_grad()
    def validation_step(self, batch: Batch, _: int) -> None:
        if not self.tables_are_fresh:
            self.renew_tables()
        points = self.model.code_points(self.code_vectors(), self.inputs.tree.codes)
        terms = self._validation_terms(batch, points)
        values = {f"val/{name}": float(value) for name, value in terms.items()}
        values["val/loss"] = float(self.total(terms)) if terms else 0.0
        values |= self._validation_hits(points)
        exact = points.double() if points.device.type != "mps" else points.cpu().double()
        values |= self.metrics(self.model.fusion.distances(exact, exact).cpu().numpy())
        radii = level_radius(self.model.fusion.radii(points), self.level)
        values |= {f"radius/level_{level}": radius for level, radius in radii.items()}
        values["scale"] = float(self.model.log_scale.exp())
        values["temperature"] = float(self.model.temperature)
        values["query_temperature"] = float(self.model.query_temperature)
        values["curvature"] = float(self.model.fusion.curvature)
        self.log_dict(values, batch_size=1)

    def _validation_terms(self, batch: Batch, points: Tensor) -> dict[str, Tensor]:
        """The terms on held-out pairs and validation entries: on nothing that training saw."""
        terms: dict[str, Tensor] = {}
        if self.objective.contrastive and len(batch["anchor"]):
            terms["contrastive"] = self._contrastive(batch, points)
        if self.objective.hierarchy and bool(self.validation_pairs.any()):
            terms["hierarchy"] = self._hierarchy(points, self.trained, self.validation_pairs)
        if self.objective.query and len(self.inputs.validation):
            code = torch.from_numpy(self.inputs.validation_code).to(points.device)
            distances = self.model.fusion.distances(self._validation_points(), points[self.leaves])
            terms["query"] = self._query(code, torch.full_like(code, -1), distances, held_out=True)
        return terms

    def _validation_points(self) -> Tensor:
        return self.model.fusion.place_texts(self.validation_vectors.values)

    def _validation_hits(self, points: Tensor) -> dict[str, float]:
        code = torch.from_numpy(self.inputs.validation_code).to(points.device)
        leaf = self.leaf_of[code]
        if not len(leaf):
            return {}
        distances = self.model.fusion.distances(self._validation_points(), points[self.leaves])
        rank = rank_of_truth(distances[leaf >= 0], leaf[leaf >= 0])
        return {"val/query_top1": float((rank < 1).float().mean()), "val/query_top5": float((rank < 5).float().mean())}

    # Optimisation and checkpoints

    def configure_optimizers(self) -> Any:
        rate, adapters = self.stage.learning_rate, adapter_rate(self.stage, self.settings.training)
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        encoder = [p for name, p in named if name.startswith("encoder.")]
        fusion = [p for name, p in named if not name.startswith("encoder.")]
        groups = [
            {"params": encoder if adapters else [], "lr": rate * adapters},
            {"params": [p for p in fusion if p.ndim > 1], "lr": rate},
            {"params": [p for p in fusion if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], weight_decay=self.settings.training.weight_decay
        )
        warmup = max(1, round(self.settings.training.warmup_fraction * self.steps))

        def schedule(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, self.steps - warmup))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Read with the weights that the run began with.
        self.tables_are_fresh = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {f"model.{name}": value for name, value in self.model.trained_state().items()}
        checkpoint["settings"] = self.settings.model_dump(mode="json")
        checkpoint["stage"] = self.stage.name
        checkpoint["codes"] = self.model.codes
