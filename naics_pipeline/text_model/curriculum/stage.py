"""The curriculum: a file is a stage, a stage says which pairs and negatives are drawn, for how long and how fast."""

import difflib
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from naics_pipeline.errors import SettingsError
from naics_pipeline.settings import Objective, Section

EASIEST, HARDEST = 1, 8

# A single level or bucket may stand without brackets.
Several = BeforeValidator(lambda value: value if isinstance(value, list | tuple) else [value])
Level = Annotated[int, Field(ge=2, le=6)]
Weight = Annotated[float | None, Field(ge=0, description="of the term, in place of the profile's")]
WEIGHTS = ("contrastive", "query", "hierarchy", "radius", "balance")
Bucket = Annotated[int, Field(ge=EASIEST, le=HARDEST)]


class Stage(Section):
    """One stage, as its file in the curriculum directory gives it."""

    name: str
    after: str | None = Field(
        None, description="the stage whose checkpoint this one starts from; null: the file before"
    )
    contrastive: Weight = None
    query: Weight = None
    hierarchy: Weight = None
    radius: Weight = None
    balance: Weight = None
    adapter_rate: float | None = Field(
        None,
        ge=0,
        description="in place of the profile's; 0: adapters stay, each text is read once for the whole stage",
    )
    positive_levels: Annotated[tuple[Level, ...], Several] = Field(
        (), description="numbers of digits a positive may have"
    )
    positive_distance_min: float | None = Field(None, ge=0, description="of anchor and positive, in `distances`")
    positive_distance_max: float | None = Field(None, gt=0, description="likewise; null: the whole sector")
    positive_relations: tuple[str, ...] | None = Field(None, description="names of relations; null: all")
    max_positives: int | None = Field(None, ge=1, description="per anchor and epoch; null: all")
    difficulty_buckets: Annotated[tuple[Bucket, ...], Several] = Field((), description="hardness of negatives, 1 to 8")
    bucket_percentages: dict[Bucket, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict, description="share of each bucket among the negatives; together 1"
    )
    k_negatives: int = Field(16, ge=1, description="of each pair")
    epochs: int = Field(ge=1, description="times training.epochs_scale; an epoch is every short text once")
    learning_rate: float = Field(gt=0, description="at its highest, after the warm-up")

    @model_validator(mode="after")
    def _consistent(self) -> "Stage":
        if self.draws_pairs:
            for key in ("positive_levels", "difficulty_buckets"):
                if not getattr(self, key):
                    raise ValueError(
                        f"{key} is missing, and the stage compares codes: give it, or contrastive: 0 and hierarchy: 0"
                    )
            self._check_shares()
        low, high = self.positive_distance_min, self.positive_distance_max
        if low is not None and high is not None and low > high:
            raise ValueError(f"positive_distance_min {low} is above positive_distance_max {high}")
        return self

    def _check_shares(self) -> None:
        strangers = sorted(set(self.bucket_percentages) - set(self.difficulty_buckets))
        if strangers:
            raise ValueError(f"bucket_percentages names bucket {strangers[0]}, which is not in difficulty_buckets")
        total = sum(self.bucket_percentages.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"bucket_percentages sum to {total:g}, not to 1")

    @property
    def draws_pairs(self) -> bool:
        """Whether the file leaves any weight to the terms that compare codes with one another."""
        return self.contrastive != 0 or self.hierarchy != 0

    def weigh(self, objective: Objective) -> Objective:
        """The objective with the weights that the file gives in place of the profile's."""
        given = {name: value for name in WEIGHTS if (value := getattr(self, name)) is not None}
        return objective.model_copy(update=given)

    @property
    def quotas(self) -> dict[int, int]:
        """How many of the K negatives each bucket should give, easiest first; remainders go to the hardest."""
        buckets = sorted(bucket for bucket, share in self.bucket_percentages.items() if share > 0)
        quotas = {bucket: int(self.bucket_percentages[bucket] * self.k_negatives + 1e-9) for bucket in buckets}
        missing = self.k_negatives - sum(quotas.values())
        for position in range(missing):
            quotas[buckets[-1 - position % len(buckets)]] += 1
        return quotas


def load_curriculum(directory: Path) -> list[Stage]:
    """The stages of a directory of YAML files, in the order in which they are trained.

    Raises:
        SettingsError: no file, an unknown or impossible key, or an `after` that leads nowhere; names file and key.
    """
    paths = sorted(directory.glob("*.yaml"))
    if not paths:
        raise SettingsError(f"curriculum: {directory} holds no stage file (*.yaml).")
    stages: dict[str, Stage] = {}
    previous = None
    for path in paths:
        stage = _load_stage(path, previous)
        if not f"stage_{stage.name}".isidentifier():
            raise SettingsError(f"{path}: '{stage.name}' cannot name an asset; use letters, digits and underscores.")
        stages[stage.name] = stage
        previous = stage.name
    return _in_order(stages, directory)


def _load_stage(path: Path, previous: str | None) -> Stage:
    try:
        values: Any = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not a YAML file ({error}).") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: a stage file is a mapping of keys, such as epochs: 3.")
    known = [name for name in Stage.model_fields if name != "name"]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
            raise SettingsError(f"{path}: unknown key '{key}'; {hint}")
    try:
        return Stage(**{"after": previous, **values, "name": path.stem})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"{path}: {key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}."
        ) from error


def _in_order(stages: dict[str, Stage], directory: Path) -> list[Stage]:
    ordered: list[Stage] = []
    waiting = dict(stages)
    while waiting:
        ready = [s for s in waiting.values() if s.after is None or s.after in {done.name for done in ordered}]
        if not ready:
            stage = next(iter(waiting.values()))
            raise SettingsError(
                f"{directory / stage.name}.yaml: after: '{stage.after}' is not an earlier stage; "
                f"stages are {', '.join(stages)}."
            )
        ordered.append(ready[0])
        del waiting[ready[0].name]
    return ordered
