"""The adversarial images of a dataset, as labelled images."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from deitsec.data.digest import Hasher
from deitsec.data.errors import DataError
from deitsec.data.image_set import check_rows
from deitsec.data.resize import check_image_size, cover
from deitsec.shards import ShardError, ShardFolder


class ShardSet:
    """Adversarial images with the labels of the images they were made from.

    Images and labels are read when they are asked for. Rows come in the order of the shards.

    Args:
        folder: the dataset.
        image_size: None to return the images as they are, or the side S to which `images` brings
            them (`cover`).
    """

    def __init__(self, folder: ShardFolder, *, image_size: int | None = None) -> None:
        check_image_size(image_size)
        self.folder = folder
        self.image_size = image_size

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image that `images` returns."""
        channels, height, width = self.folder.shape
        side = self.image_size
        return (channels, height, width) if side is None else (channels, side, side)

    @property
    def label_range(self) -> tuple[int, int]:
        """The lowest and highest label there can be; `labels` holds to it."""
        return 0, len(self.folder.class_names) - 1

    @property
    def labels(self) -> Tensor:
        """Classes, (N,) int64 on the CPU; read from all shards when first asked for.

        Raises:
            DataError: a shard is broken, or a label has no name.
        """
        return self._labels

    @cached_property
    def _labels(self) -> Tensor:
        try:
            labels = self.folder.column("label")
        except ShardError as error:
            raise DataError(str(error)) from error
        low, high = self.label_range
        outside = np.flatnonzero((labels < low) | (labels > high))
        if len(outside):
            numbers, rows = self.folder.places(outside[:1])
            raise DataError(
                f"{self.folder.path}: label {labels[outside[0]]} in row {rows[0]} of shard "
                f"{numbers[0]} has no name, classes are {low} to {high}: make the shard again"
            )
        return torch.from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        """Count the images."""
        return len(self.folder)

    def images(self, rows: Tensor) -> Tensor:
        """Return the images of `rows`, (n,) int64 on the CPU, as contiguous (n, C, H, W) uint8.

        Raises:
            DataError: if a shard is broken.
            TypeError: if `rows` is not (n,) int64 on the CPU.
            ValueError: if a row is out of range.
        """
        check_rows(rows, len(self))
        try:
            pixels = self.folder.read(rows.numpy(), ["image"])["image"]
        except ShardError as error:
            raise DataError(str(error)) from error
        return cover(torch.from_numpy(pixels), self.shape[1:])

    def feed(self, hasher: Hasher) -> None:
        """Hash the hashes of the shards, as they were when they were written."""
        hasher.update(f"shards {len(self.folder.entries)}\n".encode())
        for entry in self.folder.entries:
            hasher.update(f"{entry.sha256}\n".encode())
