"""The face that every set of labelled images shows."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

UNLABELLED = -1
"""The label of an image of a training split whose class is not known."""


class ImageSet(Protocol):
    """Labelled images of one shape, read by row.

    `labels` is (N,) int64 on the CPU, `UNLABELLED` where the class is not known; `shape` is
    (C, H, W) of every image that `images` returns.
    """

    @property
    def labels(self) -> Tensor:
        """Classes, (N,) int64 on the CPU."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        ...

    def __len__(self) -> int:
        """Count the images."""
        ...

    def images(self, rows: Tensor) -> Tensor:
        """Return the images of `rows`, (n,) int64 on the CPU, as contiguous (n, C, H, W) uint8."""
        ...


@runtime_checkable
class Ranged(Protocol):
    """An image set that knows between what its labels are before it has read them."""

    @property
    def label_range(self) -> tuple[int, int]:
        """The lowest and highest label there can be."""
        ...


def label_range(images: ImageSet) -> tuple[int, int]:
    """The lowest and highest label of a set; labels are read only where the set must read them."""
    if isinstance(images, Ranged):
        return images.label_range
    return int(images.labels.min()), int(images.labels.max())


def check_rows(rows: Tensor, num_images: int) -> None:
    """Refuse rows that do not name images.

    Args:
        rows: (n,) int64 on the CPU, each in [0, num_images); n may be 0.
        num_images: how many images there are.

    Raises:
        TypeError: if `rows` is not a one-dimensional int64 tensor on the CPU.
        ValueError: if a row is out of range.
    """
    if rows.dtype != torch.int64 or rows.ndim != 1 or rows.device.type != "cpu":
        given = f"{rows.dtype} of shape {tuple(rows.shape)} on {rows.device}"
        raise TypeError(f"rows must be (n,) torch.int64 on cpu, got {given}")
    outside = rows[(rows < 0) | (rows >= num_images)]
    if len(outside):
        raise ValueError(f"rows must be in [0, {num_images}), got {int(outside[0])}")
