"""The JSON files of metrics."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from naics_pipeline.errors import NaicsError
from naics_pipeline.files import replacing


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Writes nested metrics as JSON; NaN and infinity, which JSON does not know, become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain(metrics), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_metrics(path: Path) -> dict[str, Any]:
    """Reads what `write_metrics` wrote.

    Raises:
        NaicsError: there is no such file or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NaicsError(f"{path}: metrics cannot be read ({error}). Materialize the evaluation again.") from error


def plain(value: Any) -> Any:
    """The value with numpy numbers as Python's, tuples as lists, and numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
