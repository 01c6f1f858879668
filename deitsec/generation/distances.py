"""How far 8-bit images are from each other: in whole levels, so that every machine agrees."""

import torch
from torch import Tensor
from torch.nn.functional import pad

LEVELS = 255
_EXACT = 256  # values whose squares add up to less than 2**24, whatever they are: exact in fp32


def level_distances(images: Tensor, clean: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L-infinity, L2, L1 and L0 distance of each row, from sums of whole levels.

    Floats k / 255 are off by up to 2**-25, and their differences and sums by more; levels are
    exact in any order of summation. They are divided in fp64 and rounded to fp32 at the end, so
    that the bits hang on the images alone.

    Args:
        images: (N, C, H, W) uint8.
        clean: the same shape, uint8.

    Returns:
        (N,) int16 largest change in levels; (N,) fp32 L2 and L1 in units of [0, 1] images; (N,)
        int32 number of values that differ.
    """
    change = (torch.maximum(images, clean) - torch.minimum(images, clean)).flatten(1)
    size = pad(change, (0, -change.shape[1] % _EXACT)).float().unflatten(1, (-1, _EXACT))
    squares = torch.linalg.vecdot(size, size).double().sum(1)
    return (
        change.amax(1).to(torch.int16),
        (squares.sqrt() / LEVELS).float(),
        (size.sum(2).double().sum(1) / LEVELS).float(),
        size.clamp(max=1).sum(2).to(torch.int32).sum(1, dtype=torch.int32),
    )
