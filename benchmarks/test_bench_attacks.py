"""PGD: deitsec's engine beside other libraries, tuned PyTorch and the bare model, interleaved."""

import functools

import pytest
import torch

from benchmarks.models import NETWORKS, QUICK
from benchmarks.pgd_measurement import held, measure
from benchmarks.pgd_sides import Engines, all_sides
from benchmarks.record import Record
from benchmarks.repeat import Repeat
from benchmarks.settings import Settings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# what says most comes first: a run may be cut off
ON_GPU = ("deit_small 224", "resnet50 224", "small_cnn 28", "deit_tiny 224", "resnet18 32")
ON_CPU = ("small_cnn 28", "resnet18 32", "deit_tiny 224", "resnet50 224", "deit_small 224")
ORDER = ON_GPU if DEVICE == "cuda" else ON_CPU
CASES = (
    [(QUICK.name, 2)]
    if Settings.found().quick
    else [(name, steps) for steps in (10, 40) for name in ORDER]
)


@functools.lru_cache(maxsize=1)
def engines(name: str) -> Engines:
    """The engines of a network; those of the last one, and what was compiled for it, are let go.

    What inductor made of a network stays in its cache on disk, so PGD-40 does not compile again.
    """
    torch.compiler.reset()
    return Engines({**NETWORKS, QUICK.name: QUICK}[name].subject(DEVICE))


@pytest.mark.parametrize(("name", "steps"), CASES, ids=lambda value: str(value).replace(" ", "-"))
def test_pgd(name: str, steps: int, record: Record, repeat: Repeat) -> None:
    """One network, one number of steps."""
    kept = engines(name)
    case = {"kind": "pgd", "network": name, "steps": steps, "device": DEVICE}
    row = measure(kept.subject, all_sides(kept, steps, DEVICE), repeat, case)
    record.add(row)
    held(row)
