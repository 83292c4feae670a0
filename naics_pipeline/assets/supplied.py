"""Files of users: what they hold is noted, so that other content under the same name makes stale what reads it.

Nothing is made of them here; the assets that read them say so (`asset(supplied=...)`).
"""

import warnings
from pathlib import Path

import dagster as dg

from naics_pipeline.config import SUPPLIED, Config
from naics_pipeline.errors import SettingsError
from naics_pipeline.failures import described
from naics_pipeline.files import checksum, fingerprint, visible_files

CORRECTIONS, LABELLED_TEXTS, FILE_TO_CLASSIFY = SUPPLIED
DATA_VERSION_TAG = "dagster/data_version"
DESCRIPTIONS = {
    CORRECTIONS: "Texts whose codes users put right: index_entries takes them as further entries to train on.",
    LABELLED_TEXTS: "Texts with their right codes that a search is measured on.",
    FILE_TO_CLASSIFY: "Texts that get codes from each new index.",
}

warnings.filterwarnings("ignore", message="Function `observable_source_asset`", category=dg.BetaWarning)


def supplied_file(conf: Config, name: str) -> Path | None:
    """Where the settings say that the file lies; None where they name none."""
    place = conf.flat()[SUPPLIED[name]]
    return None if place is None else Path(place)


def content_of(conf: Config, name: str) -> str | None:
    """A hash of what the file, or each of a directory, holds now; None where the settings name none.

    Raises:
        SettingsError: it cannot be read.
    """
    place = supplied_file(conf, name)
    try:
        return None if place is None else _content(place)
    except OSError as error:
        raise SettingsError(
            f"{SUPPLIED[name]}: {place} cannot be read ({error.strerror}). Put it back, or set the key to null."
        ) from error


def _content(place: Path) -> str:
    if not place.is_dir():
        return checksum(place)
    return fingerprint({file.relative_to(place).as_posix(): checksum(file) for file in visible_files(place)})


def noted(instance: dg.DagsterInstance, conf: Config, name: str) -> str | None:
    """As `content_of`; where it is not what was noted last, Dagster is told, so that its UI shows what is stale.

    Raises:
        SettingsError: the file cannot be read.
    """
    found, key = content_of(conf, name), dg.AssetKey(name)
    if found is not None and found != noted_last(instance, key):
        seen = dg.AssetObservation(
            key,
            metadata={"path": dg.MetadataValue.path(str(supplied_file(conf, name)))},
            tags={DATA_VERSION_TAG: found},
        )
        instance.report_runless_asset_event(seen)
    return found


def noted_last(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """What a supplied file held when it was last looked at; None where nobody looked."""
    latest = instance.fetch_observations(key, limit=1).records
    observation = latest[0].asset_observation if latest else None
    return observation.tags.get(DATA_VERSION_TAG) if observation else None


def supplied_assets(conf: Config) -> list[dg.SourceAsset]:
    """An asset for each supplied file that the settings name; its Observe button looks what the file holds."""
    return [_supplied_asset(name) for name in SUPPLIED if supplied_file(conf, name) is not None]


def _supplied_asset(name: str) -> dg.SourceAsset:
    @dg.observable_source_asset(
        name=name,
        group_name="supplied",
        description=f"{DESCRIPTIONS[name]} The file that {SUPPLIED[name]} names.",
        metadata={"setting": SUPPLIED[name]},
        tags={"dagster/kind/file": ""},
    )
    @described()
    def supplied(conf: dg.ResourceParam[Config]) -> dg.DataVersion:
        return dg.DataVersion(str(content_of(conf, name)))

    return supplied
