"""Files of a local disk: what they hold, and how they are written so that no reader ever sees half of one."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from naics_pipeline.errors import NaicsError

logger = logging.getLogger(__name__)
STALE_SECONDS = 24 * 3600
"""After so long nobody writes or reads any more what is no longer current."""
HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


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


def checksum(path: Path) -> str:
    """SHA-256 of what a file of any size holds, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; what is written there takes the place of `path` at the end.

    Works for a file and for a directory. On an error the temporary is removed and the old content stays; what a killed
    process left is removed, or put in place where only that was missing, by the next one.

    Raises:
        NaicsError: the disk is full or the place cannot be written; names the path.
    """
    temporary = beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        yield temporary
        if temporary.is_dir():
            _replace_directory(temporary, path)
        else:
            temporary.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        remove(temporary)


@contextmanager
def making(path: Path) -> Iterator[Path]:
    """Yields a temporary path for a file that is not there yet; of two processes the first puts its own in place.

    Raises:
        NaicsError: the disk is full or the place cannot be written; names the path.
    """
    folder = beside(path, "tmp")
    try:
        recover(path)
        folder.mkdir(parents=True)
        yield folder / path.name
        with suppress(FileExistsError):
            os.link(folder / path.name, path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        remove(folder)


@contextmanager
def alone_in(directory: Path, what: str) -> Iterator[None]:
    """Waits until no other process of this machine is at work in a directory.

    Two at once would take each other's files away. The lock is the directory's own and ends with the process.

    Args:
        what: the other one does, for the message that it is waited for.
    """
    directory.mkdir(parents=True, exist_ok=True)
    place = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("%s: another process %s; waiting for its end", directory, what)
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def _unwritten(path: Path, error: OSError) -> NaicsError:
    return NaicsError(
        f"{path}: could not be written ({error.strerror or error}). The previous content is unchanged. "
        "Free some space or point NAICS_DATA_DIR to another place, then run again."
    )


def beside(path: Path, kind: str) -> Path:
    """A hidden name beside `path` that tells whose it is: this process's of this host, and no other thread's."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{HOST}.{os.getpid()}.{kind}")


def recover(path: Path) -> None:
    """Ends what a killed process began at `path`: a directory that was about to be replaced is put back in place."""
    if not path.exists():
        for old in _abandoned(path, "old"):
            old.rename(path)
            break
    for kind in ("tmp", "old"):
        for leftover in _abandoned(path, kind):
            remove(leftover)


def _abandoned(path: Path, kind: str) -> list[Path]:
    """What stands beside `path` for a process that is gone; one of another host counts as gone after a day."""
    found = []
    for leftover in path.parent.glob(f".{path.name}.*.{kind}"):
        *_, host, process, _ = leftover.name.split(".")
        if not process.isdigit():
            continue
        if is_old(leftover) if host != HOST else not _is_running(int(process)):
            found.append(leftover)
    return found


def is_old(path: Path) -> bool:
    """Whether it was last changed so long ago that nobody uses it any more."""
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Takes away a file or a directory with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replace_directory(new: Path, path: Path) -> None:
    old = beside(path, "old")
    if path.exists():
        path.rename(old)
    new.rename(path)
    remove(old)


def visible_files(directory: Path) -> Iterator[Path]:
    """The files below a directory, at any depth, in the order of their paths; no hidden one, none in a hidden place."""
    for file in sorted(directory.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(directory).parts):
            yield file
