"""Outputs are replaced whole or not at all, on a local disk and behind a URL."""

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from naics_pipeline.errors import NaicsError
from naics_pipeline.storage import Store, fingerprint, replacing


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
from naics_pipeline.storage import replacing
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


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".file.txt.{gone.pid}.tmp").write_text("half")
    (tmp_path / f".file.txt.{os.getppid()}.tmp").write_text("somebody is writing this")
    with replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".file.txt.{os.getppid()}.tmp", "file.txt"]


def test_a_remote_root_gets_what_is_published_and_gives_it_back(tmp_path: Path) -> None:
    fsspec.filesystem("memory").rm("/", recursive=True) if fsspec.filesystem("memory").exists("/bucket") else None
    store = Store("memory://bucket/data")
    assert not store.is_local
    with replacing(store.path("reports/index.html")) as temporary:
        temporary.write_text("page")
    assert not store.exists("reports/index.html")
    store.publish("reports/index.html")
    store.path("reports/index.html").unlink()
    assert store.local("reports/index.html").read_text() == "page"
    with replacing(store.path("stage")) as temporary:
        temporary.mkdir()
        (temporary / "best.ckpt").write_text("weights")
    store.publish("stage")
    assert (store.local("stage") / "best.ckpt").read_text() == "weights"
    assert store.filesystem.cat("/bucket/data/stage/best.ckpt") == b"weights"


def test_an_output_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NaicsError, match=r"triplets does not exist: materialize"):
        Store(str(tmp_path)).local("triplets")


def test_fingerprints_depend_on_content_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    assert fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
