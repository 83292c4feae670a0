"""Which device a computation runs on."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from naics_pipeline.errors import SettingsError
from naics_pipeline.settings import TrainingPrecision


def resolve(accelerator: str) -> torch.device:
    """The device of `auto | cuda | mps | cpu`; auto takes the best one there is.

    Raises:
        SettingsError: the accelerator asked for by name is not present.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name, there in present.items() if there))
    if not present[accelerator]:
        raise SettingsError(
            f"accelerator: '{accelerator}' is not present on this machine. Set accelerator to auto or cpu."
        )
    return torch.device(accelerator)


def in_half(precision: TrainingPrecision, device: torch.device) -> bool:
    """Whether the transformer trains in bfloat16 by `auto | 32-true | bf16-mixed`; auto: where products gain by it."""
    return halves_pay(device) if precision == "auto" else precision == "bf16-mixed"


def halves_pay(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32: CUDA, and a CPU with AVX-512 BF16."""
    return device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())


def give_back_memory() -> None:
    """Returns to the system what was freed, where the C library (glibc) would keep it.

    Blocks of ever other sizes leave holes that no later block fits: a stage of hours holds twice what it needs.
    """
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


@contextmanager
def reproducible() -> Iterator[None]:
    """One seed, one result: inside, no sum is left to the order in which threads happen to come by.

    The gradient of rows that are taken more than once is such a sum: on several cores the same seed parts in the last
    bit of a step, and by whole points of accuracy in the end. An operation that has no other way warns.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    # Read by cuBLAS when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
