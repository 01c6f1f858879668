"""Measures the sides of one PGD case: the gate first, then the rounds, then the row."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.engines import FLOOR_SIDE
from benchmarks.floor import frozen, model_floor
from benchmarks.gate import Gate, judge
from benchmarks.interleave import Interleaved, Side, synchronize
from benchmarks.models import Subject
from benchmarks.pgd_sides import PGDSide, Sides, adversarial, facts_of
from benchmarks.repeat import Repeat
from deitsec.engine import AttackResult
from deitsec.engine.precision import full_fp32

LONG_ROUND = 60.0  # seconds; longer ones are measured less often, so that all take this much:
LONG_CASE = 300.0
WARM_TWICE = 5.0  # seconds of a first run under which a second one is worth its time
FLOOR = "model floor"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """The run at the gate of every side.

    Attributes:
        sides: what ran.
        results: what they came to.
        failed: the others, and their error.
    """

    sides: dict[str, PGDSide]
    results: dict[str, Any]
    failed: dict[str, str] = field(default_factory=dict[str, str])


def measure(
    subject: Subject, sides: Sides, repeat: Repeat, case: Mapping[str, Any], *, floor: bool = True
) -> dict[str, Any]:
    """The row of one case; without times where the gate failed.

    Args:
        subject: network, images, radius.
        sides: what is measured.
        repeat: does interleaved rounds, as many as are wanted or fewer.
        case: what names the row.
        floor: whether the model alone is a side too.
    """
    tried = try_all(sides)
    with full_fp32():
        gate = judge(
            subject.model,
            subject.images,
            subject.labels,
            subject.eps,
            {name: adversarial(result) for name, result in tried.results.items()},
        )
    row = {
        **case,
        "batch": len(subject.images),
        "eps": subject.eps,
        "weights": subject.weights,
        "noise_success": subject.noise_success,
        "missing": sides.missing,
        "failed": tried.failed,
        "gate": gate.as_json(),
        "sides": sides_of(tried, gate),
    }
    if gate.passed:
        timing = time_all(subject, tried, repeat, floor=floor)
        add_times(row, timing, repeat.rounds)
    return row


def try_all(sides: Sides) -> Tried:
    """Run every side once or twice; an error of one is kept and loses only that one."""
    tried = Tried(sides={}, results={})
    for name, side in sides.ready.items():
        torch.manual_seed(0)
        try:
            start = time.perf_counter()
            result = side.run()
            synchronize()
            # ours compiles and measures layouts in the first
            if side.engine is not None or time.perf_counter() - start < WARM_TWICE:
                result = side.run()
        except Exception as error:  # whatever a library or a compiler raises
            tried.failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            continue
        tried.sides[name], tried.results[name] = side, result
    return tried


def sides_of(tried: Tried, gate: Gate) -> dict[str, dict[str, Any]]:
    """Each side's facts and success."""
    return {
        name: {"success": gate.success[name], **facts_of(side, tried.results[name])}
        for name, side in tried.sides.items()
    }


def time_all(subject: Subject, tried: Tried, repeat: Repeat, *, floor: bool) -> Interleaved:
    """Interleaved rounds over the sides, and over the floor under ours in fp32."""
    timed = {name: Side(run=side.run) for name, side in tried.sides.items()}
    ours = tried.results.get(FLOOR_SIDE)
    if floor and isinstance(ours, AttackResult):
        forwards, backwards = (
            int(queries.max()) for queries in (ours.queries.forward, ours.queries.backward)
        )
        run = model_floor(frozen(subject.model), subject.images, forwards, backwards)
        run()
        timed[FLOOR] = Side(run=run)
    timing = Interleaved(timed, calls=1)
    if subject.images.is_cuda:
        timing.patience = 0.0  # the GPU is not shared, and its machine is lent for minutes
    start = time.perf_counter()
    timing.round()
    took = time.perf_counter() - start
    most = max(1, int(LONG_CASE / took)) if took > LONG_ROUND else repeat.rounds
    repeat(timing.round, done=1, most=most)
    return timing


def add_times(row: dict[str, Any], timing: Interleaved, wanted: int) -> None:
    """Seconds, images a second, and the engine's overhead over the floor."""
    medians = timing.medians()
    for name, seconds in medians.items():
        side = row["sides"].setdefault(name, {"precision": "fp32"})
        side["seconds"] = seconds
        side["images_per_second"] = row["batch"] / seconds
    row["times"] = timing.times
    row["rounds"], row["rounds_wanted"] = len(next(iter(timing.times.values()))), wanted
    row["disturbed"] = timing.disturbed
    if FLOOR in medians:
        row["overhead"] = medians[FLOOR_SIDE] / medians[FLOOR] - 1


def held(row: Mapping[str, Any]) -> None:
    """Fail the test of a row whose gate did not hold, or where a side of ours broke."""
    assert row["gate"]["passed"], f"no speed is reported: {row['gate']['faults']}"
    broken = {name: why for name, why in row["failed"].items() if name.startswith("deitsec")}
    assert not broken, broken
