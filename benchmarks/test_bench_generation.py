"""Adversarial datasets: what all but the attack costs, the memory of long runs, planning."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.generation_costs import measured
from benchmarks.generation_sides import ATTACK, GENERATE, Case, sides
from benchmarks.interleave import Interleaved, Side
from benchmarks.ray_generation import LOCAL, RAY, RayRounds
from benchmarks.record import Record
from benchmarks.repeat import Repeat
from benchmarks.settings import Settings
from benchmarks.trained import UNDEFENDED, find_source, small_network
from deitsec.attacks import FGSM, PGD
from deitsec.attacks.attack import Attack
from deitsec.data import DataSource
from deitsec.data.array_set import ArrayImageSet
from deitsec.engine import Engine
from deitsec.models import load_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
QUICK = Settings.found().quick
MB = 1_000_000


def small(attack: Attack, shards: int, size: int = 4096) -> Case:
    """The small network on MNIST, shards of the usual size or another."""
    source = find_source()
    size = 64 if QUICK else size
    return Case(
        engine=Engine(small_network(UNDEFENDED, source, DEVICE), batch_size=min(256, size)),
        attack=attack,
        source=source,
        rows=shards * size,
        shard_rows=size,
    )


def transformer() -> Case:
    """DeiT-tiny with random weights on random images: what it costs does not hang on them."""
    torch.manual_seed(0)
    side, rows = (32, 4) if QUICK else (224, 48)
    name = "deit_micro" if QUICK else "deit_tiny_patch16_224"
    model = load_model(name, num_classes=10, in_chans=3).to(DEVICE).eval()
    images = torch.randint(0, 256, (rows, 3, side, side), dtype=torch.uint8)
    split = ArrayImageSet(pixels=images, labels=torch.arange(rows) % 10)
    names = tuple(map(str, range(10)))
    source = DataSource(uri="random", name="random", train=None, test=split, class_names=names)
    return Case(
        engine=Engine(model, batch_size=rows // 3 if rows > 4 else 2, stop="never"),
        attack=PGD(eps=8 / 255, steps=10),
        source=source,
        rows=rows,
        shard_rows=rows // 3 if rows > 4 else 2,
    )


# the case, the share promised, and the share predicted before it was measured
CASES: dict[str, tuple[Callable[[], Case], float, float]] = {
    "small_cnn 28, PGD-10": (
        lambda: small(PGD(eps=0.1, steps=10), 4),
        0.95,
        0.96,  # about 8 passes over the values of an image, beside 10 gradients of 100 each
    ),
    "deit_tiny 224, PGD-10": (transformer, 0.95, 0.99),
    "small_cnn 28, FGSM": (
        lambda: small(FGSM(eps=0.1), 2),
        0.80,
        0.82,
    ),  # it draws nothing: each row once
}


@pytest.mark.parametrize("case", CASES)
def test_share_of_the_attack(case: str, record: Record, repeat: Repeat) -> None:
    """One dataset: its rate from end to end, over the rate of the attack alone."""
    make, promised, predicted = CASES[case]
    subject = make()
    runs = sides(subject)
    for run in runs.values():
        run()
    timing = Interleaved({name: Side(run=run) for name, run in runs.items()}, calls=1)
    repeat(timing.round)
    medians = timing.medians()
    share = medians[ATTACK] / medians[GENERATE]
    record.add(
        {
            "kind": "generation",
            "case": case,
            "device": DEVICE,
            "dataset_rows": subject.rows,
            "shard_rows": subject.shard_rows,
            "batch": subject.engine.batch_size,
            "images_per_second": {name: subject.rows / time for name, time in medians.items()},
            "seconds": medians,
            "rounds": timing.times,
            "disturbed": timing.disturbed,
            "targets": [_at_least("share of the attack's rate", promised, share, predicted)],
        }
    )


def test_ray_runner(record: Record, repeat: Repeat) -> None:
    """Two workers of Ray on the cores that the local runner has: its rate, and the same bytes."""
    pytest.importorskip("ray")
    subject = small(PGD(eps=0.1, steps=10), 4 if QUICK else 12, 2048)
    timing = RayRounds(case=subject, workers=2)
    repeat(timing.round)
    rates, seconds = timing.medians("images_per_second"), timing.medians("seconds")
    # predicted: two processes of one thread wait for nobody between a small network's kernels, as
    # two threads of one process do; Ray's own processes take a few percent of a core
    target = _at_least("share of the local runner's rate", 0.9, rates[RAY] / rates[LOCAL], 1.05)
    record.add(
        {
            "kind": "generation runners",
            "case": "small_cnn 28, PGD-10, Ray with 2 workers",
            "device": DEVICE,
            "dataset_rows": subject.rows,
            "shard_rows": subject.shard_rows,
            "images_per_second": rates,
            "seconds": seconds,
            "rounds": timing.rounds,
            "same_bytes": timing.shards[LOCAL] == timing.shards[RAY],
            "targets": [target],
        }
    )


def test_memory_of_long_runs(record: Record) -> None:
    """Twenty times the rows, each run in a process of its own."""
    few, many = (200, 2000) if QUICK else (10_000, 200_000)
    found = {rows: measured("memory", rows) for rows in (few, many)}
    grown = found[many]["peak_bytes"] - found[few]["peak_bytes"]
    record.add(
        {
            "kind": "generation memory",
            "case": "RFGSM, small_cnn 28",
            "found": list(found.values()),
            "targets": [_at_most(f"MB more from {few:,} to {many:,} rows", 200, grown / MB, 40)],
        }
    )


def test_planning(record: Record) -> None:
    """A tenth of the rows, and all of them: seconds, memory, and whether it grows linearly."""
    most = 100_000 if QUICK else 100_000_000
    tenth, whole = (measured("planning", rows) for rows in (most // 10, most))
    ratio = whole["seconds"] / tenth["seconds"]
    record.add(
        {
            "kind": "generation planning",
            "case": f"{most:,} rows",
            "found": [tenth, whole],
            "targets": [
                _at_most(f"seconds to plan {most:,} rows", 5, whole["seconds"], 0.3),
                _at_most(f"MB to plan {most:,} rows", 200, whole["grown_bytes"] / MB, 10),
                _at_most("times the seconds of a tenth of the rows", 12, ratio, 2),
            ],
        }
    )


def _at_least(what: str, limit: float, found: float, predicted: float) -> dict[str, object]:
    return {**_target(what, limit, found, predicted), "sign": ">=", "met": found >= limit}


def _at_most(what: str, limit: float, found: float, predicted: float) -> dict[str, object]:
    return {**_target(what, limit, found, predicted), "sign": "<=", "met": found <= limit}


def _target(what: str, limit: float, found: float, predicted: float) -> dict[str, object]:
    return {"what": what, "limit": limit, "measured": found, "predicted": predicted}
