"""Several processes that train one stage: each reads a share of a batch's texts, and all of them score the whole batch.

Reading is what a step costs; scoring is cheap, and a loss over the whole batch is the same loss however many read it.
Without a process group every function here is that of a single process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """How many processes take part."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this one."""
    return dist.get_rank() if world() > 1 else 0


def leads() -> bool:
    """Whether this is the one that writes files, logs and messages."""
    return rank() == 0


def own_share(count: int) -> np.ndarray:
    """Which of so many rows this process reads: every `world`-th, so that rows sorted by length make equal shares."""
    return np.arange(rank(), count, world())


def joined(own: Tensor, count: int) -> Tensor:
    """What all processes have read, (count, width), with a gradient in this one's share.

    Every process computes the same loss of it, so that none needs another's gradient: each takes that of its own rows,
    `world` times, since the mean over processes, which is taken of all gradients, divides it by as much.

    Args:
        own: (n, width) vectors of the rows of `own_share`.
        count: rows of all processes.
    """
    if world() == 1:
        return own
    rows = torch.from_numpy(own_share(count)).to(own.device)
    whole = own.new_zeros(count, own.shape[1]).index_copy(0, rows, own.detach())
    dist.all_reduce(whole)
    if own.requires_grad:
        own.register_hook(lambda gradient: world() * gradient)
    return whole.index_copy(0, rows, own)


def of_leader(value: Tensor) -> Tensor:
    """The first process's value of a tensor that all have computed: no rounding of one's own decides what is drawn."""
    if world() > 1:
        value = value.contiguous()
        dist.broadcast(value, 0)
    return value


def told(value: Any) -> Any:
    """What the first process says, to all of them."""
    if world() == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, 0)
    return said[0]


@contextmanager
def leader_first() -> Iterator[None]:
    """The first process runs the body, then the others do: they find the files that it has made."""
    if not leads():
        dist.barrier()
    yield
    if leads() and world() > 1:
        dist.barrier()


@contextmanager
def own_dropout(generator: torch.Generator) -> Iterator[None]:
    """Inside, each process draws numbers of its own; outside all draw the same.

    Args:
        generator: in the same state everywhere.
    """
    if world() == 1:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator))
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed + rank())
        yield
