"""Outputs by name, on a local disk and behind a URL."""

import stat
from pathlib import Path

import pytest

from naics_pipeline import files, storage
from naics_pipeline.errors import NaicsError
from naics_pipeline.files import replacing
from naics_pipeline.storage import Store


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
    monkeypatch.setattr(storage.time, "time", lambda: now + files.STALE_SECONDS + 1)
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
