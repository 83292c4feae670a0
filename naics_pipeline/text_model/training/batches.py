"""The batches of an epoch: drawn by the plan of a stage and the state of the curriculum alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset

from naics_pipeline.errors import SettingsError
from naics_pipeline.settings import Settings, Training
from naics_pipeline.taxonomy.tree import held_out_pairs
from naics_pipeline.text_model.curriculum.negatives.candidates import Candidates
from naics_pipeline.text_model.curriculum.negatives.policy import GRADES, NegativePolicy, Negatives, Pairs
from naics_pipeline.text_model.curriculum.negatives.registry import policy_of
from naics_pipeline.text_model.curriculum.pairs import draw_pairs, pair_mask
from naics_pipeline.text_model.curriculum.stage import Mined, RouterGuided, Stage
from naics_pipeline.text_model.curriculum.state import CurriculumState
from naics_pipeline.text_model.training.inputs import EXAMPLE, TrainingInputs
from naics_pipeline.text_model.training.queries import draw_texts, no_texts, query_arrays

Batch = dict[str, torch.Tensor]
VALIDATION_PAIRS = 512
_VALIDATION = "validation"


@dataclass(frozen=True)
class Plan:
    """What the epochs of a stage draw from.

    Attributes:
        reads_queries, draws_pairs: whether any term of the stage looks at texts, and at pairs of codes.
        frozen: whether the adapters stay as they are.
        hashed: (N, N) bool, pairs of codes that training knows, kept for validation.
        held_out: (N, N) bool, these and every pair of a code that training does not know.
        queries: rows of the short texts that training may read.
        title_again: `ShortTexts.title_again`.
        training_pairs, validation_pairs: (N, N) bool, which (anchor, positive) are drawn.
        policies: by phase, where its negatives come from; under "validation" a policy that looks at no model.
    """

    inputs: TrainingInputs
    stage: Stage
    settings: Settings
    reads_queries: bool
    draws_pairs: bool
    frozen: bool
    hashed: np.ndarray
    held_out: np.ndarray
    queries: np.ndarray
    title_again: np.ndarray
    training_pairs: np.ndarray
    validation_pairs: np.ndarray
    policies: dict[str, NegativePolicy]

    @classmethod
    def of(cls, inputs: TrainingInputs, stage: Stage, settings: Settings) -> "Plan":
        """The plan of a stage over these inputs.

        Raises:
            SettingsError: no term of the stage reads a text or a pair, or its keys leave no pair.
        """
        objective = stage.weigh(settings.objective)
        frozen = adapter_rate(stage, settings.training) == 0
        of_learning_texts = 0 if frozen else max(objective.neighbour, objective.retention)
        reads_queries = max(objective.query, of_learning_texts) > 0
        compares = max(objective.contrastive, objective.hierarchy, objective.rank) > 0
        draws_pairs = compares and bool(stage.all_phases)
        trained, short = ~inputs.left_out, inputs.short
        hashed = held_out_pairs(inputs.tree, settings.training.validation_fraction)
        hashed &= trained[:, None] & trained
        held_out = hashed | ~(trained[:, None] & trained)
        policies = _policies(stage, inputs, held_out) if draws_pairs else {}
        _refuse_idle(stage, settings, reads_queries or draws_pairs, policies)
        allowed = np.zeros_like(held_out)
        if draws_pairs:
            allowed = pair_mask(stage, inputs.tree, inputs.excluded, held_out)
        return cls(
            inputs=inputs,
            stage=stage,
            settings=settings,
            reads_queries=reads_queries,
            draws_pairs=draws_pairs,
            frozen=frozen,
            hashed=hashed,
            held_out=held_out,
            queries=np.flatnonzero(trained[short.code] & (trained[short.under] | (short.under < 0))),
            title_again=short.title_again(),
            training_pairs=allowed & ~held_out,
            validation_pairs=allowed & hashed,
            policies=policies,
        )

    def policy(self, state: CurriculumState) -> NegativePolicy | None:
        """Where negatives come from in the state's epoch; None where the stage compares no codes."""
        return self.policies[state.phase(self.stage).name] if self.policies else None

    def texts(self) -> tuple[int, int]:
        """How many texts of the table an epoch reads, and how many it makes up."""
        training, short = self.settings.training, self.inputs.short
        known = min(len(self.queries), training.queries_per_epoch or len(self.queries))
        examples = (short.kind[self.queries] == EXAMPLE).sum() * known / max(1, len(self.queries))
        return known, 0 if self.frozen else round(training.variations * examples)

    def __len__(self) -> int:
        """Batches of an epoch: every short text once, or every pair where the stage has no query term."""
        training = self.settings.training
        if self.reads_queries:
            return -(-sum(self.texts()) // training.queries_per_batch)
        positives = self.training_pairs.sum(axis=1)
        pairs = int(np.minimum(positives, self.stage.max_positives or positives.max()).sum())
        return -(-pairs // training.pairs_per_batch)


def _policies(stage: Stage, inputs: TrainingInputs, held_out: np.ndarray) -> dict[str, NegativePolicy]:
    candidates = Candidates.of(inputs.tree, inputs.excluded, held_out)
    specs = {phase.name: phase.negatives for phase in stage.all_phases}
    plain = stage.all_phases[0].negatives
    while isinstance(plain, Mined | RouterGuided):
        plain = plain.rest
    specs[_VALIDATION] = plain
    return {name: policy_of(spec, candidates, stage.k_negatives) for name, spec in specs.items()}


def _refuse_idle(stage: Stage, settings: Settings, reads: bool, policies: dict[str, NegativePolicy]) -> None:
    """Raises where a stage would do nothing, or where a key of it could have no effect."""
    if not reads:
        raise SettingsError(
            f"stage {stage.name}: contrastive, query, hierarchy and rank all have weight 0, and so have neighbour and "
            "retention, or its adapters stay as they are: it would read nothing. Give one of them a weight, in the "
            "stage's file or in the profile."
        )
    if any(phase.pulls for phase in stage.all_phases) and not stage.weigh(settings.objective).attraction:
        raise SettingsError(
            f"stage {stage.name}: false_negatives are to be attracted, but the term attraction has weight 0. Give it "
            "one, or set mode: eliminate."
        )
    if stage.weigh(settings.objective).retention and not settings.reads_base:
        raise SettingsError(
            f"stage {stage.name}: retention has a weight here, but nowhere else is the base asked. Give "
            "objective.retention or model.base_share one, or leave it out of the stage's file."
        )
    if any(phase.false_negatives for phase in stage.all_phases) and settings.model.geometry != "lorentz":
        raise SettingsError(
            f"stage {stage.name}: false_negatives are found by clusters of hyperbolic space; model.geometry is "
            f"{settings.model.geometry}. Set it to lorentz, or leave false_negatives out."
        )
    if settings.model.fusion != "moe" and any("gates" in policy.needs for policy in policies.values()):
        raise SettingsError(
            f"stage {stage.name}: negatives are router_guided, and model.fusion is {settings.model.fusion}, which has "
            "no router. Set it to moe, or name other negatives."
        )


def epochs_of(stage: Stage, settings: Settings) -> int:
    """How many epochs a stage trains."""
    return max(1, round(stage.epochs * settings.training.epochs_scale))


def adapter_rate(stage: Stage, settings: Training) -> float:
    """Learning rate of the adapters in a stage, as a multiple of the stage's."""
    return settings.adapter_rate if stage.adapter_rate is None else stage.adapter_rate


def epoch(plan: Plan, state: CurriculumState) -> Iterator[Batch]:
    """The batches of the state's epoch: the same for the same plan and state.

    An epoch is every short text once, in random order, with pairs of codes beside them as long as there are texts; it
    is every pair that the stage draws where the stage has no query term.
    """
    training = plan.settings.training
    generator = np.random.default_rng([plan.settings.seed, state.epoch])
    policy = plan.policy(state)
    pairs = _endless_pairs(plan, policy, state, generator)
    if not plan.reads_queries:
        for _ in range(len(plan)):
            yield _batch(plan, *next(pairs))
        return
    known, made_up = plan.texts()
    texts = draw_texts(
        plan.inputs,
        plan.queries,
        known=known,
        made_up=made_up,
        per_batch=training.queries_per_batch,
        limit=plan.settings.tokens.short,
        generator=generator,
    )
    for rows in texts.batches:
        yield _tensors(query_arrays(plan.inputs, plan.title_again, texts, rows)) | _codes(plan, *next(pairs))


def validation_batch(plan: Plan) -> Batch:
    """Held-out pairs with negatives, at most `VALIDATION_PAIRS` of them, the same each time."""
    generator = np.random.default_rng([plan.settings.seed, 2**31])
    policy = plan.policies.get(_VALIDATION)
    drawn = _pairs(plan, policy, CurriculumState(), plan.validation_pairs, VALIDATION_PAIRS, generator)
    return _codes(plan, *next(drawn, _no_pairs(plan)))


class Epochs(IterableDataset[Batch]):
    """One epoch after another, for a loader.

    Args:
        begin: called before an epoch; what the model has to do first, and the state to draw by.
    """

    def __init__(self, plan: Plan, begin: Callable[[], CurriculumState]) -> None:
        self.plan, self.begin = plan, begin

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        yield from epoch(self.plan, self.begin())


def _endless_pairs(
    plan: Plan, policy: NegativePolicy | None, state: CurriculumState, generator: np.random.Generator
) -> Iterator[tuple[Pairs, Negatives]]:
    while plan.training_pairs.any():
        yield from _pairs(plan, policy, state, plan.training_pairs, plan.settings.training.pairs_per_batch, generator)
    while True:
        yield _no_pairs(plan)


def _pairs(
    plan: Plan,
    policy: NegativePolicy | None,
    state: CurriculumState,
    allowed: np.ndarray,
    size: int,
    generator: np.random.Generator,
) -> Iterator[tuple[Pairs, Negatives]]:
    """Every pair that an epoch of the stage draws, in batches, with their negatives."""
    if policy is None:
        return
    every = draw_pairs(allowed, plan.stage.max_positives, generator)
    for start in range(0, len(every.anchor), size):
        pairs = every.at(slice(start, start + size))
        yield pairs, policy.draw(pairs, state, generator)


def _no_pairs(plan: Plan) -> tuple[Pairs, Negatives]:
    none, wide = np.zeros(0, np.int64), np.zeros((0, plan.stage.k_negatives), np.int64)
    return Pairs(none, none), Negatives(wide, wide.astype(np.uint8), *np.zeros((2, GRADES), np.int64))


def _batch(plan: Plan, pairs: Pairs, negatives: Negatives) -> Batch:
    """Of pairs alone."""
    texts = query_arrays(plan.inputs, plan.title_again, no_texts(), np.zeros(0, np.int64))
    return _tensors(texts) | _codes(plan, pairs, negatives)


def _codes(plan: Plan, pairs: Pairs, negatives: Negatives) -> Batch:
    live = np.concatenate([pairs.anchor, pairs.positive, negatives.codes.T.ravel()])
    distinct, first = np.unique(live, return_index=True)
    # Anchors first: where only some codes are read afresh, those that more of the loss hangs on.
    live = distinct[np.argsort(first)][: plan.settings.training.live_codes]
    return _tensors(
        {
            "anchor": pairs.anchor,
            "positive": pairs.positive,
            "negative": negatives.codes,
            "codes": distinct,
            "live": live,
            "drawn": negatives.counts(),
            "asked": negatives.asked,
            "short": negatives.short,
        }
    )


def _tensors(arrays: dict[str, np.ndarray]) -> Batch:
    return {name: torch.from_numpy(np.ascontiguousarray(values)).long() for name, values in arrays.items()}
