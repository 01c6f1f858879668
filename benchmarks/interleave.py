"""Times several ways of doing one thing, turn by turn, so that a slow moment hits them all."""

import contextlib
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.settings import Settings
from deitsec import ops

BLOCK_SECONDS = 2e-3
DISTURBED = 0.02  # of the time, waiting for a core that another process holds
PATIENCE = 60.0  # seconds that one measurement may spend on being disturbed
PAUSE = 0.05


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way of doing it.

    Attributes:
        run: does it once.
        backend: the deitsec backend that is forced meanwhile, if any.
    """

    run: Callable[[], Any]
    backend: str | None = None

    def forced(self) -> AbstractContextManager[None]:
        """Force the backend, outside of what is timed."""
        return ops.use(self.backend) if self.backend else nullcontext()

    def seconds(self, calls: int) -> float:
        """Time of one call, from a block of them."""
        return self.block(calls)[0]

    def block(self, calls: int) -> tuple[float, bool]:
        """Time of one call, and whether other processes held back the block."""
        with self.forced():
            synchronize()
            waited, start = seconds_waited(), time.perf_counter()
            for _ in range(calls):
                self.run()
            synchronize()
            took = time.perf_counter() - start
            return took / calls, seconds_waited() - waited > DISTURBED * took


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_waited() -> float:
    """How long the threads of this process were ready to run and had no core, by Linux's count."""
    total = 0
    for thread in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # the thread has ended
            total += int(thread.read_text().split()[1])
    return total / 1e9


class Interleaved:
    """Rounds over all sides; each side's calls fill at least `BLOCK_SECONDS`.

    A block during which other processes took the cores is measured again, whichever side it is of:
    one descheduled thread holds up every parallel region, eager PyTorch's most of all.
    """

    def __init__(self, sides: dict[str, Side], *, calls: int | None = None) -> None:
        """Warm every side up, unless its calls in a block are given: then it is warm already."""
        self.sides = sides
        self.times: dict[str, list[float]] = {name: [] for name in sides}
        self.disturbed = 0
        self.patience = 0.0 if Settings.found().quick else PATIENCE
        if calls is not None:
            self.calls = dict.fromkeys(sides, calls)
            return
        for side in sides.values():
            side.seconds(2)  # compile, load, touch the memory
        self.calls = {
            name: max(1, round(BLOCK_SECONDS / side.seconds(3))) for name, side in sides.items()
        }

    def round(self) -> None:
        """Time every side once."""
        for name, side in self.sides.items():
            took, disturbed = side.block(self.calls[name])
            while disturbed and self.patience > 0:
                time.sleep(PAUSE)
                self.patience -= PAUSE + took * self.calls[name]
                took, disturbed = side.block(self.calls[name])
            self.disturbed += disturbed
            self.times[name].append(took)

    def medians(self) -> dict[str, float]:
        """Median seconds of each side."""
        return {name: statistics.median(times) for name, times in self.times.items()}
