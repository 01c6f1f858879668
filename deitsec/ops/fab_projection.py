"""The nearest point of a hyperplane within the box of images: the projection of FAB."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker

ORDERS = (math.inf, 2.0, 1.0)


@op("(Tensor x, Tensor slope, Tensor value, float p) -> Tensor")
def fab_projection(x: Tensor, slope: Tensor, value: Tensor, p: float) -> Tensor:
    """The smallest move, in the norm of order p, from x to a hyperplane within [0, 1].

    The hyperplane of a row is `{z: value + slope . (z - x) = 0}`: where a function with this value
    and this slope at x would be 0. With the room `m` of an entry towards the plane, its move is
    `min(lambda, m)` in L-infinity and `min(lambda * |slope|, m)` in L2, where lambda is what brings
    the value to 0; in L1 the entries of largest |slope| go all the way, and those that share the
    last slope needed the same part of their rooms (Croce & Hein, arXiv:1907.02044, section 2.2;
    Hein & Andriushchenko, arXiv:1705.08475). Where the plane does not meet the box, the move ends
    in the corner that is nearest to it. An entry of slope 0 never moves; a row with a NaN or an
    infinity in its slope or value does not either. No gradient flows through it. In bf16 and fp16
    the result is rounded once.

    Args:
        x: (B, ...) points in [0, 1]; fp32, bf16, fp16 (fp64 by the reference).
        slope: the normal of the plane, same shape and dtype.
        value: (B,) fp32 (fp64 for fp64 rows), the function's value at x.
        p: order of the norm: inf, 2 or 1.

    Returns:
        The move: what is to be added to x. Shape and dtype of x.

    Raises:
        ValueError: shapes differ, a row without elements, or another p.
        TypeError: dtypes that do not go together.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    move, _ = project(x.flatten(1), slope.flatten(1), value, p)
    return move.to(wide).to(x.dtype).reshape(x.shape)


def project(x: Tensor, slope: Tensor, value: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """(B, N) moves in fp64, and (B,) whether a row has a plane at all."""
    along, gap = slope.double(), value.double()[:, None].abs()
    size = along.abs()
    usable = size.sum(1).isfinite() & value.isfinite()
    size, gap = torch.where(usable[:, None], size, 0), torch.where(usable[:, None], gap, 0)
    way = torch.where((along > 0) != (value > 0)[:, None], 1.0, -1.0).to(size.dtype)
    room = torch.where(way > 0, 1 - x.double(), x.double()).clamp_min(0)
    room = torch.where(size > 0, room, 0)
    if p == 1:
        amount = _steepest(size, room, gap)
    else:
        reach = size if p == 2 else torch.ones_like(size)
        amount = torch.minimum(_lambda(size, room, reach, gap) * reach, room)
    return torch.where(size > 0, way * amount, 0), usable


def _lambda(size: Tensor, room: Tensor, reach: Tensor, gap: Tensor) -> Tensor:
    """(B, 1) lambdas at which `sum(size * min(lambda * reach, room))` is the gap; or inf."""
    breaks = torch.where(size > 0, room / reach, 0)  # where an entry stops
    breaks, order = breaks.sort(1)
    stopped = (size * room).gather(1, order).cumsum(1)
    pace = (size * reach).gather(1, order)
    later = pace.flip(1).cumsum(1).flip(1) - pace  # what goes on beyond each of the breaks
    before = (stopped + breaks * later < gap).sum(1, keepdim=True)
    last = (before - 1).clamp_min(0)
    pace_from = torch.where(before > 0, later.gather(1, last), pace.sum(1, keepdim=True))
    given = torch.where(before > 0, stopped.gather(1, last), 0)
    meets = (gap - given) / pace_from
    meets = torch.where(gap < stopped[:, -1:], meets, torch.inf)
    return torch.where(gap > 0, meets, 0)


def _steepest(size: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """(B, N) how far the steepest entries go until they give the gap together."""
    gives = size * room
    steepest, order = size.sort(1, descending=True)
    given = gives.gather(1, order).cumsum(1)
    last = (given < gap).sum(1, keepdim=True).clamp_max(size.shape[1] - 1)
    least = steepest.gather(1, last)
    above, tied = size > least, size == least
    rest = gap - torch.where(above, gives, 0).sum(1, keepdim=True)
    share = rest / torch.where(tied, gives, 0).sum(1, keepdim=True)
    share = torch.where(gap < given[:, -1:], share.clamp(0, 1), 1).nan_to_num(1)
    moved = torch.where(above, room, torch.where(tied, share * room, 0))
    return torch.where(gap > 0, moved, 0)


fab_projection.backend("cpp", "torch.ops.deitsec_cpp.fab_projection", device="cpu")
fab_projection.backend("triton", "deitsec.kernels.fab_projection:fab_projection", device="cuda")


def check_plane(name: str, x: Tensor, value: Tensor, p: float) -> None:
    """Raise for a value or an order that no plane has."""
    _checks.same_shape(name, x.shape[:1], value=value)
    _checks.dtype(name, torch.float64 if x.dtype == torch.float64 else torch.float32, value=value)
    if p not in ORDERS:
        raise ValueError(f"{name}: p must be inf, 2 or 1, got {p}")


@fab_projection.check
def _check(x: Tensor, slope: Tensor, value: Tensor, p: float) -> None:
    _checks.same_shape("fab_projection", x.shape, slope=slope)
    _checks.floating("fab_projection", x=x, slope=slope)
    _checks.rows("fab_projection", x=x)
    check_plane("fab_projection", x, value, p)


@fab_projection.cost
def _cost(x: Tensor, slope: Tensor, value: Tensor, p: float) -> int:
    return 3 * x.numel() * x.element_size()


@fab_projection.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for p in ORDERS:
        for x, slope, value in planes(make):
            yield x, slope, value, p


def planes(make: SampleMaker) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Points, slopes and values, hostile ones too."""
    real = torch.float64 if make.dtype == torch.float64 else torch.float32

    def some(rows: int, scale: float) -> Tensor:
        return make.normal(rows, scale=scale).to(real)

    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (2, 3, 33, 31), (0, 3, 8, 8), (5, 10007)):
        elements = math.prod(shape[1:])
        x = make.images(*shape)
        yield x, make.normal(*shape), some(shape[0], 0.1 * elements**0.5)
        edges = (x * 1.6 - 0.3).clamp(0, 1)  # many pixels have no room
        yield edges, make.normal(*shape), some(shape[0], 0.2 * elements)
    yield make.images(9, 3, 9, 9), make.hostile_rows(9, 3, 9, 9), some(9, 1.0)
    tied = make.normal(6, 3, 9, 9).round()
    value = torch.tensor([0.0, 1e30, float("nan"), -float("inf"), -20.0, 20.0], dtype=real)
    yield make.images(6, 3, 9, 9), tied, value
    strided = make.normal(4, 3, 9, 9).to(memory_format=torch.channels_last)
    yield make.images(4, 3, 9, 9).transpose(2, 3), strided, some(4, 3.0)
