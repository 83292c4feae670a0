"""Outputs are replaced whole or not at all, on a local disk and behind a URL."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from naics_pipeline import storage
from naics_pipeline.errors import NaicsError
from naics_pipeline.storage import Store, fingerprint, making, replacing


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


@pytest.fixture
def gone() -> int:
    """The number of a process that is over."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_by(path: Path, kind: str, process: int, monkeypatch: pytest.MonkeyPatch, host: str = storage.HOST) -> Path:
    """What another process has beside `path`."""
    with monkeypatch.context() as patched:
        patched.setattr(storage.os, "getpid", lambda: process)
        patched.setattr(storage, "HOST", host)
        return storage.beside(path, kind)


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


@pytest.fixture
def remote(tmp_path):
    """Two machines that share a root, each with a cache of its own."""
    root = f"memory://{tmp_path.name}/data"
    return Store(root, tmp_path / "one"), Store(root, tmp_path / "two")


def write(store: Store, name: str, text: str) -> None:
    with replacing(store.path(name)) as temporary:
        temporary.write_text(text)
    store.publish(name)


def test_a_remote_root_gets_what_is_published_and_gives_it_to_other_machines(remote):
    here, there = remote
    assert not here.is_local
    with replacing(here.path("reports/index.html")) as temporary:
        temporary.write_text("page")
    assert not there.exists("reports/index.html")
    here.publish("reports/index.html")
    page = there.local("reports/index.html")
    assert (page.name, page.read_text()) == ("index.html", "page")
    stage = here.path("stages/one")
    (stage / "below").mkdir(parents=True)
    (stage / "best.ckpt").write_text("weights")
    (stage / "below" / "metrics.json").write_text("{}")
    here.publish("stages/one")
    assert (there.local("stages/one") / "best.ckpt").read_text() == "weights"
    assert there.local("stages/one/below/metrics.json").read_text() == "{}"
    assert not there.exists("stages/one/last.ckpt")
    assert not there.exists("stages")


def test_a_reader_keeps_what_it_was_given_while_the_next_is_published(remote):
    here, there = remote
    write(here, "frame.parquet", "old")
    old = there.local("frame.parquet")
    write(here, "frame.parquet", "new")
    new = there.local("frame.parquet")
    assert (old.read_text(), new.read_text()) == ("old", "new")


def test_a_publication_that_was_killed_changes_nothing(remote, monkeypatch):
    here, there = remote
    write(here, "stage/best.ckpt", "old")
    with monkeypatch.context() as patched:
        patched.setattr(type(here.filesystem), "pipe_file", raising)
        with pytest.raises(NaicsError, match="could not be published"):
            write(here, "stage/best.ckpt", "half")
    assert there.local("stage/best.ckpt").read_text() == "old"
    write(here, "stage/best.ckpt", "new")
    assert there.local("stage/best.ckpt").read_text() == "new"


def raising(*_, **__):
    raise OSError("killed")


def test_content_nobody_reads_any_more_is_collected_later(remote, monkeypatch):
    here, there = remote
    write(here, "frame.parquet", "first")
    write(here, "frame.parquet", "second")
    content = f"{here.base}/content/frame.parquet"
    assert len(here.filesystem.find(content)) == 2
    now = storage.time.time()
    monkeypatch.setattr(storage.time, "time", lambda: now + storage.STALE_SECONDS + 1)
    write(here, "frame.parquet", "third")
    assert len(here.filesystem.find(content)) == 1
    assert there.local("frame.parquet").read_text() == "third"


def test_damaged_and_missing_content_is_said(remote):
    here, there = remote
    write(here, "frame.parquet", "right")
    (key,) = here.filesystem.find(f"{here.base}/content/frame.parquet")
    here.filesystem.pipe_file(key, b"wrong")
    with pytest.raises(NaicsError, match="does not match its checksum"):
        there.local("frame.parquet")
    here.filesystem.rm(key)
    with pytest.raises(NaicsError, match="content is gone"):
        there.local("frame.parquet")
    here.filesystem.pipe_file(f"{here.base}/manifests/frame.parquet.json", b"{")
    with pytest.raises(NaicsError, match=r"manifests/frame.parquet.json: damaged"):
        there.exists("frame.parquet")
    assert [path for path in there.cache.rglob("*") if path.is_file()] == []


def test_unfinished_work_survives_the_fetching_of_what_is_finished(remote):
    here, _ = remote
    (here.path("stages/one") / ".unfinished-key").mkdir(parents=True)
    (here.path("stages/one") / ".unfinished-key" / "last.ckpt").write_text("epoch 7")
    write(here, "stages/one/best.ckpt", "weights")
    here.publish("stages/one")
    assert [path.name for path in here.local("stages/one").iterdir()] == ["best.ckpt"]
    assert (here.path("stages/one") / ".unfinished-key" / "last.ckpt").read_text() == "epoch 7"


def test_another_machine_goes_on_with_unfinished_work_until_it_is_finished(remote):
    here, there = remote
    unfinished = here.path("stages/one") / ".unfinished-key"
    unfinished.mkdir(parents=True)
    (unfinished / "last.ckpt").write_text("epoch 7")
    here.keep_unfinished("stages/one")
    assert not there.exists("stages/one")
    there.resume_unfinished("stages/one")
    found = there.path("stages/one") / ".unfinished-key" / "last.ckpt"
    assert found.read_text() == "epoch 7"
    found.write_text("epoch 8")
    there.resume_unfinished("stages/one")
    assert found.read_text() == "epoch 8"
    there.forget_unfinished("stages/one")
    assert here.filesystem.find(here.base) == []


def test_unfinished_work_that_cannot_be_sent_stops_nothing_and_the_old_is_not_kept(remote, monkeypatch, caplog):
    here, there = remote
    unfinished = here.path("stages/one") / ".unfinished-key"
    unfinished.mkdir(parents=True)
    for epoch in ("7", "8"):
        (unfinished / "last.ckpt").write_text(epoch)
        here.keep_unfinished("stages/one")
    assert len(here.filesystem.find(f"{here.base}/content")) == 1
    monkeypatch.setattr(type(here.filesystem), "pipe_file", raising)
    (unfinished / "last.ckpt").write_text("9")
    here.keep_unfinished("stages/one")
    assert "stays on this machine alone for now" in caplog.text
    there.resume_unfinished("stages/one")
    assert (there.path("stages/one") / ".unfinished-key" / "last.ckpt").read_text() == "8"


def test_an_output_can_be_taken_away(remote, tmp_path):
    for store in (remote[0], Store(str(tmp_path / "local"))):
        write(store, "labelled.parquet", "texts")
        store.remove("labelled.parquet")
        store.remove("labelled.parquet")
        assert not store.exists("labelled.parquet")


def test_only_the_user_may_read_what_is_kept_of_a_remote_root(monkeypatch, tmp_path):
    monkeypatch.setenv("NAICS_CACHE_DIR", str(tmp_path / "cache"))
    cache = Store("memory://bucket/other").cache
    assert cache.parent == tmp_path / "cache"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_a_root_that_nothing_here_can_open_is_refused():
    with pytest.raises(NaicsError, match=r"data_dir = nothing://x: cannot be opened"):
        Store("nothing://x")


def test_an_output_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NaicsError, match=r"triplets does not exist: materialize"):
        Store(str(tmp_path)).local("triplets")


def test_fingerprints_depend_on_content_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    assert fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
