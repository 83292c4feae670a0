"""Shards coded on one machine: in this process, or in several that load the index once each."""

import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from naics_pipeline.errors import NaicsError
from naics_pipeline.search.batch import LOST, Engine, Failure, Job, Outcome, Shard, attempt

ATTEMPTS = 2


def engine_of(workers: int) -> Engine:
    """In this process for one worker, else in so many others."""
    return in_this_process if workers == 1 else partial(in_processes, workers=workers)


def in_this_process(job: Job, shards: Sequence[Shard]) -> Generator[Outcome, None, None]:
    """One shard after another."""
    index = job.load()
    for shard in shards:
        yield attempt(index, job, shard)


def in_processes(job: Job, shards: Sequence[Shard], workers: int) -> Generator[Outcome, None, None]:
    """Shards of one machine, each by the next process that is free; together they take this one's threads.

    A process that ends in the middle of a shard, killed or for want of memory, is replaced, and the shard begun again
    where it stopped. One that has ended two processes is a failure.

    Raises:
        NaicsError: the index cannot be loaded.
    """
    workers = min(workers, len(shards))
    waiting, attempts = deque(shards), Counter[Shard]()
    threads = max(1, torch.get_num_threads() // workers)
    idle = [_Worker(job, threads) for _ in range(workers)]
    busy: dict[Connection, _Worker] = {}
    try:
        while waiting or busy:
            while idle and waiting:
                worker = idle.pop()
                worker.take(waiting.popleft())
                busy[worker.connection] = worker
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                worker = busy.pop(ready)
                shard, outcome = worker.shard, worker.outcome()
                if outcome is not None:
                    idle.append(worker)
                    yield outcome
                    continue
                worker.end()
                idle.append(_Worker(job, threads))
                attempts[shard] += 1
                if attempts[shard] < ATTEMPTS:
                    waiting.append(shard)
                else:
                    yield Failure(shard.name, LOST)
    finally:
        for worker in (*idle, *busy.values()):
            worker.end()


class _Worker:
    """A process that codes one shard at a time."""

    shard: Shard

    def __init__(self, job: Job, threads: int) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, job), daemon=True)
        with _environment(thread_limits(threads)):
            self.process.start()
        # Without this end of ours the pipe ends with the process.
        theirs.close()

    def take(self, shard: Shard) -> None:
        self.shard = shard
        try:
            self.connection.send(shard)
        except OSError:
            # It has ended: there will be no outcome, which is how that is known.
            return

    def outcome(self) -> Outcome | None:
        """What came of the shard; None: the process has ended.

        Raises:
            NaicsError: the process could not begin.
        """
        try:
            said: Outcome | NaicsError = self.connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(said, NaicsError):
            raise said
        return said

    def end(self) -> None:
        self.connection.close()
        # At once: what it has written is whole, and what it is at will be begun again.
        self.process.kill()
        self.process.join()


def _work(connection: Connection, job: Job) -> None:
    # An interrupt of the terminal reaches all its processes; the one that was started there ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        index = job.load()
        while True:
            connection.send(attempt(index, job, connection.recv()))
    except NaicsError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError):
        # Nobody asks any more.
        return


def _end_with_parent() -> None:
    """A killed run leaves nobody behind who writes beside the next one."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def thread_limits(threads: int) -> dict[str, str]:
    """Variables that keep a process to so many threads: of OpenMP, OpenBLAS, Polars and the tokenizer."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """For processes that begin in it: libraries count their threads when they are imported."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
