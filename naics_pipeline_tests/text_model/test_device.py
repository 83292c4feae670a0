"""Memory that training has freed goes back to the system."""

import ctypes
from pathlib import Path

import pytest

from naics_pipeline.text_model.device import give_back_memory


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_holes_between_what_is_kept_are_given_back():
    size, count = 60_000, 2000
    blocks = [bytearray(size) for _ in range(count)]
    kept = blocks[::2]
    del blocks
    before = resident()
    give_back_memory()
    assert before - resident() > 0.8 * size * (count - len(kept))
