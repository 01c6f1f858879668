"""Labelled images in files, decoded when they are asked for."""

import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitsec.data.digest import Hasher
from deitsec.data.errors import DataError, reason
from deitsec.data.image_set import check_rows
from deitsec.data.resize import centred_box

if TYPE_CHECKING:
    from PIL.Image import Image

_CHUNK_BYTES = 1 << 20
# What Pillow raises on damaged files of the formats that are read here.
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    EOFError,
    MemoryError,
    struct.error,
)

Read = TypeVar("Read")


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
        out = np.empty((len(rows), *self.shape), dtype=np.uint8)
        paths: list[Path] = [self.root / self.paths[row] for row in rows.numpy()]
        # Pillow lets go of the interpreter lock while it decodes. The copy is NumPy's: torch would
        # share each one out over threads that the decoders need.
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for place, pixels in enumerate(pool.map(self._decode, paths)):
                out[place] = pixels.transpose(2, 0, 1)
        return torch.as_tensor(out)

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        return _open_image(path, lambda image: _read_rgb(image, self.size))

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


def image_file_size(path: Path) -> tuple[int, int]:
    """Return (H, W) of an image file, from its header.

    Raises:
        DataError: if it cannot be read as an image.
    """
    return _open_image(path, lambda image: (image.height, image.width))


def _read_rgb(image: "Image", size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL.Image import Resampling

    if image.mode.startswith(("I", "F")):
        # Pillow clips these to 255 instead of scaling them, and says nothing.
        raise _DeepImageError(image.mode)
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB it warns of a transparent palette
    top, left, bottom, right = centred_box((image.height, image.width), size)
    box = image.convert("RGB").crop((left, top, right, bottom))
    return np.array(box.resize((size[1], size[0]), Resampling.BICUBIC))


class _DeepImageError(Exception):
    """An image with more than 8 bits a channel."""


def _open_image(path: Path, read: "Callable[[Image], Read]") -> Read:
    from PIL.Image import DecompressionBombError
    from PIL.Image import open as open_image

    try:
        with open_image(path) as image:
            return read(image)
    except _DeepImageError as error:
        raise DataError(
            f"{path} has more than 8 bits a pixel (mode {error}): save it as 8-bit PNG"
        ) from error
    except (*_UNREADABLE, DecompressionBombError) as error:
        said = _said(error, path)
        raise DataError(f"cannot decode {path} ({said}): replace or remove it") from error


def _said(error: BaseException, path: Path) -> str:
    """Name the error without the folder: where it is cut off must not hang on where files lie."""
    if repr(str(path)) not in str(error):  # so Pillow quotes it
        return reason(error)
    return f"{type(error).__name__}: {str(error).replace(repr(str(path)), path.name)}"[:160]
