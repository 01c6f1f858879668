"""`deitsec generate` on Ray against the local runner, on the same cores.

`python -m benchmarks.ray_generation --out FILE` writes the rates of both as JSON. The local runner
has all threads, each of the workers its share of them. Two figures a side: the whole call, which
for Ray holds the start of the workers (a Python with PyTorch each), and from the shard on with
which every worker is at work. The second is what a long run comes to, and what the target is about.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.trained import UNDEFENDED, find_source, small_network
from deitsec.attacks import PGD
from deitsec.engine import Engine
from deitsec.environment import environment
from deitsec.generation import Runner, Settings, generate
from deitsec.generation.local import RowTick, produce
from deitsec.generation.plan import Job
from deitsec.generation.ray_runner import ray_runner
from deitsec.generation.workload import Workload
from deitsec.shards import ShardEntry

LOCAL, RAY = "local runner", "Ray runner"
TARGET = 0.9
# Before it was measured: two processes of one thread each wait for nobody between the kernels of a
# small network, which two threads of one process do; the driver and Ray's own processes take a few
# percent of a core. The start of the workers costs some 5 s of the whole call.
PREDICTED = 1.05


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


def main() -> None:
    """Measure both in turn, and print or write what came of it."""
    args = arguments()
    threads = args.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    source = find_source()
    engine = Engine(small_network(UNDEFENDED, source, "cpu"), batch_size=256)
    runners = {
        LOCAL: Timed(produce),
        RAY: Timed(
            ray_runner(workers=args.workers, threads=max(1, threads // args.workers)),
        ),
    }
    settings = Settings(rows=args.rows, shard_rows=args.shard_rows)
    rounds: list[dict[str, Any]] = []
    shards: dict[str, list[str]] = {}
    for _ in range(args.rounds):
        found: dict[str, Any] = {}
        for name, runner in runners.items():
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                attack, out = PGD(eps=0.1, steps=10), Path(folder) / "out"
                made = generate(engine, attack, source, out=out, settings=settings, runner=runner)
            seconds = time.perf_counter() - started
            shards[name] = [entry.sha256 for entry in made.shards]
            found[name] = {"seconds": seconds, "images_per_second": runner.rate(args.workers)}
        rounds.append(found)
    shares = [
        found[RAY]["images_per_second"] / found[LOCAL]["images_per_second"] for found in rounds
    ]
    document = {
        "case": "small_cnn 28, PGD-10",
        "rows": args.rows,
        "shard_rows": args.shard_rows,
        "workers": args.workers,
        "threads": threads,
        "environment": environment(),
        "rounds": rounds,
        "same_bytes": shards[LOCAL] == shards[RAY],
        "share": statistics.median(shares),
        "share_of_the_whole_call": statistics.median(
            found[LOCAL]["seconds"] / found[RAY]["seconds"] for found in rounds
        ),
        "target": TARGET,
        "predicted": PREDICTED,
    }
    text = json.dumps(document, indent=1) + "\n"
    print(text)
    if args.out is not None:
        args.out.write_text(text)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray_generation")
    parser.add_argument("--rows", type=int, default=49_152)
    parser.add_argument("--shard-rows", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, help="of all workers together; default: all cores")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
