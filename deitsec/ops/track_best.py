"""The best row so far: what an attack keeps of its iterates, in one pass."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


@op(
    "(Tensor best, Tensor best_success, Tensor best_score, Tensor x, Tensor success, Tensor score, "
    "bool keep_first) -> (Tensor, Tensor, Tensor, Tensor)",
    inplace=("best", "best_success", "best_score"),
)
def track_best(
    best: Tensor,
    best_success: Tensor,
    best_score: Tensor,
    x: Tensor,
    success: Tensor,
    score: Tensor,
    keep_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take over the rows of x that are better than what is kept: by success, then by score.

    A row is better if it succeeds where the kept one does not, or if both succeed or both fail and
    its score is higher. With `keep_first` a success is never replaced. A row whose score is NaN is
    never better. `track_best_` changes the first three arguments, touches only the rows that are
    better, and returns which those are; it reads nothing back from the device.

    Args:
        best: (B, ...) the rows kept so far; fp32, bf16, fp16 (fp64 by the reference).
        best_success: (B,) bool, whether they reach the goal.
        best_score: (B,) fp32 (fp64 for fp64 rows), -inf where none is kept yet.
        x: rows on offer, shape and dtype of best.
        success: (B,) bool.
        score: (B,) in the dtype of best_score: the loss, or minus the distance.
        keep_first: whether the first success stays, whatever its score.

    Returns:
        best, best_success and best_score after the offer, and better: (B,) bool.

    Raises:
        ValueError: shapes that differ.
        TypeError: dtypes that do not go together.
    """
    higher = score > best_score
    if keep_first:
        higher = higher & ~success
    better = (success & ~best_success) | ((success == best_success) & higher)
    better = better & ~score.isnan()
    rows = better.view(-1, *(1,) * (x.ndim - 1))
    return (
        torch.where(rows, x, best),
        best_success | (success & better),
        torch.where(better, score, best_score),
        better,
    )


track_best.backend("cpp", "torch.ops.deitsec_cpp.track_best", device="cpu")
track_best.backend("triton", "deitsec.kernels.track_best:track_best", device="cuda")
assert track_best.inplace is not None
track_best_ = track_best.inplace


@track_best.check
def _check(
    best: Tensor,
    best_success: Tensor,
    best_score: Tensor,
    x: Tensor,
    success: Tensor,
    score: Tensor,
    keep_first: bool,
) -> None:
    if best.shape != x.shape:
        _checks.same_shape("track_best", best.shape, x=x)
    if best.dtype not in _checks.FLOATS or x.dtype != best.dtype:
        _checks.floating("track_best", best=best, x=x)
    if best.ndim == 0:
        raise ValueError("track_best: best must be (rows, ...), got ()")
    rows = best.shape[:1]
    if not (best_success.shape == success.shape == best_score.shape == score.shape == rows):
        flags = {"best_success": best_success, "success": success}
        _checks.same_shape("track_best", rows, **flags, best_score=best_score, score=score)
    real = torch.float64 if best.dtype == torch.float64 else torch.float32
    if not best_success.dtype == success.dtype == torch.bool:
        _checks.dtype("track_best", torch.bool, best_success=best_success, success=success)
    if not best_score.dtype == score.dtype == real:
        _checks.dtype("track_best", real, best_score=best_score, score=score)


@track_best.cost
def _cost(
    best: Tensor,
    best_success: Tensor,
    best_score: Tensor,
    x: Tensor,
    success: Tensor,
    score: Tensor,
    keep_first: bool,
) -> int:
    return 2 * x.numel() * x.element_size()  # each row of the result is read once and written once


@track_best.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (37, 3, 9, 7), (0, 3, 8, 8), (1030,), (5, 10007)):
        for keep_first in (False, True):
            yield *_row_states(make, make.images(*shape), make.images(*shape)), keep_first
    nothing = list(_row_states(make, make.images(4, 3, 8, 8), make.images(4, 3, 8, 8)))
    nothing[1], nothing[2] = torch.zeros_like(nothing[1]), torch.full_like(nothing[2], -torch.inf)
    yield *nothing, False
    strided = make.images(4, 3, 5, 9).transpose(2, 3)
    yield *_row_states(make, strided, make.images(4, 3, 9, 5)), False
    yield *_row_states(make, make.images(4, 3, 9, 5), strided), True


def _row_states(make: SampleMaker, best: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    rows = best.shape[0]
    real = torch.float64 if make.dtype == torch.float64 else torch.float32
    best_score, score = make.normal(rows).to(real), make.normal(rows).to(real)
    score[::5] = best_score[::5]
    best_score[1::11] = -torch.inf
    score[3::7] = torch.nan
    score[4::9] = -torch.inf
    score[5::9] = torch.inf
    return best, make.labels(rows, 2) == 1, best_score, x, make.labels(rows, 2) == 1, score
