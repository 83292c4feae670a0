"""The curriculum: a file is a stage, a stage says which pairs and negatives are drawn, for how long and how fast."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from naics_pipeline.errors import SettingsError
from naics_pipeline.settings import Bucket, BucketShares, Objective, Section

# A single level or bucket may stand without brackets.
Several = BeforeValidator(lambda value: value if isinstance(value, list | tuple) else [value])
Level = Annotated[int, Field(ge=2, le=6)]
Weight = Annotated[float | None, Field(ge=0, description="of the term, in place of the profile's")]
WEIGHTS = ("contrastive", "query", "neighbour", "hierarchy", "rank", "radius", "balance", "attraction", "retention")


class Anneal(Section):
    """A value that moves from `start` to `end` while what it follows goes from `low` to `high`."""

    start: float = Field(ge=0, description="its value up to `low`")
    end: float = Field(ge=0, description="its value from `high` on")
    by: str = Field("epoch", description="epoch: the share of the stage that is over; else a metric of the last epoch")
    low: float = Field(0.0, description="of what it follows")
    high: float = Field(1.0, description="likewise")

    @model_validator(mode="after")
    def _forward(self) -> "Anneal":
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self


Annealed = Annotated[float, Field(ge=0)] | Anneal


class Buckets(Section):
    """Shares of the buckets of hardness."""

    kind: Literal["buckets"] = "buckets"
    difficulty_buckets: Annotated[tuple[Bucket, ...], Several] = Field(description="buckets that may be asked for")
    bucket_percentages: BucketShares = Field(description="bucket to its share of the negatives; 1 in all")

    @model_validator(mode="after")
    def _consistent(self) -> "Buckets":
        strangers = sorted(set(self.bucket_percentages) - set(self.difficulty_buckets))
        if strangers:
            raise ValueError(f"bucket_percentages names bucket {strangers[0]}, which is not in difficulty_buckets")
        return self


class TreeDistance(Section):
    """The nearer in the tree, the likelier."""

    kind: Literal["tree_distance"] = "tree_distance"
    alpha: Annealed = Field(1.5, description="P(n) ∝ tree_distance^-alpha")
    mask_siblings: bool = Field(False, description="siblings come only where there is nothing else")
    exclusion_boost: float = Field(1.0, gt=0, description="how much likelier a code is that the anchor excludes")


class NearFar(Section):
    """Two fixed shares."""

    kind: Literal["near_far"] = "near_far"
    threshold: float = Field(4.0, gt=0, description="the largest distance that is near")
    near: float = Field(0.65, ge=0, le=1, description="share of near ones")


class _Nearest(Section):
    pool: Literal["all", "batch"] = Field("all", description="all: of all codes, as they lay when the epoch began")
    share: Annealed = Field(0.5, description="of all negatives; `rest` draws the others")
    rest: "Negatives" = Field(description="negatives of any kind")

    @model_validator(mode="after")
    def _at_most_all(self) -> "_Nearest":
        ends = (self.share.start, self.share.end) if isinstance(self.share, Anneal) else (self.share,)
        if max(ends) > 1:
            raise ValueError(f"share {max(ends):g} is more than 1")
        return self


class Mined(_Nearest):
    """The codes nearest in the space."""

    kind: Literal["mined"] = "mined"


class RouterGuided(_Nearest):
    """The codes that the experts are given in the most similar shares."""

    kind: Literal["router_guided"] = "router_guided"


def _by_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Negatives = Annotated[
    Buckets | TreeDistance | NearFar | Mined | RouterGuided, Field(discriminator="kind"), BeforeValidator(_by_name)
]
Mined.model_rebuild()
RouterGuided.model_rebuild()


class FalseNegatives(Section):
    """What becomes of negatives that a clustering of all points puts beside their anchor."""

    mode: Literal["eliminate", "attract", "hybrid"] = Field(
        description="eliminate: they do not count as negatives; attract: they are pulled instead, by the term "
        "attraction; hybrid: those nearer than the positive are pulled, the others do not count"
    )
    clusters: int = Field(64, ge=2, description="of all codes, by k-means in the space")
    every: int = Field(1, ge=1, description="epochs from one clustering to the next")


class Phase(Section):
    """A part of a stage."""

    name: str = Field(description="as the log calls it")
    until: float = Field(gt=0, le=1, description="share of the stage's epochs at which it ends")
    negatives: Negatives = Field(description="as in a stage")
    false_negatives: FalseNegatives | None = Field(None, description="as in a stage")

    @property
    def pulls(self) -> bool:
        """Whether suspected false negatives are attracted."""
        return self.false_negatives is not None and self.false_negatives.mode != "eliminate"


class Stage(Section):
    """One stage, as its file in the curriculum directory gives it."""

    name: str
    after: str | None = Field(
        None, description="the stage whose checkpoint this one starts from; not given: the file before; null: none"
    )
    contrastive: Weight = None
    query: Weight = None
    neighbour: Weight = None
    hierarchy: Weight = None
    rank: Weight = None
    radius: Weight = None
    balance: Weight = None
    attraction: Weight = None
    retention: Weight = None
    adapter_rate: float | None = Field(
        None,
        ge=0,
        description="in place of the profile's; 0: adapters stay, each text is read once for the whole stage",
    )
    pairs: Literal["relatives", "ancestors", "exclusions"] = Field(
        "relatives",
        description="relatives: any two codes of a sector; ancestors: the positive lies above the anchor; exclusions: "
        "only where the anchor excludes a code farther away than the positive",
    )
    positive_levels: Annotated[tuple[Level, ...], Several] = Field(
        (), description="numbers of digits a positive may have"
    )
    positive_distance_min: float | None = Field(None, ge=0, description="of anchor and positive, in `distances`")
    positive_distance_max: float | None = Field(None, gt=0, description="likewise; null: the whole sector")
    positive_relations: tuple[str, ...] | None = Field(None, description="names of relations; null: all")
    max_positives: int | None = Field(None, ge=1, description="per anchor and epoch; null: all")
    negatives: Negatives | None = Field(None, description="where negatives come from, one of the kinds below")
    false_negatives: FalseNegatives | None = Field(None, description="what becomes of suspected relatives among them")
    phases: tuple[Phase, ...] = Field((), description="in place of negatives and false_negatives")
    k_negatives: int = Field(16, ge=1, description="of each pair")
    epochs: int = Field(ge=1, description="times training.epochs_scale; an epoch is every short text once")
    learning_rate: float = Field(gt=0, description="at its highest, after the warm-up")

    @model_validator(mode="after")
    def _consistent(self) -> "Stage":
        if self.phases and (self.negatives or self.false_negatives):
            raise ValueError("phases stand in place of negatives and false_negatives: give one or the other")
        ends = [phase.until for phase in self.phases]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1):
            raise ValueError(f"phases end at {', '.join(map(str, ends))}: name rising shares, the last one 1")
        if self.draws_pairs:
            for key, given in (("positive_levels", self.positive_levels), ("negatives", self.negatives or self.phases)):
                if not given:
                    raise ValueError(
                        f"{key} is missing, and the stage compares codes: give it, or contrastive: 0, hierarchy: 0 and "
                        "rank: 0"
                    )
        if self.attraction and not any(phase.pulls for phase in self.all_phases):
            raise ValueError("attraction has a weight, but nothing is attracted: give false_negatives with a mode")
        low, high = self.positive_distance_min, self.positive_distance_max
        if low is not None and high is not None and low > high:
            raise ValueError(f"positive_distance_min {low} is above positive_distance_max {high}")
        return self

    @property
    def draws_pairs(self) -> bool:
        """Whether the file leaves any weight to the terms that compare codes with one another."""
        return self.contrastive != 0 or self.hierarchy != 0 or bool(self.rank)

    @property
    def all_phases(self) -> tuple[Phase, ...]:
        """The phases; one where the file names none."""
        if self.phases or self.negatives is None:
            return self.phases
        return (Phase(name="whole", until=1, negatives=self.negatives, false_negatives=self.false_negatives),)

    def weigh(self, objective: Objective) -> Objective:
        """The objective with the weights that the file gives in place of the profile's."""
        given = {name: value for name in WEIGHTS if (value := getattr(self, name)) is not None}
        return objective.model_copy(update=given)


def load_curriculum(directory: Path) -> list[Stage]:
    """The stages of a directory of YAML files, in the order in which they are trained.

    A stage without `after` starts from the one before it in the order of the files; `after: null` starts anew, and
    stages that name the same one are branches.

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


def final_stage(stages: list[Stage], name: str | None) -> Stage:
    """The stage whose checkpoint is embedded: the one of that name, else the last.

    Raises:
        SettingsError: there is no such stage, or none is named and the curriculum ends in several.
    """
    by_name = {stage.name: stage for stage in stages}
    if name is not None:
        if name not in by_name:
            raise SettingsError(f"final_stage: there is no stage '{name}'; {_hint(name, list(by_name))}")
        return by_name[name]
    continued = {stage.after for stage in stages}
    ends = [stage.name for stage in stages if stage.name not in continued]
    if len(ends) > 1:
        raise SettingsError(
            f"curriculum: it ends in {len(ends)} stages, {', '.join(ends)}. Name the one to embed and evaluate by "
            "final_stage (NAICS__FINAL_STAGE); each can be, one after another."
        )
    return stages[-1]


def lineage(stages: list[Stage], final: Stage) -> list[Stage]:
    """A stage and those that it builds on, the first one first."""
    by_name, found = {stage.name: stage for stage in stages}, [final]
    while found[0].after is not None:
        found.insert(0, by_name[found[0].after])
    return found


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
            raise SettingsError(f"{path}: unknown key '{key}'; {_hint(str(key), known)}")
    try:
        return Stage(**{"after": previous, **values, "name": path.stem})
    except ValidationError as error:
        # Of what may be a number or a mapping, the last complaint is about the mapping.
        found = [one for one in error.errors() if one["loc"][:2] == error.errors()[0]["loc"][:2]]
        raise SettingsError(f"{path}: {_complaint(dict(found[-1]))}.") from error


def _hint(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."


def _complaint(error: dict[str, Any]) -> str:
    """What pydantic found, without the names of alternatives that it puts between the keys."""
    kinds = {kind.model_fields["kind"].default: kind for kind in (Buckets, TreeDistance, NearFar, Mined, RouterGuided)}
    parts = [str(part) for part in error["loc"]]
    key = ".".join(part for part in parts if part not in kinds and not part.startswith(("constrained-float", "Anneal")))
    if error["type"] == "extra_forbidden":
        named = [kinds[part] for part in parts if part in kinds]
        known = list((named[-1] if named else FalseNegatives).model_fields)
        return f"unknown key '{key}'; {_hint(parts[-1], known)}".removesuffix(".")
    said = error["msg"].removeprefix("Value error, ")
    return f"{key}: {said}" if key else said


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
