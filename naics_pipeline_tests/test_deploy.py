"""What deploy/ describes: read with the eyes of Dagster, Postgres and MLflow where they are here."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import dagster as dg
import pytest
import yaml
from mlflow import MlflowClient

from naics_pipeline.settings import Settings
from naics_pipeline_tests.conftest import REPOSITORY
from naics_pipeline_tests.taxonomy.workbooks import small_source
from naics_pipeline_tests.test_commands import environment

__all__ = ["environment"]
DEPLOY = REPOSITORY / "deploy"
OF_ONE_MACHINE_ONLY = {"storage", "compute_logs"}


def read(name: str) -> dict:
    return yaml.safe_load((DEPLOY / name).read_text())


def test_the_instance_of_several_machines_differs_in_its_stores_alone():
    here = yaml.safe_load((REPOSITORY / "dagster_home" / "dagster.yaml").read_text())
    there = read("dagster.yaml")
    assert {name: value for name, value in there.items() if name not in OF_ONE_MACHINE_ONLY} == here
    assert there["compute_logs"]["config"]["upload_interval"] > 0


def test_every_part_of_compose_has_what_it_waits_for_and_no_secret_in_the_file():
    compose = read("compose.yaml")
    parts = compose["services"]
    assert set(parts) == {"postgres", "store", "bucket", "mlflow", "code", "webserver", "daemon"}
    for name, part in parts.items():
        assert set(part.get("depends_on", ())) <= set(parts), name
        for volume in part.get("volumes", ()):
            assert volume.split(":")[0] in compose["volumes"]
        for port in part.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "nothing is open to the network unless somebody opens it"
        for key, value in part.get("environment", {}).items():
            if any(word in key for word in ("PASSWORD", "SECRET", "ACCESS_KEY")):
                assert value.startswith("${"), key
    given = {line.split("=")[0] for line in (DEPLOY / "env.example").read_text().splitlines() if "=" in line}
    assert {"POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"} <= given


def composed(*secrets: str) -> subprocess.CompletedProcess[str]:
    """What Docker's own reader makes of the compose file; it needs no engine."""
    command = [str(files("compose") / "docker-compose"), "-f", str(DEPLOY / "compose.yaml")]
    environment = {"PATH": os.environ["PATH"], **{name: f"of-{name}" for name in secrets}}
    return subprocess.run(
        [*command, "--env-file", str(DEPLOY / "env.example"), "config", "--format", "json"],
        env=environment,
        capture_output=True,
        text=True,
    )


def test_docker_reads_the_compose_file_once_the_secrets_are_set():
    refused = composed("S3_ACCESS_KEY", "S3_SECRET_KEY")
    assert refused.returncode != 0
    assert "POSTGRES_PASSWORD is missing a value: set it in deploy/.env" in refused.stderr
    read_by_docker = composed("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")
    assert read_by_docker.returncode == 0, read_by_docker.stderr
    parts = json.loads(read_by_docker.stdout)["services"]
    assert set(parts) == set(read("compose.yaml")["services"])
    built = parts["bucket"]["build"]
    assert (Path(built["context"]), (Path(built["context"]) / built["dockerfile"]).is_file()) == (REPOSITORY, True)
    assert "naics:of-POSTGRES_PASSWORD@postgres/mlflow" in str(parts["mlflow"]["command"])
    assert parts["daemon"]["environment"]["AWS_SECRET_ACCESS_KEY"] == "of-S3_SECRET_KEY"


def test_what_the_instance_reads_from_the_environment_is_set():
    set_for_all = read("compose.yaml")["services"]["daemon"]["environment"]
    text = (DEPLOY / "dagster.yaml").read_text()
    for name in {part.split("}")[0] for part in text.split("{env: ")[1:]}:
        assert name in set_for_all


def test_kubernetes_is_chosen_by_settings_that_exist():
    (deployment,) = read("kubernetes.yaml")["dagster-user-deployments"]["deployments"]
    chosen = {variable["name"]: variable["value"] for variable in deployment["env"]}
    assert Settings(orchestration={"executor": chosen["NAICS__ORCHESTRATION__EXECUTOR"]})
    assert (REPOSITORY / "conf" / "profiles" / f"{chosen['NAICS_PROFILE']}.yaml").is_file()


def as_postgres(command: list[str]) -> list[str]:
    """Postgres refuses to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.getuid() == 0 else command


def tool(name: str) -> str:
    found = shutil.which(name) or next(iter(sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))), None)
    if found is None:
        pytest.skip(f"no {name}: apt install postgresql")
    return found


@pytest.fixture
def postgres(tmp_path) -> Iterator[int]:
    """The port of a server with the databases dagster and mlflow."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory = Path("/tmp") / f"naics-postgres-{port}"
    directory.mkdir()
    if os.getuid() == 0:
        shutil.chown(directory, "postgres")
    subprocess.run(
        as_postgres([tool("initdb"), "-D", f"{directory}/data", "-U", "naics", "--auth=trust"]),
        check=True,
        capture_output=True,
        cwd="/",
    )
    server = subprocess.Popen(
        as_postgres([tool("postgres"), "-D", f"{directory}/data", "-p", str(port), "-k", str(directory)]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        limit = time.monotonic() + 60
        access = ["-h", "127.0.0.1", "-p", str(port), "-U", "naics"]
        while subprocess.run([tool("pg_isready"), *access], capture_output=True).returncode:
            assert time.monotonic() < limit
            time.sleep(0.2)
        for database in ("dagster", "mlflow"):
            subprocess.run([tool("createdb"), *access, database], check=True)
        yield port
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(directory)


@pytest.mark.slow
def test_dagster_and_mlflow_on_postgres(postgres, environment, tmp_path, monkeypatch):
    """Runs, events and slots in one database, MLflow's in another."""
    home = Path(environment["DAGSTER_HOME"])
    instance = read("dagster.yaml")
    del instance["compute_logs"]
    access = instance["storage"]["postgres"]["postgres_db"]
    access["port"] = postgres
    (home / "dagster.yaml").write_text(yaml.safe_dump(instance))
    environment |= {
        "NAICS_SOURCE": str(small_source().write(tmp_path / "workbooks")),
        "NAICS__TAXONOMY__HELD_OUT_FRACTION": "0",
        "NAICS__TAXONOMY__VALIDATION_FRACTION": "0",
        "DAGSTER_PG_HOST": "127.0.0.1",
        "DAGSTER_PG_USER": "naics",
        "DAGSTER_PG_PASSWORD": "none",
        "DAGSTER_PG_DB": "dagster",
        "MLFLOW_TRACKING_URI": f"postgresql+psycopg2://naics:none@127.0.0.1:{postgres}/mlflow",
    }
    command = ["dagster", "asset", "materialize", "-m", "naics_pipeline.definitions", "--select", "*text_evaluation"]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    for name in ("HOST", "USER", "PASSWORD", "DB"):
        monkeypatch.setenv(f"DAGSTER_PG_{name}", environment[f"DAGSTER_PG_{name}"])
    with dg.DagsterInstance.from_config(str(home)) as used:
        assert "postgres" in type(used.event_log_storage).__module__
        (run,) = used.get_runs()
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert used.event_log_storage.get_concurrency_info("gpu").claimed_slots == []
        event = used.get_latest_materialization_event(dg.AssetKey("stage_01_only"))
        assert "none@" not in str(event.asset_materialization.metadata)
    client = MlflowClient(tracking_uri=environment["MLFLOW_TRACKING_URI"])
    recorded = client.search_runs([found.experiment_id for found in client.search_experiments()])
    assert {run.info.status for run in recorded} == {"FINISHED"}
    assert sorted(run.data.tags["role"] for run in recorded) == ["asset", "asset", "pipeline"]
