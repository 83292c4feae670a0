"""The data directory on an object store: a real server of the S3 protocol on this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import polars as pl
import pytest

from naics_pipeline.errors import NaicsError
from naics_pipeline.storage import Store
from naics_pipeline_tests.taxonomy.workbooks import small_source
from naics_pipeline_tests.test_commands import environment

__all__ = ["environment"]
ACCESS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server with one bucket, called naics."""
    moto = pytest.importorskip("moto.server", reason="needs the extra dev")
    boto3 = pytest.importorskip("boto3")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
    )
    client.create_bucket(Bucket="naics")
    yield address
    running.stop()


@pytest.fixture
def root(server, monkeypatch, tmp_path) -> str:
    """A root of its own in the bucket, that this process may read and write."""
    for name, value in (ACCESS | {"AWS_ENDPOINT_URL": server, "NO_PROXY": "127.0.0.1"}).items():
        monkeypatch.setenv(name, value)
    return f"s3://naics/{tmp_path.name}"


def test_machines_share_outputs_and_unfinished_work(root, tmp_path):
    here, there = Store(root, tmp_path / "one"), Store(root, tmp_path / "two")
    assert not there.exists("stages/one")
    stage = here.path("stages/one")
    (stage / "below").mkdir(parents=True)
    (stage / "best.safetensors").write_bytes(os.urandom(1000))
    (stage / "below" / "metrics.json").write_text("{}")
    (stage / ".unfinished-key").mkdir()
    (stage / ".unfinished-key" / "last.ckpt").write_text("epoch 7")
    here.keep_unfinished("stages/one")
    there.resume_unfinished("stages/one")
    assert (there.path("stages/one") / ".unfinished-key" / "last.ckpt").read_text() == "epoch 7"
    here.publish("stages/one")
    here.forget_unfinished("stages/one")
    fetched = there.local("stages/one")
    assert sorted(file.relative_to(fetched).as_posix() for file in fetched.rglob("*") if file.is_file()) == [
        "below/metrics.json",
        "best.safetensors",
    ]
    assert there.local("stages/one/below/metrics.json").read_text() == "{}"
    assert not any("unfinished" in key for key in there.filesystem.find(there.base))
    (stage / "below" / "metrics.json").write_text("[]")
    here.publish("stages/one")
    assert there.local("stages/one/below/metrics.json").read_text() == "[]"
    assert (fetched / "below" / "metrics.json").read_text() == "{}"


def test_a_bucket_that_is_not_there_is_said(root, tmp_path):
    store = Store("s3://nowhere/data", tmp_path)
    store.path("frame").parent.mkdir(parents=True, exist_ok=True)
    store.path("frame").write_text("")
    with pytest.raises(NaicsError, match=r"s3://nowhere/data/frame: could not be published"):
        store.publish("frame")


@pytest.mark.slow
def test_the_whole_pipeline_killed_and_resumed_by_another_machine(root, environment, tmp_path):
    environment |= {
        "NAICS_DATA_DIR": root,
        "NAICS_CACHE_DIR": str(tmp_path / "one"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "NAICS_SOURCE": str(small_source().write(tmp_path / "workbooks")),
        "NAICS__TAXONOMY__HELD_OUT_FRACTION": "0",
        "NAICS__TAXONOMY__VALIDATION_FRACTION": "0",
        "NAICS__TRAINING__EPOCHS_SCALE": "10",
    }
    command = ["dagster", "job", "execute", "-m", "naics_pipeline.definitions", "-j", "full_pipeline"]
    killed = subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True)
    limit = time.monotonic() + 400
    store = Store(root, tmp_path / "reader")
    while not store.filesystem.find(f"{store.base}/manifests/stages/01_only.unfinished"):
        assert killed.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.1)
    os.killpg(killed.pid, 9)
    killed.wait()
    (work,) = (tmp_path / "one").glob("*/work/stages/01_only")
    assert not (work / "best.safetensors").exists()
    # In one process, which imports the libraries once, and knows nothing of the run before.
    program = """
import logging
from naics_pipeline.definitions import defs
logging.basicConfig(level=logging.INFO)
defs.resolve_job_def("full_pipeline").execute_in_process()
"""
    environment["NAICS_CACHE_DIR"] = str(tmp_path / "two")
    resumed = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    said = resumed.stdout + resumed.stderr
    assert resumed.returncode == 0, said[-3000:]
    assert "goes on from its last finished epoch" in said
    assert store.local("reports/index.html").stat().st_size > 10_000
    assert pl.read_parquet(store.local("refined_embeddings.parquet")).height == 16
    assert not any("unfinished" in key for key in store.filesystem.find(store.base))
