"""Repeats a round of measurements, with pytest-benchmark looking on."""

from collections.abc import Callable
from dataclasses import dataclass

from pytest_benchmark.fixture import BenchmarkFixture


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """Does rounds; pytest-benchmark's own record has their times as they came.

    Attributes:
        benchmark: of the running test.
        rounds: how many are wanted.
    """

    benchmark: BenchmarkFixture
    rounds: int

    def __call__(self, work: Callable[[], None], *, done: int = 0, most: int | None = None) -> None:
        """Do the rounds that are missing, where `done` were and `most` may be."""
        left = (self.rounds if most is None else min(self.rounds, most)) - done
        if left > 0:
            self.benchmark.pedantic(work, rounds=left, iterations=1)
