"""What every benchmark here shares: the number of rounds and the bandwidth of a copy."""

import os

import pytest
import torch

from benchmarks.interleave import Interleaved, Side

COPY_BYTES = 1 << 28


@pytest.fixture(scope="session")
def rounds() -> int:
    """Interleaved rounds of each measurement."""
    return int(os.environ.get("DEITSEC_BENCHMARK_ROUNDS", "5"))


@pytest.fixture(scope="session")
def copy_bandwidth() -> float:
    """Bytes a second, read and written, of the best plain copy far larger than any cache."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = torch.rand(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    timing = Interleaved({"copy": Side(run=lambda: target.copy_(source))})
    for _ in range(11):
        timing.round()
    return 2 * COPY_BYTES / timing.medians()["copy"]
