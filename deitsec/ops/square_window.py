"""The proposal of the L-infinity Square attack: a random square of each row, in one pass."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker
from deitsec.ops.random_start import philox

_MASK = 0xFFFFFFFF
_MOST_CHANNELS = 64  # a bit of two Philox words each


@op(
    "(Tensor x, Tensor x0, Tensor sample_ids, Tensor step, int size, float eps, int seed, "
    "int stream=0) -> Tensor"
)
def square_window(
    x: Tensor,
    x0: Tensor,
    sample_ids: Tensor,
    step: Tensor,
    size: int,
    eps: float,
    seed: int,
    stream: int = 0,
) -> Tensor:
    """Move a square window of each row to x0 + eps or x0 - eps, channel by channel, within [0, 1].

    The proposal of Square in L-infinity (Andriushchenko et al., arXiv:1912.00049, algorithm 3):
    +2 eps or -2 eps on the window, projected on the ball around x0 and on the box, which for an x
    in both is the vertex of the ball whatever x was. The window's place is uniform over all those
    inside of the image, and so is the sign of each channel.

    A row draws the four words of Philox4x32-10 with key = seed and counter = (step, sample id,
    stream): the place of the window's top and left edge are the first two, scaled to the number of
    places, and bit c of the last two is the sign of channel c. They depend on nothing else.

    Args:
        x: (B, C, H, W) iterate in the ball and the box; fp32, bf16, fp16 (fp64 by the reference);
            at most 64 channels.
        x0: the clean image, same shape and dtype.
        sample_ids: (B,) int64, the identity of each row.
        step: (B,) int64, which step of it this is, modulo 2**32.
        size: side of the window, 1 to the lesser of H and W.
        eps: radius of the ball, > 0.
        seed: any int64.
        stream: 0 to 2**32 - 1.

    Returns:
        The candidate, shape and dtype of x.

    Raises:
        ValueError: shapes that differ or have no window of this size, ids or steps of another shape
            or dtype, eps not a positive number, or a stream out of range.
        TypeError: dtypes that are not floating or differ.
    """
    _, channels, height, width = x.shape
    low, high = sample_ids & _MASK, (sample_ids >> 32) & _MASK
    counter = (step & _MASK, low, high, torch.full_like(low, stream))
    words = philox(counter, (seed & _MASK, (seed >> 32) & _MASK))
    window = _edge(words[0], height, size)[:, None, :, None]
    window = window & _edge(words[1], width, size)[:, None, None, :]
    bits = words[2] | (words[3] << 32)
    up = (bits[:, None] >> torch.arange(channels, device=x.device)) & 1 == 1
    wide = torch.promote_types(x.dtype, torch.float32)
    clean = x0.to(wide)
    moved = torch.where(up[:, :, None, None], clean + eps, clean - eps).clamp(0, 1)
    return torch.where(window, moved.to(x.dtype), x)


def _edge(word: Tensor, length: int, size: int) -> Tensor:
    """(B, length) bool: which coordinates lie within the window."""
    first = (word * (length - size + 1)) >> 32
    place = torch.arange(length, device=word.device)
    return (place >= first[:, None]) & (place < first[:, None] + size)


square_window.backend("cpp", "torch.ops.deitsec_cpp.square_window", device="cpu")
square_window.backend("triton", "deitsec.kernels.square_window:square_window", device="cuda")


@square_window.check
def _check(
    x: Tensor,
    x0: Tensor,
    sample_ids: Tensor,
    step: Tensor,
    size: int,
    eps: float,
    seed: int,
    stream: int = 0,
) -> None:
    if x.ndim != 4 or not 0 < x.shape[1] <= _MOST_CHANNELS:
        raise ValueError(
            f"square_window: x must be (rows, 1 to {_MOST_CHANNELS} channels, height, width), "
            f"got {tuple(x.shape)}"
        )
    _checks.same_shape("square_window", x.shape, x0=x0)
    _checks.floating("square_window", x=x, x0=x0)
    _checks.same_shape("square_window", x.shape[:1], sample_ids=sample_ids, step=step)
    _checks.dtype("square_window", torch.int64, sample_ids=sample_ids, step=step)
    if not 1 <= size <= min(x.shape[2:]):
        raise ValueError(
            f"square_window: size must be in 1 to {min(x.shape[2:])}, the shorter side of the "
            f"images, got {size}"
        )
    _checks.positive("square_window", eps=eps)
    if not 0 <= stream <= _MASK:
        raise ValueError(f"square_window: stream must be in 0 to 2**32 - 1, got {stream}")


@square_window.cost
def _cost(
    x: Tensor,
    x0: Tensor,
    sample_ids: Tensor,
    step: Tensor,
    size: int,
    eps: float,
    seed: int,
    stream: int = 0,
) -> int:
    changed = x.shape[0] * x.shape[1] * size * size
    return (2 * x.numel() + changed) * x.element_size()


@square_window.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (4, 3, 33, 31), (0, 3, 8, 8), (2, 40, 6, 6)):
        for size in sorted({1, (min(shape[2:]) + 1) // 2, min(shape[2:])}):
            x0, ids = make.images(*shape), make.sample_ids(shape[0])
            x = (x0 + 0.05 * make.normal(*shape).sign()).clamp(0, 1)
            yield x, x0, ids, ids % 5000, size, 0.05, 0, 0
            yield x, x0, ids, ids, size, 0.3, -(1 << 62) + 12345, 7
    x0, ids = make.images(5, 3, 9, 8), torch.tensor([0, 1, -1, 1 << 32, (1 << 63) - 1])
    yield x0.clone(), x0, ids.to(x0.device), ids.to(x0.device).flip(0), 4, 0.1, (1 << 63) - 1, 1
    strided = make.images(5, 3, 9, 8).transpose(2, 3)
    yield strided, make.images(5, 3, 8, 9), make.sample_ids(5), make.sample_ids(5), 3, 0.1, 1, 0
