"""Image files to pixels of one size, by Pillow."""

import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitsec.data.errors import DataError, reason
from deitsec.data.resize import centred_box

if TYPE_CHECKING:
    from PIL.Image import Image

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
_GREY = ("1", "L", "LA")

Read = TypeVar("Read")


def decode_images(
    files: Sequence[Path | bytes],
    shape: tuple[int, int, int],
    *,
    names: Sequence[str] | None = None,
) -> Tensor:
    """Decode images: of each its `centred_box`, resampled bicubic.

    Pixels are taken as they are stored: a rotation noted in EXIF is not applied, transparency is
    dropped.

    Args:
        files: n times where it lies, or its bytes.
        shape: (C, H, W) wanted: C is 3 for RGB, to which 8-bit grey comes as three equal channels,
            or 1 for grey.
        names: what errors call them; the paths where there are any.

    Returns:
        (n, C, H, W) uint8, contiguous.

    Raises:
        DataError: if one cannot be decoded, or is not an 8-bit image; names the first.
    """
    out = np.empty((len(files), *shape), dtype=np.uint8)
    called = [str(file) for file in files] if names is None else names

    def decode(file: Path | bytes, name: str) -> NDArray[np.uint8]:
        mode = "L" if shape[0] == 1 else "RGB"
        pixels = _opened(file, name, lambda image: _read(image, shape[1:], mode))
        return pixels[None] if shape[0] == 1 else pixels.transpose(2, 0, 1)

    # Pillow lets go of the interpreter lock while it decodes. The copy is NumPy's: torch would
    # share each one out over threads that the decoders need.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for place, pixels in enumerate(pool.map(decode, files, called)):
            out[place] = pixels
    return torch.as_tensor(out)


def image_header(file: Path | bytes, *, name: str | None = None) -> tuple[int, int, int]:
    """Return (C, H, W) of an image, from its header; C is 1 for grey and 3 for all else.

    Raises:
        DataError: if it cannot be read as an image.
    """
    called = str(file) if name is None else name
    return _opened(
        file, called, lambda image: (1 if image.mode in _GREY else 3, image.height, image.width)
    )


def _read(image: "Image", size: tuple[int, int], mode: str) -> NDArray[np.uint8]:
    from PIL.Image import Resampling

    if image.mode.startswith(("I", "F")):
        # Pillow clips these to 255 instead of scaling them, and says nothing.
        raise _DeepImageError(image.mode)
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB it warns of a transparent palette
    top, left, bottom, right = centred_box((image.height, image.width), size)
    box = image.convert(mode).crop((left, top, right, bottom))
    return np.array(box.resize((size[1], size[0]), Resampling.BICUBIC))


class _DeepImageError(Exception):
    """An image with more than 8 bits a channel."""


def _opened(file: Path | bytes, name: str, read: "Callable[[Image], Read]") -> Read:
    from PIL.Image import DecompressionBombError
    from PIL.Image import open as open_image

    try:
        with open_image(file if isinstance(file, Path) else BytesIO(file)) as image:
            return read(image)
    except _DeepImageError as error:
        raise DataError(
            f"{name} has more than 8 bits a pixel (mode {error}): save it as 8-bit PNG"
        ) from error
    except (*_UNREADABLE, DecompressionBombError) as error:
        said = _said(error, file)
        raise DataError(f"cannot decode {name} ({said}): replace or remove it") from error


def _said(error: BaseException, file: Path | bytes) -> str:
    """Name the error without the folder: where it is cut off must not hang on where files lie."""
    if not isinstance(file, Path):
        # Pillow shows the buffer's address, which is another each time
        return type(error).__name__
    if repr(str(file)) not in str(error):  # so Pillow quotes it
        return reason(error)
    return f"{type(error).__name__}: {str(error).replace(repr(str(file)), file.name)}"[:160]
