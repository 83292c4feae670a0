"""Outputs: written beside their place, then renamed, so that no reader ever sees half a file."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from naics_pipeline.errors import NaicsError


def fingerprint(*parts: Any) -> str:
    """A short hash of JSON-like values, bytes and files (given as Path), the same on every machine."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(part.read_bytes())
        elif isinstance(part, bytes):
            digest.update(part)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; what is written there takes the place of `path` at the end.

    Works for a file and for a directory. On an error the temporary is removed and the old content stays; what a killed
    process left is removed by the next one.

    Raises:
        NaicsError: the disk is full or the place cannot be written; names the path.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield temporary
        if temporary.is_dir():
            _replace_directory(temporary, path)
        else:
            temporary.replace(path)
    except OSError as error:
        raise NaicsError(
            f"{path}: could not be written ({error.strerror or error}). The previous content is unchanged. "
            "Free some space or point NAICS_DATA_DIR to another place, then run again."
        ) from error
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.unlink()


def _remove_leftovers(path: Path) -> None:
    """Temporaries of `path` whose process is gone."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        owner = leftover.name.removesuffix(".tmp").rsplit(".", 1)[-1]
        if owner.isdigit() and not _is_running(int(owner)):
            _remove(leftover)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replace_directory(new: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


class Store:
    """The data directory: outputs by name, on a local disk or behind any fsspec URL.

    The core reads and writes local paths only. For a remote root they lie in a local cache of that root, which
    `local` fills and `publish` sends; for a local root both are the identity.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.filesystem, self.base = fsspec.core.url_to_fs(self.root)
        if isinstance(self.filesystem, LocalFileSystem):
            self.directory = Path(self.base)
        else:
            self.directory = Path(tempfile.gettempdir()) / f"naics-pipeline-{fingerprint(self.root)}"

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    def path(self, name: str) -> Path:
        """The local path of an output, whether or not it exists."""
        return self.directory / name

    def exists(self, name: str) -> bool:
        return bool(self.filesystem.exists(f"{self.base}/{name}"))

    def local(self, name: str) -> Path:
        """The local path of an output that exists, fetched first from a remote root.

        Raises:
            NaicsError: there is no such output; says which asset makes it.
        """
        if not self.exists(name):
            raise NaicsError(f"{self.root}/{name} does not exist: materialize the asset that writes it first.")
        path = self.path(name)
        if not self.is_local:
            if path.is_dir():
                shutil.rmtree(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.filesystem.get(f"{self.base}/{name}", str(path), recursive=True)
        return path

    def publish(self, name: str) -> None:
        """Sends a finished local output to a remote root, under a temporary name first."""
        if self.is_local:
            return
        target, temporary = f"{self.base}/{name}", f"{self.base}/.{name.replace('/', '_')}.tmp"
        self.filesystem.put(str(self.path(name)), temporary, recursive=True)
        if self.filesystem.exists(target):
            self.filesystem.rm(target, recursive=True)
        self.filesystem.mv(temporary, target, recursive=True)
