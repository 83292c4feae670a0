"""What assets are given: settings, the data directory, Parquet frames in it, and MLflow. No computation lives here."""

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import dagster as dg
import polars as pl
from pydantic import Field

from naics_pipeline import config
from naics_pipeline.config import Config
from naics_pipeline.errors import NaicsError
from naics_pipeline.executor import joining
from naics_pipeline.failures import described
from naics_pipeline.files import making, replacing
from naics_pipeline.storage import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric

logger = logging.getLogger(__name__)
DATABASE = "mlflow.db"
LARGEST_BATCH = 1000
"""Metrics that MLflow takes at a time."""


class ConfResource(dg.ConfigurableResource[Config]):
    """The effective settings; run config may name another profile and override any setting by its dotted key."""

    profile: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)

    def create_resource(self, context: dg.InitResourceContext) -> Config:
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in self.overrides.items()}
        return config.load(self.profile, texts, overrides_from="run config")


class StoreResource(dg.ConfigurableResource[Store]):
    """The data directory of the settings."""

    conf: dg.ResourceDependency[Config]

    def create_resource(self, context: dg.InitResourceContext) -> Store:
        return Store(self.conf.settings.data_dir)


class Accelerator(dg.ConfigurableResource):
    """The device that training runs on; one run at a time has it (pool gpu)."""

    conf: dg.ResourceDependency[Config]

    @contextmanager
    def claimed(self, context: dg.AssetExecutionContext) -> Iterator[str]:
        """The name of the device, `auto` included; the run counts as alive while the body runs."""
        with joining(context.instance, context.run.run_id):
            yield self.conf.settings.accelerator


class ParquetFrames(dg.ConfigurableIOManager):
    """Keeps a polars frame as <asset>.parquet in the data directory."""

    store: dg.ResourceDependency[Store]

    @described()
    def handle_output(self, context: dg.OutputContext, obj: pl.DataFrame) -> None:
        name = self._name(context)
        path = self.store.path(name)
        with replacing(path) as temporary:
            obj.write_parquet(temporary, compression="zstd")
        self.store.publish(name)
        context.add_output_metadata({"path": str(path), "size_bytes": path.stat().st_size})

    @described()
    def load_input(self, context: dg.InputContext) -> pl.DataFrame:
        name = self._name(context)
        if not self.store.exists(name):
            raise NaicsError(
                f"{self.store.root}/{name} does not exist. Materialize it first: "
                f"dagster asset materialize --select '*{name.removesuffix('.parquet')}'"
            )
        path = self.store.local(name)
        try:
            return pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise NaicsError(f"{path}: damaged ({reason}). Materialize {path.stem} again.") from error

    @staticmethod
    def _name(context: dg.InputContext | dg.OutputContext) -> str:
        return f"{context.asset_key.path[-1]}.parquet"


@dataclass(frozen=True)
class TrackedRun:
    """An MLflow run in progress. What the server does not take stops nothing: metrics wait, other losses are said."""

    client: "MlflowClient"
    run_id: str
    url: str
    parent: str | None = None
    waiting: "list[Metric]" = field(default_factory=list)

    def log_metrics(
        self,
        metrics: Mapping[str, float],
        step: int = 0,
        *,
        model_id: str | None = None,
        dataset: tuple[str, str] | None = None,
    ) -> None:
        """Metrics by name; MLflow allows no @ in names, so that ndcg@10 becomes ndcg_at_10.

        Args:
            model_id: of the LoggedModel that they are also of.
            dataset: name and hash, as in `log_inputs`, of what they were measured on.
        """
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now, of = get_current_time_millis(), (model_id, *(dataset or (None, None)))
        self.waiting.extend(
            Metric(name.replace("@", "_at_"), float(value), now, step, *of) for name, value in metrics.items()
        )
        self._deliver()

    @contextmanager
    def logged_model(
        self, name: str, tags: Mapping[str, str], params: Mapping[str, Any] | None = None
    ) -> "Iterator[LoggedModel]":
        """A LoggedModel of this run: ready once the body has ended well, else marked as failed."""
        from mlflow.entities import LoggedModelOutput

        experiment = self.client.get_run(self.run_id).info.experiment_id
        made = self.client.create_logged_model(experiment, name, self.run_id, dict(tags), dict(params or {}))
        self.client.log_outputs(self.run_id, [LoggedModelOutput(made.model_id, step=0)])
        try:
            yield made
        except BaseException:
            self.client.finalize_logged_model(made.model_id, "FAILED")
            raise
        self.client.finalize_logged_model(made.model_id, "READY")

    def log_stored_model(
        self, name: str, place: str, loaded_by: str, params: Mapping[str, Any] | None = None
    ) -> str | None:
        """A LoggedModel whose files stay where they are; its id, None where MLflow did not take it.

        Args:
            place: where they lie.
            loaded_by: a line of Python that loads it.
        """
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

        tags = {MLFLOW_MODEL_IS_EXTERNAL: "true", "path": place, "load": loaded_by}
        with self._surviving(f"the model {name} is not recorded"), self.logged_model(name, tags, params) as made:
            return str(made.model_id)
        return None

    def log_result(self, metrics: Mapping[str, float]) -> None:
        """Metrics of this run that are results of the whole pipeline run, so that its parent has them too."""
        self.log_metrics(metrics)
        if self.parent is not None:
            whole = TrackedRun(self.client, self.parent, self.url)
            whole.log_metrics(metrics)

    def log_inputs(self, versions: Mapping[str, str], source: str) -> None:
        """Data sets that were read, by name, with the hash of their content.

        Args:
            source: where they lie.
        """
        from mlflow.entities import Dataset, DatasetInput

        read = [
            DatasetInput(Dataset(name, digest, "local", json.dumps({"uri": f"{source}/{name}.parquet"})))
            for name, digest in versions.items()
        ]
        with self._surviving("data sets are not recorded"):
            self.client.log_inputs(self.run_id, read)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters by name; MLflow takes a hundred at a time."""
        from mlflow.entities import Param

        batch = [Param(name, str(value)) for name, value in params.items()]
        for start in range(0, len(batch), 100):
            with self._surviving("parameters are lost"):
                self.client.log_batch(self.run_id, params=batch[start : start + 100])

    def log_bytes(self, content: bytes, name: str) -> None:
        """An artifact called `name`."""
        with tempfile.TemporaryDirectory() as directory, self._surviving(f"artifact {name} is lost"):
            path = Path(directory) / Path(name).name
            path.write_bytes(content)
            folder = str(Path(name).parent)
            self.client.log_artifact(self.run_id, str(path), None if folder == "." else folder)

    def end(self, status: str) -> None:
        """Delivers what waits and ends the run; says what could not be delivered."""
        self._deliver()
        with self._surviving(f"the run stays open and {len(self.waiting)} values of metrics are lost"):
            self.client.set_terminated(self.run_id, status)
        with self._surviving("the parent run stays open"):
            self._settle_parent()

    def _settle_parent(self) -> None:
        """The parent runs as long as a child does, and has failed where one has."""
        if self.parent is None:
            return
        experiment = self.client.get_run(self.parent).info.experiment_id
        children = self.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{self.parent}'")
        statuses = {child.info.status for child in children}
        if "RUNNING" in statuses:
            return
        failed = statuses - {"FINISHED"}
        self.client.set_terminated(self.parent, next(iter(sorted(failed)), "FINISHED"))

    def _deliver(self) -> None:
        while self.waiting:
            batch = self.waiting[:LARGEST_BATCH]
            with self._surviving(f"{len(self.waiting)} values of metrics wait"):
                self.client.log_batch(self.run_id, metrics=batch)
                del self.waiting[: len(batch)]
                continue
            return

    @staticmethod
    @contextmanager
    def _surviving(loss: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            reason = without_credentials_in(str(error)).splitlines()[0][:200]
            logger.warning("MLflow did not take this (%s): %s, the work goes on.", reason, loss)


class Tracking(dg.ConfigurableResource):
    """MLflow: a run for each Dagster run (tag role = pipeline), and below it one per training or evaluation.

    The best of a profile is one search, tags.role = 'pipeline' and tags.profile = 'cpu', ordered by a metric.
    The server of MLFLOW_TRACKING_URI, else a database in the data directory, which `make mlflow` serves.
    """

    conf: dg.ResourceDependency[Config]
    store: dg.ResourceDependency[Store]

    @contextmanager
    def start_run(
        self, context: dg.AssetExecutionContext, params: Mapping[str, Any], **tags: str
    ) -> Iterator[TrackedRun]:
        """A run that ends FINISHED, FAILED or KILLED as its body did; a link to it joins the asset's metadata."""
        run = self._create(context, tags)
        try:
            run.log_params(params)
            yield run
        except BaseException as error:
            run.end("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        run.end("FINISHED")
        context.add_output_metadata({"mlflow_run": dg.MetadataValue.url(run.url), "mlflow_run_id": run.run_id})

    @property
    def directory(self) -> Path:
        """Where the database and the artifacts lie unless there is a server."""
        return tracking_directory(self.store)

    @property
    def uri(self) -> str:
        """Where runs are recorded."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.directory / DATABASE}"

    def _create(self, context: dg.AssetExecutionContext, tags: Mapping[str, str]) -> TrackedRun:
        client = self._client()
        settings = self.conf.settings
        experiment = self._experiment(client, settings.orchestration.experiment)
        asset = context.asset_key.path[-1]
        self._end_abandoned(client, experiment, context.instance)
        dagster_url = f"{without_credentials(settings.orchestration.dagster_url)}/runs/{context.run.run_id}"
        common = {
            "profile": self.conf.profile,
            "source": settings.source,
            "vintage": str(settings.vintage),
            "seed": str(settings.seed),
            "dagster.run_id": context.run.run_id,
            "dagster.run_url": dagster_url,
            "mlflow.note.content": f"[Dagster run {context.run.run_id[:8]}]({dagster_url})",
        }
        parent = self._parent(client, experiment, context.run.run_id, common)
        own = {"role": "asset", "asset": asset, "mlflow.parentRunId": parent}
        run = client.create_run(experiment, run_name=asset, tags={**common, **own, **tags})
        address = without_credentials(
            self.uri if self.uri.startswith("http") else settings.orchestration.mlflow_url
        ).rstrip("/")
        url = f"{address}/#/experiments/{experiment}/runs/{run.info.run_id}"
        return TrackedRun(client, run.info.run_id, url, parent)

    @staticmethod
    def _parent(client: "MlflowClient", experiment: str, dagster_run: str, tags: Mapping[str, str]) -> str:
        """The run of the whole Dagster run, made by the first of its assets."""
        wanted = f"tags.role = 'pipeline' and tags.`dagster.run_id` = '{dagster_run}'"
        found = client.search_runs([experiment], wanted, order_by=["attributes.start_time ASC"], max_results=1)
        if found:
            client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        made = client.create_run(experiment, run_name=f"pipeline {dagster_run[:8]}", tags={**tags, "role": "pipeline"})
        return str(made.info.run_id)

    @staticmethod
    def _end_abandoned(client: "MlflowClient", experiment: str, instance: dg.DagsterInstance) -> None:
        """Runs that still look alive though their Dagster run is over: their process was killed."""
        for found in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
            run = instance.get_run_by_id(found.data.tags.get("dagster.run_id", ""))
            if run is not None and run.is_finished:
                client.set_terminated(found.info.run_id, "KILLED")

    def _client(self) -> "MlflowClient":
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # By its own defaults the client keeps an epoch waiting for minutes when the server is gone.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient

        for noisy in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.uri == f"sqlite:///{self.directory / DATABASE}":
            self._make_database()
        return MlflowClient(tracking_uri=self.uri)

    def _make_database(self) -> None:
        """The database, put in place whole: one whose making was killed would refuse every later run."""
        from mlflow import MlflowClient

        place = self.directory / DATABASE
        if place.exists():
            return
        with making(place) as temporary:
            MlflowClient(tracking_uri=f"sqlite:///{temporary}").search_experiments(max_results=1)

    def _experiment(self, client: "MlflowClient", name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found is None:
            artifacts = str(self.directory / "artifacts") if self.uri.startswith("sqlite") else None
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, artifact_location=artifacts, tags=tags))
        return str(found.experiment_id)


def tracking_directory(store: Store) -> Path:
    """Where MLflow's database and artifacts lie unless there is a server: a disk of this machine, for any root."""
    return (store.directory if store.is_local else config.project_root() / "data") / "mlflow"


def without_credentials(url: str) -> str:
    """A URL that may be shown: user and password left out."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def without_credentials_in(message: str) -> str:
    """A message that may be shown: user and password of every URL in it left out."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", message)


if __name__ == "__main__":
    # For `make mlflow`, which serves what lies there.
    found = tracking_directory(Store(config.load().settings.data_dir))
    found.mkdir(parents=True, exist_ok=True, mode=0o700)
    print(found)
