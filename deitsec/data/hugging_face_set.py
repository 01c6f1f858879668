"""Labelled images of a Hugging Face dataset, decoded when they are asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deitsec.data.decode import decode_images
from deitsec.data.digest import Hasher
from deitsec.data.image_set import check_rows

_BLOCK_ROWS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class HuggingFaceImageSet:
    """A split whose images are decoded when a row is read.

    Attributes:
        rows: a datasets.Dataset; its images are not decoded by itself.
        column: of the images.
        labels: (N,) int64 on the CPU.
        shape: (C, H, W) of every image returned.
        name: what errors call it.
    """

    rows: Any
    column: str
    labels: Tensor
    shape: tuple[int, int, int]
    name: str

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def images(self, rows: Tensor) -> Tensor:
        """Decode the images of `rows`, (n,) int64 on the CPU, to contiguous (n, C, H, W) uint8.

        Raises:
            DataError: if an image cannot be decoded, or has more than 8 bits a pixel.
            TypeError: if `rows` is not (n,) int64 on the CPU.
            ValueError: if a row is out of range.
        """
        check_rows(rows, len(self))
        wanted = rows.tolist()
        stored = self.rows.select_columns([self.column])[wanted][self.column]
        names = [f"row {row} of {self.name}" for row in wanted]
        return decode_images([_file(image) for image in stored], self.shape, names=names)

    def feed(self, hasher: Hasher) -> None:
        """Hash the stored files in their order, whatever `shape` is, and the labels."""
        hasher.update(f"encoded {len(self)}\n".encode())
        stored = self.rows.select_columns([self.column])
        for start in range(0, len(self), _BLOCK_ROWS):
            for image in stored[start : start + _BLOCK_ROWS][self.column]:
                file = _file(image)
                data = file.read_bytes() if isinstance(file, Path) else file
                hasher.update(f"{len(data)}\n".encode())
                hasher.update(data)
        hasher.update(self.labels.numpy().astype("<i8").tobytes())


def encoded_file(rows: Any, column: str, row: int) -> Path | bytes:
    """The image file of a row, by where it lies or what it holds."""
    return _file(rows[row][column])


def _file(image: Any) -> Path | bytes:
    if image is None:
        return b""  # which cannot be decoded, and is told as such
    return Path(image["path"]) if image["bytes"] is None else image["bytes"]
