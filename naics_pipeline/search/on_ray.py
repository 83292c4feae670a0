"""Shards coded by Ray Data, on the machines of a cluster or on this one.

The rows that travel are shards, not texts: each call of the actor pool reads its shard, codes it and puts its output in
place by the same function as everywhere. To read the texts with `read_parquet` and to write them with `write_parquet`
would lose which file they are of: Ray Data cuts and joins files into blocks of a size of its own, names outputs after
them, and codes rows in other company, which changes the last digits. A shard would have to be gathered again, in
memory, and CSV rows that do not fit their header would be gone. So inputs, outputs and index lie where all machines see
them.
"""

import json
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from naics_pipeline.errors import NaicsError
from naics_pipeline.search.batch import LOST, Failure, Job, Outcome, Record, Shard, attempt
from naics_pipeline.search.processes import ATTEMPTS, thread_limits

_OBJECT_STORE_BYTES, _BLOCK_BYTES = 100_000_000, 1_000_000
"""Names and records are all that they hold."""


def on_ray(job: Job, shards: Sequence[Shard], workers: int) -> Generator[Outcome, None, None]:
    """As `in_processes`, by so many actors: of the cluster that RAY_ADDRESS names, else of this machine.

    Raises:
        NaicsError: Ray is not installed, there are fewer processors than actors, or the index cannot be loaded.
    """
    try:
        import ray
    except ImportError as error:
        raise NaicsError("--engine ray: Ray is not installed. Install naics-pipeline[ray].") from error
    workers = min(workers, len(shards))
    with _cluster(workers):
        processors = int(ray.cluster_resources().get("CPU", 0))
        if processors < workers:
            raise NaicsError(f"--workers {workers}: the Ray cluster has {processors} processors. Ask for fewer.")
        left = {shard.name: shard for shard in shards}
        try:
            for outcome in _outcomes(job, shards, workers, processors // workers):
                del left[outcome.shard]
                yield outcome
        except ray.exceptions.RayError as error:
            raise NaicsError(f"Ray: {str(error).strip().splitlines()[-1]} Run again: finished shards stay.") from error
        # What the actors did not bring back, Ray has dropped after its last attempt.
        yield from (Failure(name, LOST) for name in left)


def _outcomes(job: Job, shards: Sequence[Shard], workers: int, threads: int) -> Generator[Outcome, None, None]:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.max_errored_blocks = -1
    # Ray Data starts a task only where it could store a whole block of it.
    context.target_max_block_size = _BLOCK_BYTES
    rows = [{"name": shard.name, "file": str(shard.file)} for shard in shards]
    coded = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        ShardCoder,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=threads,
        max_task_retries=ATTEMPTS - 1,
        runtime_env={"env_vars": thread_limits(threads)},
    )
    for row in coded.iter_rows():
        said = json.loads(row["outcome"])
        yield Record(**said) if row["finished"] else Failure(**said)


class ShardCoder:
    """An actor: it loads the index once and codes one shard a call."""

    def __init__(self, job: Job) -> None:
        self.job, self.index = job, job.load()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """name and file of shards to what came of each, as JSON."""
        shards = [Shard(str(name), Path(file)) for name, file in zip(batch["name"], batch["file"], strict=True)]
        outcomes = [attempt(self.index, self.job, shard) for shard in shards]
        return {
            "outcome": np.array([json.dumps(asdict(outcome)) for outcome in outcomes]),
            "finished": np.array([isinstance(outcome, Record) for outcome in outcomes]),
        }


@contextmanager
def _cluster(workers: int) -> Iterator[None]:
    """The one that is connected to already, or one for as long as this lasts."""
    import ray

    if ray.is_initialized():
        yield
        return
    # Ray tells its makers how it is used, unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here: dict[str, Any] = {
        "address": "local",
        "num_cpus": max(workers, os.cpu_count() or 1),
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    try:
        ray.init(**({} if os.environ.get("RAY_ADDRESS") else here), log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        # Of whatever class: Ray raises plain exceptions.
        raise NaicsError(
            f"--engine ray: Ray does not start, or does not find its cluster ({error}). RAY_ADDRESS names a cluster; "
            "without it one is started here."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
