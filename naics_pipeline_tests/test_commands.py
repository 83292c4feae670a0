"""The commands of README.md as a user types them, in processes of their own, on a model small enough for a test."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import requests
from mlflow import MlflowClient

from naics_pipeline_tests import runs
from naics_pipeline_tests.conftest import REPOSITORY
from naics_pipeline_tests.taxonomy.workbooks import small_source

MADE_BY_TRIPLETS_PLUS = [
    "triplets",
    "stages/01_only",
    "text_embeddings.parquet",
    "refined_embeddings.parquet",
    "reports/text_metrics.json",
    "reports/refined_metrics.json",
    "reports/index.html",
    "reports/explorer.html",
]


@pytest.fixture
def environment(tmp_path, tiny_base) -> dict[str, str]:
    """One short stage, a model of two small blocks, outputs and Dagster's home in a temporary directory."""
    curriculum = tmp_path / "curriculum"
    curriculum.mkdir()
    shutil.copy(REPOSITORY / "conf" / "curriculum" / "01_easy.yaml", curriculum / "01_only.yaml")
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NAICS", "DAGSTER", "MLFLOW"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DAGSTER_HOME": str(home),
        "NAICS_DATA_DIR": str(tmp_path / "data"),
        "NAICS__CURRICULUM": str(curriculum),
        "NAICS__MODEL__BASE": str(tiny_base),
        "NAICS__TRAINING__EPOCHS_SCALE": "0.1",
        "NAICS__TRAINING__QUERIES_PER_EPOCH": "64",
        "NAICS__TRAINING__QUERIES_PER_BATCH": "32",
        "NAICS__GRAPH__STEPS": "60",
        "NAICS__GRAPH__LEFT_OUT_FRACTION": "0",
        "NAICS__EVALUATION__BASELINES": "false",
        "PYTHONWARNINGS": "ignore",
    }


def shell(command: str, environment: dict[str, str], directory: Path = REPOSITORY, program: str = "bash") -> str:
    """Output of a command line; fails with it where the command does."""
    result = subprocess.run(
        [program, "-c", command], env=environment, cwd=directory, capture_output=True, text=True, timeout=500
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-5000:]
    return result.stdout


@pytest.fixture
def given(environment, tmp_path) -> Path:
    """The data directory, with all that comes before triplets, and triplets taken away."""
    data, source = tmp_path / "data", str(small_source().write(tmp_path / "workbooks"))
    environment["NAICS_SOURCE"] = source
    made = runs.materialize('+key:"triplets" or key:"activity_phrases" or key:"token_cache"', data, source=source)
    assert made.success
    shutil.rmtree(data / "triplets")
    return data


@pytest.mark.slow
def test_the_literal_command_retrains_everything(environment, given):
    shell("source conf/env.sh && dagster asset materialize --select 'triplets+'", environment)
    assert [name for name in MADE_BY_TRIPLETS_PLUS if not (given / name).exists()] == []


@pytest.mark.slow
def test_dg_launches_the_same(environment, given):
    command = "source conf/env.sh && exec dg launch --assets 'triplets+'"
    launched = subprocess.Popen(["bash", "-c", command], env=environment, cwd=REPOSITORY, start_new_session=True)
    try:
        limit = time.monotonic() + 200
        while not (given / "triplets").exists():
            assert launched.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.2)
    finally:
        stop(launched)
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        (run,) = instance.get_runs()
    evaluated = {"text_evaluation", "refined_evaluation", "evaluation_report"}
    embedded = {"stage_01_only", "text_embeddings", "refined_embeddings", "naics_index", "naics_model"}
    assert {key.to_user_string() for key in run.asset_selection} == {"triplets"} | embedded | evaluated


def test_outputs_survive_without_a_home_and_from_any_directory(environment, tmp_path):
    del environment["DAGSTER_HOME"]
    shell("dagster asset materialize -m naics_pipeline.definitions --select index_entries", environment, tmp_path)
    assert (tmp_path / "data" / "index_entries.parquet").is_file()


def test_a_setting_that_cannot_be_is_refused_before_anything_starts(environment, tmp_path):
    command = "source conf/env.sh && dagster asset materialize --select index_entries"
    with pytest.raises(AssertionError, match=r"NAICS__GRAPH__STEPS: graph\.steps = 'many'"):
        shell(command, environment | {"NAICS__GRAPH__STEPS": "many"})
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_the_ui_starts_after_the_environment_file(environment, tmp_path):
    """With DAGSTER_MODULE_NAME exported `dagster dev` itself hangs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"source conf/env.sh && dagster dev --host 127.0.0.1 --port {port}"
    server = subprocess.Popen(["bash", "-c", command], env=environment, cwd=REPOSITORY, start_new_session=True)
    try:
        assert answers(f"http://127.0.0.1:{port}/server_info", seconds=180)
    finally:
        stop(server)


def stop(server: subprocess.Popen) -> None:
    """Ends a server and what it started; Dagster's overhears a signal that comes while its parts still start."""
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def answers(url: str, seconds: int) -> bool:
    """Whether a server is there before the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return requests.get(url, timeout=5).ok
        except requests.ConnectionError:
            time.sleep(1)
    return False


SHELLS = [program for program in ("bash", "zsh") if shutil.which(program)]


@pytest.mark.parametrize("program", SHELLS)
def test_the_environment_file_works_from_any_directory(program, environment, tmp_path):
    del environment["DAGSTER_HOME"]
    command = f"source '{REPOSITORY}/conf/env.sh' && echo $DAGSTER_MODULE_NAME $DAGSTER_HOME"
    found = shell(command, environment, tmp_path, program).split()
    assert found == ["naics_pipeline.definitions", str(REPOSITORY / "dagster_home")]


def test_only_the_user_may_read_the_state_of_runs(environment, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(REPOSITORY / "conf", copy / "conf")
    (copy / "dagster_home").mkdir(mode=0o755)
    shell(f"source '{copy}/conf/env.sh'", environment, tmp_path)
    assert stat.S_IMODE((copy / "dagster_home").stat().st_mode) == 0o700


@pytest.mark.parametrize("program", SHELLS)
def test_the_environment_file_respects_what_is_set(program, environment):
    command = "source conf/env.sh && echo $DAGSTER_MODULE_NAME $DAGSTER_HOME"
    found = shell(command, environment | {"DAGSTER_MODULE_NAME": "mine"}, program=program).split()
    assert found == ["mine", environment["DAGSTER_HOME"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    [
        lambda process: os.killpg(process.pid, signal.SIGKILL),
        lambda process: process.kill(),
        lambda process: process.terminate(),
    ],
    ids=["kill -9 of all", "kill -9 of the first process", "SIGTERM"],
)
def test_training_goes_on_after_its_end(end, environment, tmp_path):
    """The run that was ended neither keeps the accelerator nor stays in the UI and in MLflow as if it ran."""
    environment |= {"NAICS__TRAINING__EPOCHS_SCALE": "2"}
    data = tmp_path / "data"
    given = runs.materialize('+key:"triplets" or key:"activity_phrases" or key:"token_cache"', data)
    assert given.success
    command = ["dagster", "asset", "materialize", "-m", "naics_pipeline.definitions", "--select", "stage_01_only"]
    ended = subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True)
    limit = time.monotonic() + 300
    while not list(data.glob("stages/01_only/.unfinished-*/last.ckpt")):
        assert ended.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.1)
    end(ended)
    ended.wait(30)
    assert not (data / "stages" / "01_only" / "best.safetensors").exists()

    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "goes on from its last finished epoch" in result.stderr + result.stdout
    assert (data / "stages" / "01_only" / "best.safetensors").is_file()
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        assert [run.status.value for run in instance.get_runs()] == ["SUCCESS", "FAILURE"]
        assert instance.event_log_storage.get_concurrency_info("gpu").claimed_slots == []
    client = MlflowClient(tracking_uri=f"sqlite:///{data}/mlflow/mlflow.db")
    recorded = client.search_runs([found.experiment_id for found in client.search_experiments()])
    ends = sorted((run.data.tags["role"], run.info.status) for run in recorded)
    assert ends == [(role, end) for role in ("asset", "pipeline") for end in ("FINISHED", "KILLED")]


def test_our_message_is_the_last_on_the_terminal(environment, tmp_path):
    """Of a setting that is refused when the definitions load, and of an asset that fails."""
    command = "source conf/env.sh && dagster asset materialize --select index_entries"
    said = last_line(command, environment | {"NAICS__GRAPH__STEPS": "many"})
    assert said.startswith("environment NAICS__GRAPH__STEPS: graph.steps = 'many' is not possible")
    source = tmp_path / "workbooks"
    source.mkdir()
    said = last_line(command, environment | {"NAICS_SOURCE": str(source)})
    assert said.startswith(f"index_entries failed: {source}/2-6 digit_2022_Codes.xlsx: no such file.")


def last_line(command: str, environment: dict[str, str]) -> str:
    """The last line that a command which fails prints."""
    result = subprocess.run(
        ["bash", "-c", f"{command} 2>&1"], env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert result.returncode != 0
    return result.stdout.strip().splitlines()[-1]
