"""Files of a local disk are replaced whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from naics_pipeline import files
from naics_pipeline.errors import NaicsError
from naics_pipeline.files import fingerprint, making, replacing
from naics_pipeline.storage import Store


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "below" / "file.txt"
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_after_an_error_the_old_content_stays_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def broken() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        broken()
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_of_two_that_make_a_file_the_first_puts_its_own_in_place(tmp_path: Path) -> None:
    target = tmp_path / "below" / "file.txt"
    with making(target) as first, making(target) as second:
        first.write_text("first")
        second.write_text("second")
        assert not target.exists()
    # The inner one ends first.
    assert target.read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "cache"
    for content in ("old", "new"):
        with replacing(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_said_with_the_path_and_the_way_out(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_text("old")
    script = f"""
import resource, signal
from pathlib import Path
from naics_pipeline.files import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with replacing(Path({str(target)!r})) as temporary:
    temporary.write_bytes(b"0" * 5000)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert f"NaicsError: {target}: could not be written (File too large)" in result.stderr
    assert "point NAICS_DATA_DIR to another place" in result.stderr
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_below_a_file_is_refused_clearly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def write() -> None:
        with replacing(tmp_path / "file" / "below" / "x") as temporary:
            temporary.write_text("never")

    with pytest.raises(NaicsError, match="could not be written"):
        write()


@pytest.fixture
def gone() -> int:
    """The number of a process that is over."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_by(path: Path, kind: str, process: int, monkeypatch: pytest.MonkeyPatch, host: str = files.HOST) -> Path:
    """What another process has beside `path`."""
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "getpid", lambda: process)
        patched.setattr(files, "HOST", host)
        return files.beside(path, kind)


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, gone, monkeypatch):
    target = tmp_path / "file.txt"
    left_by(target, "tmp", gone, monkeypatch).write_text("half")
    living = left_by(target, "tmp", os.getppid(), monkeypatch)
    living.write_text("somebody is writing this")
    elsewhere = left_by(target, "tmp", gone, monkeypatch, host="other")
    elsewhere.write_text("somebody on another machine")
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert set(tmp_path.iterdir()) == {living, elsewhere, target}
    os.utime(elsewhere, (0, 0))
    with replacing(target) as temporary:
        temporary.write_text("newer")
    assert set(tmp_path.iterdir()) == {living, target}


@pytest.mark.parametrize("next_start", ["reader", "writer"])
def test_a_directory_whose_replacement_was_killed_halfway_is_there_again(tmp_path, gone, monkeypatch, next_start):
    """Between its two renames nothing stands in its place."""
    target = tmp_path / "cache"
    for kind, content in (("old", "before"), ("tmp", "after")):
        left = left_by(target, kind, gone, monkeypatch)
        left.mkdir()
        (left / content).touch()
    if next_start == "reader":
        assert [path.name for path in Store(str(tmp_path)).local("cache").iterdir()] == ["before"]
    else:

        def broken() -> None:
            with replacing(target):
                raise ValueError("broken off")

        with pytest.raises(ValueError, match="broken off"):
            broken()
        assert [path.name for path in target.iterdir()] == ["before"]
    assert list(tmp_path.iterdir()) == [target]


# A remote root


def test_fingerprints_depend_on_content_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    assert fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
