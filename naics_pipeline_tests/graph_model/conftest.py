"""What the tests of refinement share."""

import pytest

from naics_pipeline.taxonomy.tree import Tree
from naics_pipeline_tests.graph_model.small import small_tree


@pytest.fixture(scope="module")
def tree() -> Tree:
    return small_tree()
