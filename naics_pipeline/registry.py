"""MLflow's registry: an index put there as a model, and which of its versions the alias `champion` names."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from naics_pipeline.errors import ModelError
from naics_pipeline.resources import TrackedRun, without_credentials_in
from naics_pipeline.search.answers import THRESHOLD
from naics_pipeline.search.champion import Decision, decide

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

CHAMPION = "champion"
SCORES = "held_out_scores.parquet"
INDEX = "naics_index"
INDEX_VERSION, MODEL_ID, DECISION = "index_version", "model_id", "decision"
CODE = Path(__file__).with_name("served_model.py")
EXAMPLE = ["mobile dog grooming van", "growing soybeans"]
_REQUIRED = ("naics-pipeline", "mlflow", "numpy", "polars", "safetensors", "scikit-learn", "torch", "transformers")


@dataclass(frozen=True)
class Registered:
    """A version of the registered model.

    Attributes:
        version: its number, as MLflow writes it.
        model_id: of its LoggedModel.
        is_new: false where this index had been registered before.
    """

    version: str
    model_id: str
    is_new: bool


@dataclass(frozen=True)
class Registry:
    """The versions of one model, as a run sees and changes them.

    Attributes:
        run: that registers.
        name: of the registered model.

    Every method raises ModelError where MLflow does not do its part.
    """

    run: TrackedRun
    name: str

    def register(self, index: Path, manifest: Mapping[str, Any], scores: pl.DataFrame) -> Registered:
        """The version that holds an index; a new one unless the same index is there already.

        Args:
            index: directory of the index.
            scores: of held-out entries, kept with the version for the comparison with those to come.
        """
        with self._taken():
            self._make()
            for known in self._versions():
                if known.tags.get(INDEX_VERSION) == manifest["index_version"]:
                    return Registered(str(known.version), known.tags[MODEL_ID], is_new=False)
            return self._add(index, manifest, scores)

    def crown(self, registered: Registered, scores: pl.DataFrame, *, seed: int) -> Decision:
        """Moves the alias `champion` to a version where it may; the version says why or why not.

        Args:
            scores: of the version.
            seed: of the bootstrap.
        """
        with self._taken():
            decision = self._decide(registered, scores, seed)
            said = f"champion {'moves' if decision.moves else 'stays'}: {decision.reason}"
            self.run.client.set_model_version_tag(self.name, registered.version, DECISION, said)
            if decision.moves:
                self.run.client.set_registered_model_alias(self.name, CHAMPION, registered.version)
        return decision

    def _decide(self, registered: Registered, scores: pl.DataFrame, seed: int) -> Decision:
        reigning = self.run.client.get_registered_model(self.name).aliases.get(CHAMPION)
        if reigning is None:
            return Decision(True, f"no version of {self.name} reigns")
        if str(reigning) == registered.version:
            return Decision(False, f"version {reigning} is the champion already")
        champion = self.run.client.get_model_version(self.name, reigning)
        if MODEL_ID not in champion.tags:
            return Decision(
                False,
                f"version {reigning} was not registered here and has no scores, so that nothing can be compared. "
                "Set the alias by hand",
            )
        known = self._scores_of(champion.tags[MODEL_ID])
        return decide(known, scores, name=f"version {reigning}", seed=seed)

    def _scores_of(self, model_id: str) -> pl.DataFrame:
        from mlflow.artifacts import download_artifacts

        place = self.run.client.get_logged_model(model_id).artifact_location
        with tempfile.TemporaryDirectory() as directory:
            path = download_artifacts(
                f"{place}/{SCORES}", dst_path=directory, tracking_uri=self.run.client.tracking_uri
            )
            return pl.read_parquet(path)

    def _versions(self) -> "list[ModelVersion]":
        return list(self.run.client.search_model_versions(f"name = '{self.name}'"))

    def _make(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.run.client.create_registered_model(
                self.name, description="Codes for free text. The alias champion names the version to serve."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _add(self, index: Path, manifest: Mapping[str, Any], scores: pl.DataFrame) -> Registered:
        from mlflow.models import Model
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

        client = self.run.client
        described = {name: str(manifest[name]) for name in (INDEX_VERSION, "vintage", "codes", "base", "base_sha256")}
        with self.run.logged_model(self.name, described) as model, tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model"
            of = Model(model.artifact_location, self.run.run_id, model_uuid=model.model_id, model_id=model.model_id)
            save_index(path, index, of)
            scores.write_parquet(path / SCORES)
            client.log_model_artifacts(model.model_id, str(path))
        made = client.create_model_version(
            self.name,
            model.artifact_location,
            run_id=self.run.run_id,
            tags={**described, MODEL_ID: model.model_id},
            model_id=model.model_id,
        )
        # What MLflow's own register_model sets, so that its pages lead from the model to its version.
        versions = json.dumps([{"name": self.name, "version": str(made.version)}])
        client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: versions})
        return Registered(str(made.version), model.model_id, is_new=True)

    @staticmethod
    @contextmanager
    def _taken() -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            reason = without_credentials_in(str(error)).splitlines()[0][:200]
            raise ModelError(
                f"MLflow did not take the model ({reason}). The index is in its place; once MLflow answers again: "
                "dagster asset materialize --select naics_model"
            ) from error


def save_index(path: Path, index: Path, model: Any = None) -> None:
    """Writes an index as an MLflow model: code, signature, example and the index's own files; nothing is pickled.

    Args:
        path: directory to be made.
        model: MLflow's `Model` to complete, where it belongs to a LoggedModel.
    """
    import pandas as pd
    from mlflow.pyfunc import save_model

    save_model(
        path,
        mlflow_model=model,
        python_model=str(CODE),
        artifacts={INDEX: str(index)},
        signature=signature(),
        input_example=(pd.DataFrame({"text": EXAMPLE}), {"k": 3}),
        model_config={"accelerator": "cpu", "base": None},
        # Without +cpu and the like, which no package index knows.
        pip_requirements=[f"{name}=={package_version(name).partition('+')[0]}" for name in _REQUIRED],
    )


def signature() -> "ModelSignature":
    """A column text goes in, with k and threshold beside it; an `Answer` for each text comes out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import Array, Object, Property

    text, number = DataType.string, DataType.double
    code = [Property("code", text), Property("title", text)]
    named = Object([*code, Property("probability", number, required=False)])
    candidate = Object(
        [
            *code,
            Property("probability", number),
            *(Property(name, Array(named)) for name in ("path", "confused_with")),
            *(Property(name, Array(text)) for name in ("entries", "words")),
        ]
    )
    activity = Object([Property("part", text), *code, Property("probability", number)])
    answer: list[ColSpec | TensorSpec] = [
        ColSpec(text, "text"),
        ColSpec(named, "answer", required=False),
        ColSpec(Array(named), "levels"),
        ColSpec(Array(candidate), "candidates"),
        ColSpec(Array(activity), "activities"),
        ColSpec(Array(text), "notes"),
    ]
    asked = ParamSchema([ParamSpec("k", DataType.long, 5), ParamSpec("threshold", number, THRESHOLD)])
    return ModelSignature(inputs=Schema([ColSpec(text, "text")]), outputs=Schema(answer), params=asked)
