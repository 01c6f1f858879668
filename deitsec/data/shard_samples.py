"""Rows of a dataset as the samples that PyTorch's DataLoader collates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitsec.data.batches import to_float
from deitsec.shards import ShardFolder
from deitsec.shards.shard_rows import IMAGE_COLUMNS, column_dtype

Sample = tuple[Any, ...]
Transform = Callable[[Tensor], Any]


@dataclass(frozen=True, kw_only=True)
class SampleForm:
    """What a sample is: (image, label, and the columns asked for).

    Attributes:
        columns: further columns of `ShardRows`.
        dtype: of images; float32 in [0, 1], or uint8 as stored.
        transform: what is done with each image, if anything.

    Raises:
        ValueError: another dtype, or no such column.
    """

    columns: tuple[str, ...]
    dtype: torch.dtype
    transform: Transform | None

    def __post_init__(self) -> None:
        """Check dtype and columns."""
        if self.dtype not in (torch.float32, torch.uint8):
            raise ValueError(f"dtype must be torch.float32 or torch.uint8, got {self.dtype}")
        for name in self.columns:
            column_dtype(name)

    def check(self, folder: ShardFolder) -> None:
        """Refuse clean images where there are none.

        Raises:
            ValueError: they are asked for, and were not stored.
        """
        if "clean_image" in self.columns and not folder.manifest.configuration.clean_images:
            raise ValueError(f"{folder.path} holds no clean images: generate with --clean-images")

    def read(self, folder: ShardFolder, rows: NDArray[Any]) -> list[Sample]:
        """The samples of some rows, (n,) int64.

        Raises:
            ShardError: a shard is broken.
        """
        names = ("image", "label", *self.columns)
        found = folder.read(rows, names)
        return list(zip(*(self._items(name, found[name]) for name in names), strict=True))

    def _items(self, name: str, values: NDArray[Any]) -> list[Any]:
        if name == "label":
            values = values.astype(np.int64)  # as losses take them
        tensor = torch.from_numpy(values)
        if name in IMAGE_COLUMNS and self.dtype == torch.float32:
            tensor = to_float(tensor)
        items = list(tensor.unbind())
        if name == "image" and self.transform is not None:
            return [self.transform(item) for item in items]
        return items
