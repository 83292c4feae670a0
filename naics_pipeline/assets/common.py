"""What every asset says of itself: owner, column schema, versions, pictures."""

import base64
import logging
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache, wraps
from importlib.metadata import version as package_version
from typing import Any

import dagster as dg
import polars as pl

from naics_pipeline import config
from naics_pipeline.assets.supplied import noted, supplied_file
from naics_pipeline.executor import pod_of_training
from naics_pipeline.failures import described, said_last
from naics_pipeline.files import fingerprint
from naics_pipeline.storage import Store

OWNERS = ["team:naics"]
CODE_VERSION_TAG = "dagster/code_version"
INPUT_VERSION_TAG = "dagster/input_data_version"
RECORDED_PACKAGES = ("naics-pipeline", "torch", "transformers", "numpy")
ACCELERATOR_POOL = "gpu"
MONTHLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=62), warn_window=timedelta(days=33))
"""Of what the retraining of every month makes anew, or should have looked at."""
logger = logging.getLogger(__name__)
warnings.filterwarnings("ignore", message="Parameter `data_version`", category=dg.BetaWarning)


@cache
def defined_conf() -> config.Config:
    """The settings the definitions are made with; run config may still change them for a run."""
    with said_last():
        return config.load()


def asset(*, supplied: str | None = None, **given: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset`, with our owner, and the message of an error made on purpose as the failure's description.

    One that waits for the accelerator gets, on Kubernetes, a pod of the size that the settings say.

    Args:
        supplied: the file of users that it reads where the settings name one; new content of it makes the asset stale.
        given: as to `dg.asset`.
    """
    if supplied is not None and supplied_file(defined_conf(), supplied) is not None:
        given["deps"] = [*given.get("deps", ()), supplied]
    if given.get("pool") == ACCELERATOR_POOL:
        given["op_tags"] = pod_of_training(defined_conf().settings.orchestration.pod)

    def define(function: Callable[..., Any]) -> dg.AssetsDefinition:
        noting = function if supplied is None else _noting(function, supplied)
        return dg.asset(owners=OWNERS, **given)(described()(_as_it_ran(noting, given.get("code_version"))))

    return define


def _noting(function: Callable[..., Any], supplied: str) -> Callable[..., Any]:
    """Records what a supplied file held when it was about to be read, whatever was noted of it before the run."""

    @wraps(function)
    def run(*args: Any, **given: Any) -> Any:
        found = noted(dg.AssetExecutionContext.get().instance, given["conf"], supplied)
        result = function(*args, **given)
        return result if found is None else _amended(result, tags={f"{INPUT_VERSION_TAG}/{supplied}": found})

    return run


def _as_it_ran(function: Callable[..., Any], defined: str | None) -> Callable[..., Any]:
    """Records what run config changed: otherwise an output made with other settings would count as fresh."""
    if not isinstance(defined, Version):
        return function

    @wraps(function)
    def run(*args: Any, **given: Any) -> Any:
        result, conf = function(*args, **given), given.get("conf")
        if conf is None or (ran := defined.under(conf)) == defined:
            return result
        changed = {key: str(value) for key, value in read_settings(conf, *defined.keys).items()}
        here = read_settings(defined_conf(), *defined.keys)
        changed = {key: value for key, value in changed.items() if value != str(here[key])}
        logger.warning("run config changes %s: the output is marked as of other settings", ", ".join(changed))
        return _amended(result, {"run_config_changes": changed}, {CODE_VERSION_TAG: str(ran)})

    return run


def _amended(result: Any, metadata: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None) -> Any:
    """The result of an asset's body, with more metadata and with tags that go before Dagster's own."""
    told, tagged = {**(result.metadata or {}), **(metadata or {})}, {**(result.tags or {}), **(tags or {})}
    if isinstance(result, dg.MaterializeResult):
        return result._replace(metadata=told, tags=tagged)
    return dg.Output(result.value, metadata=told, data_version=result.data_version, tags=tagged)


class Version(str):
    """A code version that knows which settings it covers.

    Attributes:
        number, keys, also: as in `version`.
    """

    number: int
    keys: tuple[str, ...]
    also: str

    @classmethod
    def of(cls, conf: config.Config, number: int, keys: tuple[str, ...], also: str = "") -> "Version":
        """The version under some settings."""
        values = read_settings(conf, *keys)
        parts = [str(number), *([fingerprint(values)] if values else []), *([also] if also else [])]
        made = cls(".".join(parts))
        made.number, made.keys, made.also = number, keys, also
        return made

    def under(self, conf: config.Config) -> "Version":
        """The version of the same code under other settings."""
        return self.of(conf, self.number, self.keys, self.also)


def version(number: int, *keys: str, also: str = "") -> Version:
    """A code version that changes with the settings the asset reads, so that a changed setting shows what is stale.

    Args:
        number: raised by hand when the code changes what comes out.
        keys: dotted keys of settings, or of whole sections.
        also: a hash of what else decides what comes out.
    """
    return Version.of(defined_conf(), number, keys, also)


def read_settings(conf: config.Config, *keys: str) -> dict[str, Any]:
    """The settings of some dotted keys, or of whole sections."""
    return {
        name: value
        for name, value in conf.flat().items()
        if any(name == key or name.startswith(f"{key}.") for key in keys)
    }


def columns(**described: tuple[str, str]) -> dict[str, dg.TableSchema]:
    """Definition metadata: column → (type, what it holds)."""
    schema = dg.TableSchema(
        columns=[dg.TableColumn(name, kind, description=text) for name, (kind, text) in described.items()]
    )
    return {"dagster/column_schema": schema}


def content_version(frame: pl.DataFrame) -> dg.DataVersion:
    """A version that depends on the rows and column types alone."""
    return dg.DataVersion(fingerprint(str(frame.schema), frame.hash_rows().to_numpy().tobytes()))


def versions_of(frames: Mapping[str, pl.DataFrame]) -> dict[str, str]:
    """Name → the hash of a table's content."""
    return {name: content_version(frame).value for name, frame in frames.items()}


def data_version(*parts: Any) -> dg.DataVersion:
    """A version of an output that is determined by these JSON-like values and files."""
    return dg.DataVersion(fingerprint(*parts))


def origin(conf: config.Config, frames: Mapping[str, pl.DataFrame], *keys: str) -> dict[str, Any]:
    """Where an output comes from, to be written into its file: settings, versions of what made it, data.

    Args:
        frames: name → a table that was read; its content is told by its hash.
        keys: dotted keys of settings, or of whole sections, that were read.
    """
    return {
        "profile": conf.profile,
        "settings": read_settings(conf, *keys),
        "versions": {package: package_version(package) for package in RECORDED_PACKAGES},
        "data": versions_of(frames),
    }


def frame_output(frame: pl.DataFrame, metadata: Mapping[str, Any] | None = None) -> dg.Output[pl.DataFrame]:
    """A frame with its row count, its size in memory and a version of its content."""
    logger.info("%s rows", f"{frame.height:,}")
    described = {"dagster/row_count": frame.height, **(metadata or {})}
    return dg.Output(frame, metadata=described, data_version=content_version(frame))


def place(store: Store, name: str) -> dict[str, Any]:
    """Metadata of an output that the asset wrote itself: where it lies and how large it is."""
    path = store.path(name)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {"path": dg.MetadataValue.path(path), "size_bytes": sum(file.stat().st_size for file in files)}


def rows(frame: pl.DataFrame) -> dg.MetadataValue:
    """A small frame as a table of the UI."""
    return dg.MetadataValue.table(
        records=[dg.TableRecord(row) for row in frame.to_dicts()],
        schema=dg.TableSchema(columns=[dg.TableColumn(name, str(kind)) for name, kind in frame.schema.items()]),
    )


def picture(png: bytes) -> dg.MetadataValue:
    """A PNG shown in the UI."""
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})")
