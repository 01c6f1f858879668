"""Linear changes of images along their two axes, as matrix products.

A matrix product needs no gather, so its gradient needs no scatter: it is deterministic, and each
row may have a matrix of its own. A, B rows and columns of an axis: (…, A, B) takes B to A.
"""

import torch
from torch import Tensor


def along_axes(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Change the columns of images by one matrix and their rows by another, in at least fp32.

    Args:
        images: (B, C, H, W).
        vertical: (B or 1, P, H).
        horizontal: (B or 1, Q, W).

    Returns:
        (B, C, P, Q), dtype of the images.
    """
    wide = images.to(vertical.dtype)
    changed = vertical[:, None] @ wide @ horizontal[:, None].transpose(-1, -2)
    return changed.to(images.dtype)


def placed(length: int, size: Tensor, offset: Tensor, dtype: torch.dtype) -> Tensor:
    """The resizing of an axis to `size` places from `offset` on, the others of the axis zero.

    Bilinear without antialiasing, as `torch.nn.functional.interpolate` does it with
    `align_corners=False`.

    Args:
        length: places of the axis, before and after.
        size: (B,) int64 from 1 to length.
        offset: (B,) int64, such that offset + size <= length.
        dtype: of the matrices.

    Returns:
        (B, length, length).
    """
    place = torch.arange(length, device=size.device)
    inner = place - offset[:, None]
    source = (inner.to(dtype) + 0.5) * length / size[:, None].to(dtype) - 0.5
    inside = (inner >= 0) & (inner < size[:, None])
    away = (source.clamp(0, length - 1)[:, :, None] - place.to(dtype)).abs()
    return (1 - away).clamp(min=0) * inside[:, :, None]


def correlated(length: int, kernel: Tensor) -> Tensor:
    """The correlation of an axis with a kernel (2k + 1,), zeros beyond the border: (1, L, L)."""
    reach = len(kernel) // 2
    place = torch.arange(length, device=kernel.device)
    apart = place - place[:, None] + reach
    inside = (apart >= 0) & (apart < len(kernel))
    return (kernel[apart.clamp(0, len(kernel) - 1)] * inside)[None]
