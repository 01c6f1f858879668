"""Rounds adversarial images to 8 bits without leaving the ball."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deitsec.ops import _checks
from deitsec.ops._op import op
from deitsec.ops._samples import SampleMaker


def grey_levels(eps: float) -> int:
    """Whole levels of 255 within eps: 8 for 8/255, 76 for 0.3; at most 255.

    Raises:
        ValueError: eps is not a positive finite number.
    """
    _checks.positive("grey_levels", eps=eps)
    return min(255, math.floor(eps * 255 + 1e-6))


@op("(Tensor adv, Tensor clean, int levels) -> Tensor")
def quantize_uint8(adv: Tensor, clean: Tensor, levels: int) -> Tensor:
    """Nearest of the 256 levels that differs from the clean level by at most `levels`.

    `clip(round(255 * adv), clean - levels, clean + levels)` in integers, ties to even, clipped to
    0 to 255. A NaN becomes the clean level.

    Args:
        adv: images in [0, 1], any shape; fp32, bf16, fp16 (fp64 by the reference).
        clean: uint8, same shape.
        levels: radius of the ball in levels of 255, 0 to 255; see `grey_levels`.

    Returns:
        uint8, same shape.

    Raises:
        ValueError: shapes differ or levels is out of range.
        TypeError: adv is not floating or clean is not uint8.
    """
    wide = adv.to(torch.promote_types(adv.dtype, torch.float32))
    nearest = torch.where(wide.isnan(), clean, (wide * 255).round())
    base = clean.to(torch.int32)
    low, high = (base - levels).clamp(min=0), (base + levels).clamp(max=255)
    return nearest.clamp(-1, 256).to(torch.int32).clamp(low, high).to(torch.uint8)


quantize_uint8.backend("cpp", "torch.ops.deitsec_cpp.quantize_uint8", device="cpu")
quantize_uint8.backend("triton", "deitsec.kernels.quantize_uint8:quantize_uint8", device="cuda")


@quantize_uint8.check
def _check(adv: Tensor, clean: Tensor, levels: int) -> None:
    _checks.floating("quantize_uint8", adv=adv)
    if clean.dtype != torch.uint8:
        raise TypeError(f"quantize_uint8: clean must be torch.uint8, got {clean.dtype}")
    _checks.same_shape("quantize_uint8", adv.shape, clean=clean)
    if not 0 <= levels <= 255:
        raise ValueError(f"quantize_uint8: levels must be in 0 to 255, got {levels}")


@quantize_uint8.cost
def _cost(adv: Tensor, clean: Tensor, levels: int) -> int:
    return adv.numel() * (adv.element_size() + 2)


@quantize_uint8.samples
def _samples(make: SampleMaker) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 1, 1), (3, 1, 7, 5), (2, 3, 33, 31), (0, 3, 8, 8), (257,)):
        yield make.images(*shape), make.levels(*shape), 8
        yield make.images(*shape), make.levels(*shape), 255
        yield make.images(*shape), make.levels(*shape), 0
    odd = make.images(5, 60)
    odd.view(-1)[::7] = float("nan")
    odd.view(-1)[1::7] = float("inf")
    odd.view(-1)[2::7] = -float("inf")
    odd.view(-1)[3::7] = 2.5
    yield odd, make.levels(5, 60), 8
    halves = (torch.arange(255, dtype=torch.float64) + 0.5) / 255
    yield halves.to(make.device, make.dtype), make.levels(255), 255
    yield make.images(2, 3, 9, 9).transpose(2, 3), make.levels(2, 3, 9, 9).transpose(2, 3), 8
