"""A process per asset, and an accelerator that a killed run does not keep for ever.

Dagster frees the slots of a pool when a run ends. A run that was killed never does, and the next one would wait in
silence. So a run holds a lock that dies with its processes, and a run that starts first ends those that lost theirs.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from dagster._core.execution.context.system import PlanOrchestrationContext
    from dagster._core.execution.plan.plan import ExecutionPlan
    from dagster._core.execution.retries import RetryMode

PROCESSORS_PER_ASSET = 4


@contextmanager
def holding(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Says that the run is alive, for as long as the process lives and the body runs; several processes may say so."""
    path = _lock(instance, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def end_killed_runs(instance: dg.DagsterInstance) -> None:
    """Marks runs as failed that hold slots of a pool and of which no process is left; frees their slots."""
    for run_id in instance.event_log_storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            if not _was_killed(instance, run_id):
                continue
            instance.report_run_failed(run, "The process of this run was killed. Run it again: training goes on.")
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)
        _lock(instance, run_id).unlink(missing_ok=True)


def _lock(instance: dg.DagsterInstance, run_id: str) -> Path:
    return Path(instance.storage_directory()) / "running" / run_id


def _was_killed(instance: dg.DagsterInstance, run_id: str) -> bool:
    path = _lock(instance, run_id)
    if not path.exists():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


class CarefulExecutor(dg.Executor):
    """Dagster's executor, which first ends runs that were killed and then holds the lock of its own."""

    def __init__(self, inner: dg.Executor) -> None:
        self.inner = inner

    def execute(
        self, plan_context: "PlanOrchestrationContext", execution_plan: "ExecutionPlan"
    ) -> Iterator[dg.DagsterEvent]:
        """The events of all steps."""
        instance, run_id = plan_context.instance, plan_context.run_id
        with holding(instance, run_id):
            end_killed_runs(instance)
            yield from self.inner.execute(plan_context, execution_plan)
        _lock(instance, run_id).unlink(missing_ok=True)

    @property
    def retries(self) -> "RetryMode":
        """As the inner executor's."""
        return self.inner.retries

    @property
    def step_dependency_config(self) -> Any:
        """As the inner executor's."""
        return self.inner.step_dependency_config


@dg.executor(
    name="multiprocess",
    config_schema=dg.multiprocess_executor.config_schema.as_field(),
    requirements=dg.multiple_process_executor_requirements(),
)
def careful_multiprocess_executor(init_context: dg.InitExecutorContext) -> dg.Executor:
    """A process per asset; slots of killed runs are freed before the first one starts.

    Processes are forked from one that has imported Dagster, and nothing with threads: that takes half as long. Each
    may use every processor, and two that do so on two processors slow one another down fivefold; so there is one at a
    time for each four processors, unless max_concurrent says otherwise.
    """
    given = {name: value for name, value in init_context.executor_config.items() if value is not None}
    config = {
        "start_method": {"forkserver": {"preload_modules": ["dagster"]}},
        "max_concurrent": max(1, (os.cpu_count() or 1) // PROCESSORS_PER_ASSET),
        **given,
    }
    create = dg.multiprocess_executor.executor_creation_fn
    assert create is not None
    return CarefulExecutor(create(init_context._replace(executor_config=config)))
