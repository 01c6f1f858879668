"""Labelled images in files, decoded when they are asked for."""

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from deitsec.data.decode import decode_images
from deitsec.data.digest import Hasher
from deitsec.data.errors import DataError, reason
from deitsec.data.image_set import check_rows

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class FolderImageSet:
    """Image files, decoded to RGB and brought to one size when a row is read.

    Pixels are taken as they are stored: a rotation noted in EXIF is not applied, transparency is
    dropped, and 8-bit grey becomes three equal channels. The `centred_box` of an image is resampled
    by Pillow, bicubic.

    Attributes:
        root: the folder that `paths` start from.
        paths: N files relative to `root`, with forward slashes.
        labels: (N,) int64 on the CPU.
        size: (H, W) of every image returned.

    Raises:
        ValueError: if there is no file, or the counts differ.
    """

    root: Path
    paths: tuple[str, ...]
    labels: Tensor
    size: tuple[int, int]

    def __post_init__(self) -> None:
        """Check the counts."""
        if not self.paths or tuple(self.labels.shape) != (len(self.paths),):
            given = f"{len(self.paths)} paths and labels of shape {tuple(self.labels.shape)}"
            raise ValueError(
                f"paths must not be empty and labels must be one for each, got {given}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W)."""
        return (3, *self.size)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.paths)

    def images(self, rows: Tensor) -> Tensor:
        """Decode the images of `rows`, (n,) int64 on the CPU, to contiguous (n, 3, H, W) uint8.

        Raises:
            DataError: if a file cannot be decoded, or is not an 8-bit image; names the first such
                row's path.
            TypeError: if `rows` is not (n,) int64 on the CPU.
            ValueError: if a row is out of range.
        """
        check_rows(rows, len(self))
        files = [self.root / self.paths[row] for row in rows.numpy()]
        return decode_images(files, self.shape)

    def feed(self, hasher: Hasher) -> None:
        """Hash the sorted relative paths, each with the bytes of its file, whatever `size` is.

        Raises:
            DataError: if a file cannot be read.
        """
        hasher.update(f"files {len(self)}\n".encode())
        for relative in sorted(self.paths):
            path = self.root / relative
            try:
                with path.open("rb") as file:
                    num_bytes = os.fstat(file.fileno()).st_size
                    hasher.update(os.fsencode(relative) + f"\0{num_bytes}\n".encode())
                    while chunk := file.read(_CHUNK_BYTES):
                        hasher.update(chunk)
            except OSError as error:
                raise DataError(
                    f"cannot read {path} ({reason(error)}): replace or remove it"
                ) from error
