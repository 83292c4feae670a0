"""The data directory: outputs by name, put in place at once, so that no reader ever sees half of one.

On a local disk that is a rename (files.py). An object store cannot rename: there every publication has a key of its
own, and a small manifest, replaced last, names the current one.
"""

import json
import logging
import os
import shutil
import time
import uuid
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import fsspec
from fsspec.implementations.local import LocalFileSystem

from naics_pipeline.errors import NaicsError
from naics_pipeline.files import (
    STALE_SECONDS,
    beside,
    checksum,
    fingerprint,
    is_old,
    recover,
    remove,
    replacing,
    visible_files,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """What an output of a remote root is now.

    Attributes:
        key: where its files lie, below the root; never used again for anything else.
        files: path below the key → SHA-256.
        directory: whether the output is a directory, rather than the one file.
    """

    key: str
    files: dict[str, str]
    directory: bool


class Store:
    """The data directory: outputs by name, on a local disk or behind any fsspec URL.

    The core reads and writes local paths only. Of a remote root `local` fetches what the manifest names now, each
    publication into a place of its own that is never written again; `path` is a working directory of this machine,
    from which `publish` sends. For a local root all three are the identity.
    """

    def __init__(self, root: str, cache: Path | None = None) -> None:
        self.root = root.rstrip("/")
        try:
            # Listings of an object store are not remembered: other machines publish too.
            self.filesystem, self.base = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise NaicsError(
                f"data_dir = {root}: cannot be opened ({error}). For s3:// install naics-pipeline[s3]."
            ) from error
        self._cache = cache

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    @cached_property
    def directory(self) -> Path:
        """The root itself, or the working directory of a remote one."""
        return Path(self.base) if self.is_local else self.cache / "work"

    @cached_property
    def cache(self) -> Path:
        """What this machine keeps of a remote root: NAICS_CACHE_DIR, else the user's cache; readable by the user."""
        named = os.environ.get("NAICS_CACHE_DIR")
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naics-pipeline"
        cache = self._cache or (Path(named).expanduser() if named else user) / fingerprint(self.root)
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cache

    def path(self, name: str) -> Path:
        """The local path to write an output to, whether or not it exists."""
        return self.directory / name

    def exists(self, name: str) -> bool:
        if self.is_local:
            recover(self.path(name))
            return self.path(name).exists()
        return self._find(name) is not None

    def names(self, folder: str) -> list[str]:
        """The outputs that are files below a folder, at any depth."""
        if self.is_local:
            root = self.path(folder)
            files = visible_files(root) if root.is_dir() else ()
            return [f"{folder}/{file.relative_to(root).as_posix()}" for file in files]
        start = f"{self.base}/manifests/"
        found = self.filesystem.find(f"{start}{folder}")
        return sorted(str(key).split(start, 1)[-1].removesuffix(".json") for key in found)

    def local(self, name: str) -> Path:
        """The local path to read an output from, or a file of an output that is a directory.

        Raises:
            NaicsError: there is no such output, or it is damaged; says which asset makes it.
        """
        if self.is_local:
            if not self.exists(name):
                raise self._absent(name)
            return self.path(name)
        found = self._find(name)
        if found is None:
            raise self._absent(name)
        output, manifest = found
        return self._fetched(output, manifest) / PurePosixPath(name).relative_to(output)

    def publish(self, name: str, source: Path | None = None, *, readable_for: float = STALE_SECONDS) -> None:
        """Makes a finished local output the current one of a remote root; hidden files stay here.

        Args:
            source: where it lies; `path(name)` unless given.
            readable_for: seconds that what it replaces stays, for those who read it.
        Raises:
            NaicsError: the root cannot be written to.
        """
        if self.is_local:
            return
        source = source or self.path(name)
        directory = source.is_dir()
        paths = {file.relative_to(source).as_posix(): file for file in visible_files(source)}
        if not directory:
            paths = {source.name: source}
        # The time comes first: what is old can be told from the key alone.
        manifest = Manifest(
            key=f"content/{name}/{int(time.time())}-{uuid.uuid4().hex[:12]}",
            files={relative: checksum(file) for relative, file in paths.items()},
            directory=directory,
        )
        places = [f"{self.base}/{manifest.key}/{relative}" for relative in paths]
        try:
            self.filesystem.put([str(file) for file in paths.values()], places)
            self.filesystem.pipe_file(self._manifest_key(name), json.dumps(asdict(manifest), indent=1).encode())
        except OSError as error:
            raise NaicsError(
                f"{self.root}/{name}: could not be published ({error}). The previous content is unchanged. Check that "
                "the place exists and may be written to, then run again."
            ) from error
        self._collect(name, manifest, readable_for)

    def remove(self, name: str) -> None:
        """Takes an output away, if it is there."""
        remove(self.path(name))
        if not self.is_local and self._read_manifest(name):
            self.filesystem.rm_file(self._manifest_key(name))
            self._collect(name, None, STALE_SECONDS)

    def keep_unfinished(self, name: str) -> None:
        """Publishes the hidden work of an output that is not finished, so that another machine can go on with it.

        A root that does not take it stops nothing: the work is still here, and is sent again with the next epoch.
        """
        if self.is_local:
            return
        for unfinished in self.path(name).glob(".unfinished-*"):
            if not any(visible_files(unfinished)):
                continue
            key = unfinished.name.removeprefix(".unfinished-")
            try:
                # Nobody reads it while this machine writes it.
                self.publish(f"{name}.unfinished/{key}", unfinished, readable_for=0)
            except NaicsError as error:
                logger.warning("%s The unfinished work of %s stays on this machine alone for now.", error, name)

    def resume_unfinished(self, name: str) -> None:
        """Fetches the unfinished work of another machine, where this one has none."""
        if self.is_local or any(self.path(name).glob(".unfinished-*")):
            return
        place = f"{self.base}/manifests/{name}.unfinished"
        for key in self.filesystem.find(place):
            output = str(key).removeprefix(f"{self.base}/manifests/").removesuffix(".json")
            target = self.path(name) / f".unfinished-{PurePosixPath(output).name}"
            with replacing(target) as temporary:
                shutil.copytree(self.local(output), temporary)

    def forget_unfinished(self, name: str) -> None:
        """Removes published unfinished work: the output is finished."""
        if not self.is_local:
            for area in ("manifests", "content"):
                if found := self.filesystem.find(f"{self.base}/{area}/{name}.unfinished"):
                    self.filesystem.rm(found)

    def _absent(self, name: str) -> NaicsError:
        return NaicsError(f"{self.root}/{name} does not exist: materialize the asset that writes it first.")

    def _manifest_key(self, name: str) -> str:
        return f"{self.base}/manifests/{name}.json"

    def _read_manifest(self, name: str) -> Manifest | None:
        try:
            content = self.filesystem.cat_file(self._manifest_key(name))
        except FileNotFoundError:
            return None
        try:
            return Manifest(**json.loads(content))
        except (ValueError, TypeError) as error:
            raise NaicsError(
                f"{self.root}/manifests/{name}.json: damaged ({error}). Materialize the asset that writes {name} again."
            ) from error

    def _find(self, name: str) -> tuple[str, Manifest] | None:
        """The published output that is called `name`, or that holds it, with its manifest."""
        path = PurePosixPath(name)
        for output in [path, *path.parents[:-1]]:
            manifest = self._read_manifest(str(output))
            if manifest is not None:
                within = str(path.relative_to(output))
                held = within == "." or any(file == within or file.startswith(f"{within}/") for file in manifest.files)
                return (str(output), manifest) if held else None
        return None

    def _fetched(self, output: str, manifest: Manifest) -> Path:
        """The local copy of a publication; its content never changes once it is there."""
        place = self.cache / manifest.key
        if not place.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            recover(place)
            temporary = beside(place, "tmp")
            try:
                self._fetch(output, manifest, temporary)
                temporary.rename(place)
            except OSError as error:
                # Another process was quicker, with the same content.
                if not place.is_dir():
                    raise NaicsError(f"{place}: could not be written ({error.strerror or error}).") from error
            finally:
                remove(temporary)
            _remove_others(place)
        return place if manifest.directory else place / PurePosixPath(output).name

    def _fetch(self, output: str, manifest: Manifest, place: Path) -> None:
        place.mkdir()
        for file in manifest.files:
            (place / file).parent.mkdir(parents=True, exist_ok=True)
        keys = [f"{self.base}/{manifest.key}/{file}" for file in manifest.files]
        try:
            self.filesystem.get(keys, [str(place / file) for file in manifest.files])
        except FileNotFoundError as error:
            raise NaicsError(
                f"{self.root}/{output}: its content is gone ({error}). Materialize the asset that writes it again."
            ) from error
        for file, expected in manifest.files.items():
            if checksum(place / file) != expected:
                raise NaicsError(
                    f"{self.root}/{manifest.key}/{file}: does not match its checksum. "
                    f"Materialize the asset that writes {output} again."
                )

    def _collect(self, name: str, current: Manifest | None, readable_for: float) -> None:
        """Removes publications of `name` that are older than that and not the current one."""
        versions: dict[str, list[str]] = {}
        for key in self.filesystem.find(f"{self.base}/content/{name}"):
            below = str(key).split(f"{self.base}/content/{name}/", 1)[-1]
            versions.setdefault(below.split("/", 1)[0], []).append(key)
        for version, keys in versions.items():
            made, _, rest = version.partition("-")
            is_current = current is not None and current.key.endswith(f"/{version}")
            if rest and made.isdigit() and not is_current and time.time() - int(made) >= readable_for:
                self.filesystem.rm(keys)


def _remove_others(place: Path) -> None:
    """Fetched publications of the same output that no process can still be reading."""
    for other in place.parent.iterdir():
        if other != place and not other.name.startswith(".") and is_old(other):
            remove(other)
