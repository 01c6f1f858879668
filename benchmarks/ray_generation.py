"""The sides of a measurement of the Ray runner: the same dataset locally and on its workers.

The local runner has all threads, each of the workers its share of them. Two figures a side: the
whole call, which for Ray holds the start of the workers (a Python with PyTorch each), and the rate
from the shard on with which every worker is at work, which is what a long run comes to.
"""

import statistics
import tempfile
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.generation_sides import Case
from deitsec.generation import Runner, generate
from deitsec.generation.local import RowTick, produce
from deitsec.generation.plan import Job
from deitsec.generation.ray_runner import RayRunner
from deitsec.generation.workload import Workload
from deitsec.shards import ShardEntry

LOCAL, RAY = "local runner", "Ray runner"


@dataclass(frozen=True)
class Timed:
    """A runner that notes when its shards are done."""

    runner: Runner
    done: list[tuple[float, int]] = field(default_factory=list)

    def __call__(
        self, work: Workload, jobs: Iterable[Job], folder: Path, tick: RowTick | None = None
    ) -> Generator[ShardEntry]:
        """Make the shards."""
        self.done.clear()
        for entry in self.runner(work, jobs, folder, tick):
            self.done.append((time.perf_counter(), entry.rows))
            yield entry

    def rate(self, workers: int) -> float:
        """Images per second from the shard on with which every worker is at work."""
        rows = sum(rows for _, rows in self.done[workers:])
        return rows / (self.done[-1][0] - self.done[workers - 1][0])


@dataclass(kw_only=True)
class RayRounds:
    """Makes one dataset by both runners in turn.

    Attributes:
        case: the dataset.
        workers: of Ray, which share the threads of this process.
        rounds: what each round found, by side.
        shards: the hashes of what each side made last.
    """

    case: Case
    workers: int
    rounds: list[dict[str, dict[str, float]]] = field(default_factory=list)
    shards: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Open the runners."""
        threads = max(1, torch.get_num_threads() // self.workers)
        ray = RayRunner(workers=self.workers, threads=threads)
        self._runners = {LOCAL: Timed(produce), RAY: Timed(ray)}

    def round(self) -> None:
        """Make it by each."""
        self.rounds.append({name: self._side(name) for name in self._runners})

    def medians(self, what: str) -> dict[str, float]:
        """Median of one figure over the rounds, by side."""
        return {
            name: statistics.median(found[name][what] for found in self.rounds)
            for name in self._runners
        }

    def _side(self, name: str) -> dict[str, float]:
        runner, case = self._runners[name], self.case
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            made: Any = generate(
                case.engine,
                case.attack,
                case.source,
                out=Path(folder) / "out",
                settings=case.settings,
                runner=runner,
            )
        seconds = time.perf_counter() - started
        self.shards[name] = [entry.sha256 for entry in made.shards]
        return {"seconds": seconds, "images_per_second": runner.rate(self.workers)}
