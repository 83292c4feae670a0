"""Memory that training has freed goes back to the system, and one seed gives one result."""

import ctypes
from pathlib import Path

import pytest
import torch

from naics_pipeline.text_model.device import give_back_memory, in_half, reproducible


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


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("precision", "device", "multiplies", "expected"),
    [
        ("auto", "cuda", False, True),
        ("auto", "mps", True, False),
        ("auto", "cpu", True, True),
        ("auto", "cpu", False, False),
        ("32-true", "cuda", True, False),
        ("bf16-mixed", "cpu", False, True),
    ],
)
def test_where_training_reads_in_half(precision, device, multiplies, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: multiplies)
    assert in_half(precision, torch.device(device)) is expected


def test_rows_taken_more_than_once_have_one_gradient(two_threads):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(50, 384, generator=generator, requires_grad=True)
    rows = torch.randint(50, (4000,), generator=generator)
    weights = torch.randn(4000, 384, generator=generator)

    def gradient() -> bytes:
        return torch.autograd.grad((table[rows] * weights).sum(), table)[0].numpy().tobytes()

    with reproducible():
        assert len({gradient() for _ in range(20)}) == 1
    assert not torch.are_deterministic_algorithms_enabled()
