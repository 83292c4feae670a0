"""Which device a computation runs on."""

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
