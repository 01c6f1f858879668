"""The ops: eager PyTorch, torch.compile and every backend that runs here, interleaved."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from benchmarks.cases import Case, headline, sweep, targets
from benchmarks.interleave import Interleaved, Side
from benchmarks.parity import assert_parity, widened
from benchmarks.record import Record
from benchmarks.repeat import Repeat
from benchmarks.settings import Settings
from deitsec import ops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def backends(op: str) -> list[str]:
    """The backends of an op that run on this device."""
    declared = ops.list_ops()[op].backends
    return [b.name for b in declared if b.device == DEVICE and b.missing() is None]


def check_parity(case: Case, backend: str, inputs: tuple[Any, ...]) -> None:
    """Hold one backend to its meaning, at the shape that is timed."""
    subject = case.subject
    exact = subject.exact(*widened(inputs))
    # where the baseline draws other numbers, the reference in this dtype stands in
    plain = subject.exact if subject.draws else subject.plain
    expected = plain(*copy.deepcopy(inputs))
    with ops.use(backend):
        found = subject.fused(*copy.deepcopy(inputs))
    if subject.op == "cross_entropy_loss":  # PyTorch's gradient cancels; ours is held to fp64 alone
        assert_parity(found[1], torch.zeros_like(found[1]), exact[1])
        found, expected, exact = found[::2], expected[::2], exact[::2]
    assert_parity(found, expected, exact)


def chosen(cases: Iterable[Case]) -> list[Case]:
    """All of them, or the few small ones of a quick run."""
    if not Settings.found().quick:
        return list(cases)
    return [case for case in cases if math.prod(case.shape) <= 1000 and not case.compiled]


def measure(kind: str, case: Case, record: Record, copy_bandwidth: float, repeat: Repeat) -> None:
    """Time all sides, and leave the row in the record."""
    torch.manual_seed(0)
    subject = case.subject
    inputs = subject.make(case.shape, case.dtype, DEVICE)
    names = backends(subject.registered or subject.op)
    if not names:
        pytest.skip(f"{subject.op} has no backend on {DEVICE} here")
    for name in names:
        check_parity(case, name, inputs)
    sides = {"eager": Side(run=lambda: subject.plain(*inputs))}
    if case.written:
        sides["written"] = Side(run=lambda: subject.exact(*inputs))
    if case.compiled:
        compiled = subject.compiled()
        sides["compile"] = Side(run=lambda: compiled(*inputs))
    for name in names:
        sides[name] = Side(run=lambda: subject.fused(*inputs), backend=name)
    timing = Interleaved(sides)
    repeat(timing.round)
    record.add({"kind": kind, **row(case, inputs, timing, copy_bandwidth)})


def row(
    case: Case, inputs: tuple[Any, ...], timing: Interleaved, copy_bandwidth: float
) -> dict[str, Any]:
    """What is written down of one case."""
    element = inputs[0]
    op = ops.list_ops()[case.subject.registered or case.subject.op]
    assert op.bytes_moved is not None
    if case.subject.moved is not None:
        moved = case.subject.moved * element.numel() * element.element_size()
    else:
        moved = op.bytes_moved(*inputs, *_defaults(case.subject.op))
    medians = timing.medians()
    wanted = {key: ratio for key, ratio in targets().items() if key[0] == str(case)}
    return {
        "case": str(case),
        "op": case.subject.op,
        "shape": list(case.shape),
        "dtype": str(case.dtype).removeprefix("torch."),
        "device": DEVICE,
        "bytes": moved,
        "copy_bandwidth": copy_bandwidth,
        "predicted_seconds": moved / copy_bandwidth,
        "predicted_ratio": case.subject.passes * element.numel() * element.element_size() / moved,
        "seconds": medians,
        "bandwidth": {side: moved / seconds for side, seconds in medians.items()},
        "fraction_of_copy": {
            side: moved / seconds / copy_bandwidth for side, seconds in medians.items()
        },
        "rounds": timing.times,
        "disturbed": timing.disturbed,
        "targets": [
            {
                "faster": fast,
                "slower": slow,
                "ratio": ratio,
                "measured": medians[slow] / medians[fast],
                "met": medians[slow] / medians[fast] >= ratio,
            }
            for (_, fast, slow), ratio in wanted.items()
            if fast in medians and slow in medians
        ],
    }


def _defaults(name: str) -> tuple[Any, ...]:
    return (0,) if name == "random_start" else ()


@pytest.mark.parametrize("case", chosen(headline()), ids=str)
def test_headline(case: Case, record: Record, copy_bandwidth: float, repeat: Repeat) -> None:
    """The shapes that the targets are about."""
    measure("headline", case, record, copy_bandwidth, repeat)


@pytest.mark.parametrize("case", chosen(sweep()), ids=str)
def test_sweep(case: Case, record: Record, copy_bandwidth: float, repeat: Repeat) -> None:
    """Every op from 1,000 to 10 million elements."""
    measure("sweep", case, record, copy_bandwidth, repeat)
