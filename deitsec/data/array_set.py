"""Labelled images that lie in memory."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deitsec.data.digest import Hasher, feed_pixels
from deitsec.data.image_set import UNLABELLED, check_rows
from deitsec.data.resize import check_image_size, cover


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayImageSet:
    """Images in one tensor.

    Attributes:
        pixels: (N, C, H, W) uint8 on the CPU, C 1 or 3, N >= 1; any strides.
        labels: (N,) int64 on the CPU, each >= 0, or -1 where the class is not known.
        image_size: None to return the images as they are, or the side S to which `images` brings
            them (`cover`).

    Raises:
        TypeError: if a dtype or the device is another one.
        ValueError: if a shape, a count or a label is out of range.
    """

    pixels: Tensor
    labels: Tensor
    image_size: int | None = None

    def __post_init__(self) -> None:
        """Check the tensors against each other."""
        check_image_size(self.image_size)
        for name, tensor, dtype in (
            ("pixels", self.pixels, torch.uint8),
            ("labels", self.labels, torch.int64),
        ):
            if tensor.dtype != dtype or tensor.device.type != "cpu":
                raise TypeError(
                    f"{name} must be {dtype} on cpu, got {tensor.dtype} on {tensor.device}"
                )
        shape = tuple(self.pixels.shape)
        if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
            raise ValueError(
                f"pixels must be (N, C, H, W) with C 1 or 3 and no side 0, got {shape}"
            )
        if tuple(self.labels.shape) != shape[:1]:
            given = tuple(self.labels.shape)
            raise ValueError(f"labels must be ({shape[0]},), one for each image, got {given}")
        if int(self.labels.min()) < UNLABELLED:
            raise ValueError(
                f"labels must be >= 0, or -1 for an unlabelled image, got {int(self.labels.min())}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image that `images` returns."""
        _, channels, height, width = self.pixels.shape
        side = self.image_size
        return (channels, height, width) if side is None else (channels, side, side)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.pixels)

    def images(self, rows: Tensor) -> Tensor:
        """Return the images of `rows`, (n,) int64 on the CPU, as contiguous (n, C, H, W) uint8.

        Raises:
            TypeError: if `rows` is not (n,) int64 on the CPU.
            ValueError: if a row is out of range.
        """
        check_rows(rows, len(self))
        return cover(self.pixels[rows], self.shape[1:])

    def feed(self, hasher: Hasher) -> None:
        """Hash the stored pixels and labels; `image_size` does not change them."""
        feed_pixels(replace(self, image_size=None), hasher)
