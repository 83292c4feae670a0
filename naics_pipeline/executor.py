"""A process per asset, and an accelerator that a killed run does not keep for ever.

Dagster frees the slots of a pool when a run ends. A run that was killed never does, and the next one would wait in
silence. So a run holds a lock that dies with its processes, and other runs end those that lost theirs. A lock says
something on the machine that holds it only; runs of other machines are left to Dagster's own monitoring.
"""

import fcntl
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from naics_pipeline.errors import SettingsError
from naics_pipeline.failures import explanation, say_at_exit
from naics_pipeline.files import HOST
from naics_pipeline.settings import Pod

if TYPE_CHECKING:
    from dagster._core.execution.context.system import PlanOrchestrationContext
    from dagster._core.execution.plan.plan import ExecutionPlan
    from dagster._core.execution.retries import RetryMode

PROCESSORS_PER_ASSET = 4
DEFINITIONS = ["dagster", "naics_pipeline.definitions"]
LIBRARIES = {
    "pytorch": ("torch", "peft", "pytorch_lightning", "torch_geometric"),
    "mlflow": ("mlflow.store.tracking.sqlalchemy_store",),
    "scikitlearn": ("sklearn.linear_model",),
}
"""What every asset of a kind imports for seconds."""
SECONDS_BETWEEN_LOOKS = 5.0
UNDER_WAY = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


@contextmanager
def holding(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Says that the run is alive on this machine, for as long as the process lives and the body runs."""
    path = _lock(instance, run_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{run_id}.{os.getpid()}")
    with new.open("w") as file:
        # Locked before it can be seen: an unlocked one is that of a killed run.
        fcntl.flock(file, fcntl.LOCK_SH)
        file.write(HOST)
        file.flush()
        new.replace(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def joining(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Says that a step of the run is alive, whatever becomes of the process that started it.

    When that one dies, this one is told to end as by SIGTERM: nobody would learn of what it makes.
    """
    end_with_parent()
    path = _lock(instance, run_id)
    if _host(path) != HOST:
        yield
        return
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def end_with_parent() -> None:
    """Has this process end itself, in good order, when the one that started it is gone."""
    parent, main = multiprocessing.parent_process(), threading.main_thread().ident
    if parent is None or main is None:
        return

    def watch() -> None:
        parent.join()
        # Python's handler runs in the main thread: a signal that another one took would not wake it from a wait.
        signal.pthread_kill(main, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def end_killed_runs(instance: dg.DagsterInstance) -> None:
    """Marks runs as failed of which no process is left on this machine, where they began; frees their slots."""
    under_way = {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=list(UNDER_WAY)))}
    for run_id in under_way | set(instance.event_log_storage.get_concurrency_run_ids()):
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            if not _was_killed(instance, run_id):
                continue
            instance.report_run_failed(run, "The process of this run was killed. Run it again: training goes on.")
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)
        _lock(instance, run_id).unlink(missing_ok=True)


def _lock(instance: dg.DagsterInstance, run_id: str) -> Path:
    return Path(instance.storage_directory()) / "running" / run_id


def _host(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _was_killed(instance: dg.DagsterInstance, run_id: str) -> bool:
    path = _lock(instance, run_id)
    if _host(path) != HOST:
        return False
    try:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


class CarefulExecutor(dg.Executor):
    """Dagster's executor, which ends runs that were killed and holds the lock of its own."""

    def __init__(self, inner: dg.Executor) -> None:
        self.inner = inner

    def execute(
        self, plan_context: "PlanOrchestrationContext", execution_plan: "ExecutionPlan"
    ) -> Iterator[dg.DagsterEvent]:
        """The events of all steps; the messages of those that failed are said again when the process ends."""
        instance, run_id = plan_context.instance, plan_context.run_id
        with holding(instance, run_id), _looking_after(instance):
            for event in self.inner.execute(plan_context, execution_plan):
                if event.event_type == dg.DagsterEventType.STEP_FAILURE and event.step_key:
                    say_at_exit(f"{event.step_key} failed: {explanation(event.step_failure_data)}")
                yield event

    @property
    def retries(self) -> "RetryMode":
        """As the inner executor's."""
        return self.inner.retries

    @property
    def step_dependency_config(self) -> Any:
        """As the inner executor's."""
        return self.inner.step_dependency_config


@contextmanager
def _looking_after(instance: dg.DagsterInstance) -> Iterator[None]:
    """Ends killed runs now and every few seconds: one may be killed while its slot is waited for."""
    end_killed_runs(instance)
    over = threading.Event()

    def look() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            end_killed_runs(instance)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def preloaded(job: dg.JobDefinition) -> list[str]:
    """The modules that the assets of a job find imported; not those that one asset at most would use."""
    layer = job.asset_layer
    users = Counter(kind for key in layer.executable_asset_keys for kind in layer.asset_graph.get(key).kinds)
    return [*DEFINITIONS, *(module for kind, modules in LIBRARIES.items() if users[kind] > 1 for module in modules)]


@dg.executor(
    name="multiprocess",
    config_schema=dg.multiprocess_executor.config_schema.as_field(),
    requirements=dg.multiple_process_executor_requirements(),
)
def careful_multiprocess_executor(init_context: dg.InitExecutorContext) -> dg.Executor:
    """A process per asset; slots of killed runs are freed before the first one starts.

    Processes are forked from one that has imported what they need and used none of it, so that none waits for imports
    again. Each may use every processor: on two processors two of them at once are no sooner done than one after the
    other. So there is one at a time for each four processors, unless max_concurrent says otherwise.
    """
    given = {name: value for name, value in init_context.executor_config.items() if value is not None}
    config = {
        "start_method": {"forkserver": {"preload_modules": preloaded(init_context.job.get_definition())}},
        "max_concurrent": max(1, (os.cpu_count() or 1) // PROCESSORS_PER_ASSET),
        **given,
    }
    create = dg.multiprocess_executor.executor_creation_fn
    assert create is not None
    return CarefulExecutor(create(init_context._replace(executor_config=config)))


def kubernetes_executor() -> dg.ExecutorDefinition:
    """A pod per asset; Dagster's monitoring looks after runs and pods that are lost.

    Raises:
        SettingsError: the extra k8s is not installed.
    """
    try:
        from dagster_k8s import k8s_job_executor
    except ImportError as error:
        raise SettingsError(
            "orchestration.executor = kubernetes is not possible: install naics-pipeline[k8s] where the code is loaded."
        ) from error
    return k8s_job_executor


def pod_of_training(pod: Pod) -> dict[str, Any]:
    """Op tags by which a step that trains gets a pod of that size; nothing to the executor of one machine."""
    asked = {"cpu": pod.cpu, "memory": pod.memory}
    accelerator = {"nvidia.com/gpu": str(pod.gpus)} if pod.gpus else {}
    resources = {"requests": asked | accelerator, "limits": {"memory": pod.memory} | accelerator}
    # More than Kubernetes' default of 30 seconds: a step that is told to end still sends what it has.
    container: dict[str, Any] = {"resources": resources}
    spec: dict[str, Any] = {"termination_grace_period_seconds": 60}
    if pod.gpus > 1:
        # Through which the processes of several GPUs exchange vectors; a container has 64 MB of it.
        container["volume_mounts"] = [{"name": "shared-memory", "mount_path": "/dev/shm"}]
        spec["volumes"] = [{"name": "shared-memory", "empty_dir": {"medium": "Memory"}}]
    return {"dagster-k8s/config": {"container_config": container, "pod_spec_config": spec}}
