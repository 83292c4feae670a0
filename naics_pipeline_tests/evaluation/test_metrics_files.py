"""Metrics survive JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from naics_pipeline.errors import NaicsError
from naics_pipeline.evaluation.metrics_files import read_metrics, write_metrics

NAN = float("nan")


def test_metrics_survive_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    values = {"a": np.float64(0.5), "b": NAN, "c": np.inf, "collapse": np.bool_(False), "rows": [{"n": np.int64(3)}]}
    write_metrics(path, values)
    assert read_metrics(path) == {"a": 0.5, "b": None, "c": None, "collapse": False, "rows": [{"n": 3}]}
    assert "NaN" not in path.read_text()
    assert json.loads(path.read_text())["a"] == 0.5
    path.write_text("{")
    with pytest.raises(NaicsError, match=r"metrics\.json"):
        read_metrics(path)
