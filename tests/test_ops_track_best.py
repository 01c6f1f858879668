"""The rule by which a row is kept, in every case."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from deitsec import native, ops

needs_cpp = pytest.mark.skipif(
    native.missing("cpp") is not None, reason=f"cpp: {native.missing('cpp')}"
)
BACKENDS = ["reference", pytest.param("cpp", marks=needs_cpp)]
SCORES = (-math.inf, -1.0, 0.0, 1.0, math.inf)
ROW_STATES = list(itertools.product((False, True), SCORES))


def every_case() -> tuple[tuple[Tensor, ...], list[tuple[bool, float, bool, float]]]:
    """Each kept state against each offered one, NaN scores included."""
    offers = [*ROW_STATES, (False, math.nan), (True, math.nan)]
    cases = [(*kept, *offer) for kept, offer in itertools.product(ROW_STATES, offers)]
    was, old, now, new = (torch.tensor(column) for column in zip(*cases, strict=True))
    shape = (len(cases), 3, 5)
    return (torch.zeros(shape), was, old, torch.ones(shape), now, new), cases


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep_first", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_row_is_kept_by_success_and_then_by_score(
    backend: str, keep_first: bool, inplace: bool
) -> None:
    arguments, cases = every_case()
    with ops.use(backend):
        if inplace:
            better = ops.track_best_(*arguments, keep_first)
            best, success, score = arguments[:3]
        else:
            best, success, score, better = ops.track_best(*arguments, keep_first)
    for row, (was, old, now, new) in enumerate(cases):
        # pairs compare by their first entry, then by their second
        takes = not math.isnan(new) and (now, new) > (was, old)
        if keep_first and was:
            takes = False
        found = (bool(better[row]), bool(success[row]), float(score[row]))
        assert found == ((True, now, new) if takes else (False, was, old)), cases[row]
        assert (best[row] == float(takes)).all(), cases[row]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_may_hold_no_element(backend: str) -> None:
    arguments = list(every_case()[0])
    arguments[0], arguments[3] = arguments[0][:, :0], arguments[3][:, :0]
    with ops.use(backend):
        best, _, score, better = ops.track_best(*arguments, False)
    assert best.shape == arguments[0].shape
    assert torch.equal(score[better], arguments[5][better])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_may_be_offered_to_itself(backend: str) -> None:
    """An attack that starts at the clean image keeps that very tensor."""
    _, was, old, x, now, new = every_case()[0]
    with ops.use(backend):
        ops.track_best_(x, was, old, x, now, new, False)
    assert (x == 1).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 4)}, ValueError, r"x must be \(2, 3\), got \(2, 4\)"),
        ({"x": torch.zeros(2, 3).half()}, TypeError, "x must be torch.float32 like the others"),
        ({"success": torch.zeros(3).bool()}, ValueError, r"success must be \(2,\), got \(3,\)"),
        ({"best_success": torch.zeros(2)}, TypeError, "best_success must be torch.bool, got"),
        ({"score": torch.zeros(2).half()}, TypeError, "score must be torch.float32, got"),
        ({"best": torch.zeros(()), "x": torch.zeros(())}, ValueError, "best must be"),
    ],
)
def test_wrong_arguments_are_named(
    change: dict[str, Tensor], error: type[Exception], message: str
) -> None:
    arguments = {
        "best": torch.zeros(2, 3), "best_success": torch.zeros(2).bool(),
        "best_score": torch.zeros(2), "x": torch.zeros(2, 3),
        "success": torch.zeros(2).bool(), "score": torch.zeros(2),
    }  # fmt: skip
    with pytest.raises(error, match=f"track_best: {message}"):
        ops.track_best(**(arguments | change), keep_first=False)
