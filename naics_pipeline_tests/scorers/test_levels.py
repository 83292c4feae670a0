"""A level's probability is the sum over its codes, merged sectors among them."""

import numpy as np
import pytest

from naics_pipeline.scorers.levels import Levels

CODES = np.array(["331110", "111110", "321111", "111120"])


def test_probabilities_of_the_codes_above_are_sums() -> None:
    levels = Levels.of(CODES)
    chances = np.array([[0.4, 0.3, 0.2, 0.1]])
    assert levels.codes[2].tolist() == ["11", "31"]
    assert levels.probabilities(chances, 2) == pytest.approx(np.array([[0.4, 0.6]]))
    assert levels.codes[3].tolist() == ["111", "321", "331"]
    assert levels.probabilities(chances, 3) == pytest.approx(np.array([[0.4, 0.2, 0.4]]))
    six = levels.probabilities(chances, 6)
    assert six[0, levels.above[6]] == pytest.approx(chances[0])
