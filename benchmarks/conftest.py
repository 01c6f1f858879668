"""What every benchmark here shares: its settings, its result file, the bandwidth of a copy."""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.environment import describe
from benchmarks.interleave import Interleaved, Side
from benchmarks.record import Record
from benchmarks.repeat import Repeat
from benchmarks.settings import Settings


@pytest.fixture(scope="session")
def settings() -> Settings:
    """How much to measure."""
    return Settings.found()


@pytest.fixture
def repeat(settings: Settings, benchmark: BenchmarkFixture) -> Repeat:
    """Does the interleaved rounds of a measurement."""
    return Repeat(benchmark=benchmark, rounds=settings.rounds)


@pytest.fixture(scope="session")
def record(settings: Settings) -> Record:
    """Where a measurement leaves its row."""
    facts = {**describe(settings.rounds), "quick": settings.quick}
    return Record(settings.out, facts, keep=settings.keep)


@pytest.fixture(scope="session")
def copy_bandwidth(settings: Settings) -> float:
    """Bytes a second, read and written, of the best plain copy far larger than any cache."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 1 << (20 if settings.quick else 28)
    source = torch.rand(size // 4, device=device)
    target = torch.empty_like(source)
    timing = Interleaved({"copy": Side(run=lambda: target.copy_(source))})
    for _ in range(11):
        timing.round()
    return 2 * size / timing.medians()["copy"]
