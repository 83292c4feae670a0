"""Only runs of which no process is left lose their place in the pool."""

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob

from naics_pipeline import executor


@pytest.fixture
def instance(tmp_path):
    with dg.instance_for_test(
        temp_dir=str(tmp_path), overrides={"concurrency": {"pools": {"default_limit": 1}}}
    ) as instance:
        yield instance


def started_run(instance: dg.DagsterInstance) -> str:
    """A run that has begun and holds the only slot."""
    run = instance.create_run_for_job(dg.Definitions(jobs=[nothing]).resolve_job_def("nothing"))
    instance.report_engine_event("started", run)
    instance.event_log_storage.initialize_concurrency_limit_to_default("gpu")
    assert instance.event_log_storage.claim_concurrency_slot("gpu", run.run_id, "step").is_claimed
    return run.run_id


@dg.job
def nothing():
    pass


def holders(instance: dg.DagsterInstance) -> list[str]:
    return [slot.run_id for slot in instance.event_log_storage.get_concurrency_info("gpu").claimed_slots]


def test_a_run_that_is_alive_keeps_its_slot(instance):
    run_id = started_run(instance)
    with executor.holding(instance, run_id):
        executor.end_killed_runs(instance)
        assert holders(instance) == [run_id]


def test_a_run_that_was_killed_fails_and_gives_its_slot_back(instance):
    run_id = started_run(instance)
    with executor.holding(instance, run_id):
        pass
    executor.end_killed_runs(instance)
    assert holders(instance) == []
    assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.FAILURE


def test_a_run_of_another_machine_is_left_alone(instance):
    """It holds no lock here that could have been lost."""
    run_id = started_run(instance)
    executor.end_killed_runs(instance)
    assert holders(instance) == [run_id]


def test_a_process_of_the_run_that_lives_on_counts(instance):
    run_id = started_run(instance)
    with executor.holding(instance, run_id), executor.holding(instance, run_id):
        executor.end_killed_runs(instance)
        assert holders(instance) == [run_id]


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
