"""Only runs of which no process is left lose their place in the pool."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dagster as dg
import kubernetes
import kubernetes_validate
import pytest
import yaml
from dagster._core.definitions.job_base import InMemoryJob
from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

from naics_pipeline import executor, failures
from naics_pipeline.definitions import defs
from naics_pipeline.errors import NaicsError
from naics_pipeline.settings import Pod
from naics_pipeline_tests.conftest import REPOSITORY


@pytest.fixture
def instance(tmp_path):
    with dg.instance_for_test(
        temp_dir=str(tmp_path), overrides=yaml.safe_load((REPOSITORY / "dagster_home" / "dagster.yaml").read_text())
    ) as instance:
        yield instance


@dg.job
def nothing():
    pass


def started_run(instance: dg.DagsterInstance, *, slot: bool = True) -> str:
    """A run that has begun; it holds the only slot."""
    run = instance.create_run_for_job(
        dg.Definitions(jobs=[nothing]).resolve_job_def("nothing"), status=dg.DagsterRunStatus.STARTED
    )
    if slot:
        instance.event_log_storage.initialize_concurrency_limit_to_default("gpu")
        assert instance.event_log_storage.claim_concurrency_slot("gpu", run.run_id, "step").is_claimed
    return run.run_id


def killed(instance: dg.DagsterInstance, run_id: str) -> None:
    """A process that holds the run, and is gone without a word."""
    if (child := os.fork()) == 0:
        held = executor.holding(instance, run_id)
        held.__enter__()
        os._exit(9)
    os.waitpid(child, 0)


def holders(instance: dg.DagsterInstance) -> list[str]:
    return [slot.run_id for slot in instance.event_log_storage.get_concurrency_info("gpu").claimed_slots]


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    return instance.get_run_by_id(run_id).status


def locks(instance: dg.DagsterInstance) -> list[str]:
    return [path.name for path in (Path(instance.storage_directory()) / "running").iterdir()]


def test_a_run_that_is_alive_keeps_its_slot(instance):
    run_id = started_run(instance)
    with executor.holding(instance, run_id):
        executor.end_killed_runs(instance)
        assert holders(instance) == [run_id]


@pytest.mark.parametrize("slot", [True, False])
def test_a_run_that_was_killed_fails_and_gives_its_slot_back(instance, slot):
    run_id = started_run(instance, slot=slot)
    killed(instance, run_id)
    executor.end_killed_runs(instance)
    assert status(instance, run_id) == dg.DagsterRunStatus.FAILURE
    assert locks(instance) == []
    if slot:
        assert holders(instance) == []


def test_a_run_that_says_nothing_here_is_left_alone(instance):
    run_id = started_run(instance)
    executor.end_killed_runs(instance)
    assert holders(instance) == [run_id]


@pytest.mark.parametrize("joined", [False, True])
def test_a_run_of_another_machine_is_left_alone(instance, monkeypatch, joined):
    """Its lock may lie on a shared disk, and mean nothing here: not even after one of its steps ran here."""
    run_id = started_run(instance)
    with monkeypatch.context() as there:
        there.setattr(executor, "HOST", "another")
        killed(instance, run_id)
    if joined:
        with executor.joining(instance, run_id):
            pass
    executor.end_killed_runs(instance)
    assert status(instance, run_id) == dg.DagsterRunStatus.STARTED
    assert holders(instance) == [run_id]


def test_a_step_that_lives_on_counts(instance):
    run_id = started_run(instance)
    killed(instance, run_id)
    with executor.joining(instance, run_id):
        executor.end_killed_runs(instance)
        assert holders(instance) == [run_id]
    executor.end_killed_runs(instance)
    assert holders(instance) == []


def test_no_lock_outlives_an_error(instance):
    with pytest.raises(ValueError, match="broken off"), executor.holding(instance, started_run(instance)):
        raise ValueError("broken off")
    assert locks(instance) == []


def test_a_process_ends_itself_in_good_order_when_its_parent_is_gone(tmp_path):
    script = f"""
import multiprocessing, os, signal, time
from pathlib import Path
from naics_pipeline import executor
def child(ready):
    def end(*_):
        Path({str(tmp_path / "ended")!r}).touch()
        os._exit(0)
    signal.signal(signal.SIGTERM, end)
    executor.end_with_parent()
    ready.set()
    time.sleep(300)
if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    ready = context.Event()
    context.Process(target=child, args=(ready,)).start()
    ready.wait()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "script.py").write_text(script)
    process = subprocess.run(
        [sys.executable, tmp_path / "script.py"], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=False
    )
    assert process.returncode == -signal.SIGKILL
    end = time.monotonic() + 20
    while not (tmp_path / "ended").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


@dg.op(pool="gpu")
def waits():
    pass


@dg.op
def crashes():
    os._exit(7)


@dg.op
def refuses():
    with failures.described():
        raise NaicsError("row 7: no code")


@dg.job(executor_def=executor.careful_multiprocess_executor)
def waiting():
    waits()


@dg.job(executor_def=executor.careful_multiprocess_executor)
def crashing():
    crashes()


@dg.job(executor_def=executor.careful_multiprocess_executor)
def refusing():
    refuses()


def test_a_slot_is_freed_whose_run_is_killed_while_another_waits(instance, monkeypatch):
    monkeypatch.setattr(executor, "SECONDS_BETWEEN_LOOKS", 0.2)
    run_id = started_run(instance)
    alive = executor.holding(instance, run_id)
    alive.__enter__()
    killing = threading.Timer(6, lambda: killed(instance, run_id))
    killing.start()
    with dg.execute_job(dg.reconstructable(_waiting), instance) as result:
        assert result.success
    killing.join()
    assert status(instance, run_id) == dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize(
    ("job", "retried"), [("crashing", True), ("refusing", False)], ids=["process lost", "error of our own"]
)
def test_only_what_infrastructure_did_is_tried_again(instance, job, retried, capfd):
    with dg.execute_job(dg.reconstructable(JOBS[job]), instance) as result:
        run = instance.get_run_by_id(result.run_id)
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert run.tags["dagster/will_retry"] == str(retried).lower()


def _waiting():
    return waiting


def _crashing():
    return crashing


def _refusing():
    return refusing


JOBS = {"crashing": _crashing, "refusing": _refusing}


@pytest.mark.parametrize(
    ("processors", "asked", "at_once"), [(1, {}, 1), (2, {}, 1), (8, {}, 2), (2, {"max_concurrent": 3}, 3)]
)
def test_assets_share_the_processors(monkeypatch, instance, processors, asked, at_once):
    monkeypatch.setattr(executor.os, "cpu_count", lambda: processors)
    context = dg.InitExecutorContext(
        job=InMemoryJob(nothing),
        executor_def=executor.careful_multiprocess_executor,
        executor_config={"retries": {"enabled": {}}, **asked},
        instance=instance,
    )
    made = executor.careful_multiprocess_executor.executor_creation_fn(context)
    assert made.inner._max_concurrent == at_once
    assert made.inner._explicit_forkserver_preload == executor.DEFINITIONS


@pytest.mark.parametrize(
    ("selected", "kinds"),
    [
        ("*", ["pytorch", "mlflow", "scikitlearn"]),
        ("naics_index text_embeddings", ["pytorch"]),
        ("text_evaluation refined_evaluation", ["mlflow", "scikitlearn"]),
        ("naics_index", []),
        ("triplets relations", []),
    ],
)
def test_what_several_assets_import_is_imported_once(selected, kinds):
    job = defs.resolve_job_def("full_pipeline")
    if selected != "*":
        job = job.get_subset(asset_selection={dg.AssetKey(name) for name in selected.split()})
    expected = [module for kind in kinds for module in executor.LIBRARIES[kind]]
    assert executor.preloaded(job)[len(executor.DEFINITIONS) :] == expected


def test_on_kubernetes_a_step_that_trains_gets_a_pod_of_the_size_that_is_set():
    tags = executor.pod_of_training(Pod(cpu="8", memory="32Gi", gpus=2))
    job = construct_dagster_k8s_job(
        DagsterK8sJobConfig(job_image="naics-pipeline", dagster_home="/opt/dagster"),
        ["dagster"],
        "step",
        user_defined_k8s_config=UserDefinedDagsterK8sConfig.from_dict(tags["dagster-k8s/config"]),
    )
    pod = job.spec.template.spec
    (container,) = pod.containers
    assert container.resources.requests == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2"}
    assert container.resources.limits == {"memory": "32Gi", "nvidia.com/gpu": "2"}
    assert pod.termination_grace_period_seconds == 60
    # Memory that the processes of two GPUs share.
    (shared,) = [mount.name for mount in container.volume_mounts if mount.mount_path == "/dev/shm"]
    assert [volume.empty_dir.medium for volume in pod.volumes if volume.name == shared] == ["Memory"]
    assert "nvidia.com/gpu" not in str(executor.pod_of_training(Pod()))
    manifest = kubernetes.client.ApiClient().sanitize_for_serialization(job)
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_executor_is_a_setting():
    program = """
from naics_pipeline.definitions import defs
job = defs.resolve_job_def("full_pipeline")
(node,) = [node for node in job.nodes if node.name == "refined_embeddings"]
print(job.executor_def.name, "dagster-k8s/config" in node.definition.tags)
"""
    for chosen, name in (("multiprocess", "multiprocess"), ("kubernetes", "k8s")):
        result = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"NAICS__ORCHESTRATION__EXECUTOR": chosen, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.split() == [name, "True"]
