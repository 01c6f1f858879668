"""The best pair of features of a saliency map: what a step of JSMA changes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker

_PAIRS_AT_ONCE = 1 << 22
_MOST_FEATURES = 1 << 30


@op("(Tensor alpha, Tensor beta, Tensor mask) -> (Tensor, Tensor, Tensor)")
def saliency_pair(alpha: Tensor, beta: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pair of features that raises the target most while it lowers the other classes.

    Over i < j in the mask with `alpha_i + alpha_j > 0` and `beta_i + beta_j < 0`, the pair that
    maximises `-(alpha_i + alpha_j) * (beta_i + beta_j)`: algorithm 3 of Papernot et al.,
    arXiv:1511.07528. Of equal pairs the lowest i counts, then the lowest j.

    The sums are rounded to fp32 and their product is not rounded: it is taken in fp64, which also
    keeps the gradients of a distilled network, 1e-30 and less, from underflowing into ties. All
    backends agree on the pair, ties included. An infinity counts as one; a pair with a NaN in one
    of its sums, as inf - inf gives, never wins.

    This body compares all pairs, O(n^2) in O(n) memory. C++ searches them by branch and bound,
    O(n log n) where few points are near the front, see csrc/cpu/saliency_pair.cpp.

    Args:
        alpha: (B, n) gradient of the target in each feature; fp32, bf16, fp16 (fp64, with sums in
            fp64, by the reference).
        beta: gradient of the sum of the other classes, same shape and dtype.
        mask: (B, n) bool, True where a feature may be picked.

    Returns:
        i (B,) int64, j (B,) int64, both -1 where there is no such pair, and found (B,) bool.

    Raises:
        ValueError: shapes that differ, rows without features or with more than 2**30.
        TypeError: dtypes that are not floating or differ, a mask that is not bool.
    """
    wide = torch.promote_types(alpha.dtype, torch.float32)
    rise = torch.where(mask, alpha, torch.nan).to(wide)
    fall = torch.where(mask, -beta, torch.nan).to(wide)
    rows, features = alpha.shape
    place = torch.arange(features, device=alpha.device)
    best = torch.full((rows,), -1.0, dtype=torch.float64, device=alpha.device)
    pair = torch.full((2, rows), -1, device=alpha.device)
    chunk = max(1, _PAIRS_AT_ONCE // max(1, rows * features))
    for first in range(0, features, chunk):
        some, rest = slice(first, first + chunk), slice(first, features)
        up = rise[:, some, None] + rise[:, None, rest]
        down = fall[:, some, None] + fall[:, None, rest]
        counts = (up > 0) & (down > 0) & (place[some, None] < place[rest])
        gain = torch.where(counts, up.double() * down.double(), -1.0)
        value, at = gain.flatten(1).max(1)  # the first of equals
        width = features - first
        here = torch.stack([at // width, at % width]) + first
        pair = torch.where(value > best, here, pair)
        best = torch.maximum(best, value)
    return pair[0].clone(), pair[1].clone(), best >= 0


saliency_pair.backend("cpp", "torch.ops.deitsec_cpp.saliency_pair", device="cpu")
saliency_pair.backend("triton", "deitsec.kernels.saliency_pair:saliency_pair", device="cuda")


@saliency_pair.check
def _check(alpha: Tensor, beta: Tensor, mask: Tensor) -> None:
    _checks.rows("saliency_pair", alpha=alpha)
    if alpha.ndim != 2 or alpha.shape[1] > _MOST_FEATURES:
        raise ValueError(
            "saliency_pair: alpha must be (rows, features) with at most 2**30 features, "
            f"got {tuple(alpha.shape)}"
        )
    _checks.same_shape("saliency_pair", alpha.shape, beta=beta, mask=mask)
    _checks.floating("saliency_pair", alpha=alpha, beta=beta)
    _checks.dtype("saliency_pair", torch.bool, mask=mask)


@saliency_pair.cost
def _cost(alpha: Tensor, beta: Tensor, mask: Tensor) -> int:
    return alpha.numel() * (2 * alpha.element_size() + mask.element_size())


@saliency_pair.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1), (3, 2), (4, 35), (0, 64), (2, 259)):
        allowed = make.labels(shape[0] * shape[1], 4).reshape(shape) > 0
        yield make.normal(*shape), make.normal(*shape), allowed
        yield make.normal(*shape).round(), make.normal(*shape).round(), allowed
    along = make.images(3, 131)
    everything = torch.ones(3, 131, dtype=torch.bool, device=along.device)
    yield along, along - 1, everything  # alpha + (-beta) is the same for all
    yield along - 2, -along, everything  # no pair raises the target
    yield along, -along, ~everything
    tiny = make.normal(3, 131, scale=1e-25)
    yield tiny, tiny.flip(0), everything
    yield torch.ones_like(along), -torch.ones_like(along), everything
    hostile = make.hostile_rows(9, 67)
    yield hostile, make.normal(9, 67), torch.ones_like(hostile, dtype=torch.bool)
    yield make.normal(9, 67), hostile, torch.ones_like(hostile, dtype=torch.bool)
    yield hostile, hostile.flip(0), torch.ones_like(hostile, dtype=torch.bool)
    strided = make.normal(67, 5).T
    yield strided, make.normal(5, 67), torch.ones(5, 67, dtype=torch.bool, device=along.device)
    yield make.normal(5, 66), make.normal(5, 66), everything[:1, :66].expand(5, 66).contiguous()
