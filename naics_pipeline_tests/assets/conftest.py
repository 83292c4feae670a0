"""The assets that need no training, made once from the bundled sample."""

from pathlib import Path

import dagster as dg
import pytest

from naics_pipeline_tests import runs


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def data_run(data_dir: Path) -> dg.ExecuteInProcessResult:
    """The run that made everything up to the triplets."""
    result = runs.materialize('+key:"triplets" or key:"activity_phrases"', data_dir)
    assert result.success
    return result
