"""Which device a computation runs on."""

import ctypes

import torch

from naics_pipeline.errors import SettingsError


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


def give_back_memory() -> None:
    """Returns to the system what was freed, where the C library (glibc) would keep it.

    Blocks of ever other sizes leave holes that no later block fits: a stage of hours holds twice what it needs.
    """
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
