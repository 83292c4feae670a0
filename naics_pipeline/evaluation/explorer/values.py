"""Values as JSON takes them."""

from typing import Any

import numpy as np


def numbers(values: np.ndarray, digits: int) -> list[float | int | None]:
    """Rounded, whole numbers as such, what is not finite as None."""
    return [number(value, digits) for value in np.asarray(values, dtype=np.float64).tolist()]


def number(value: float, digits: int) -> float | int | None:
    """As `numbers`."""
    if not np.isfinite(value):
        return None
    rounded = round(value, digits)
    return int(rounded) if rounded == int(rounded) else rounded


def column(name: str, label: str, values: np.ndarray, digits: int) -> dict[str, Any]:
    """A column of numbers to colour by, a value for each code."""
    return {"name": name, "label": label, "kind": "number", "values": numbers(values, digits)}
