"""From stored bytes to the float images that a model takes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from deitsec.data.image_set import ImageSet


def to_float(images: Tensor) -> Tensor:
    """Bring uint8 images to float32 in [0, 1], dividing by 255; the shape and the device stay.

    Raises:
        TypeError: if `images` is not uint8.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be torch.uint8, got {images.dtype}")
    return images.to(torch.float32).div_(255)


def batches(
    images: ImageSet, rows: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Read rows in order, `batch_size` at a time; the last batch may be smaller.

    Args:
        images: where to read.
        rows: (n,) int64 on the CPU.
        batch_size: >= 1.

    Yields:
        rows (b,) int64, images (b, C, H, W) float32 in [0, 1], labels (b,) int64.

    Raises:
        ValueError: if `batch_size` is below 1 or a row is out of range.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        yield batch, to_float(images.images(batch)), images.labels[batch]
