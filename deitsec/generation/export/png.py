"""Images as PNG, which keeps every bit."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FAST = 1  # of zlib: adversarial noise is not worth more


def check_channels(shape: tuple[int, int, int]) -> None:
    """Refuse images that a PNG of 8 bits does not hold.

    Raises:
        ValueError: neither 1 nor 3 channels.
    """
    if shape[0] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels to be written as PNG, got {shape[0]}")


def encode_pngs(images: NDArray[np.uint8]) -> list[bytes]:
    """The files of images, (n, C, H, W) uint8 with C 1 or 3; grey ones stay grey."""
    pixels = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
    # Pillow lets go of the interpreter lock while it compresses
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_encode, np.ascontiguousarray(pixels)))


def _encode(pixels: NDArray[Any]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_FAST)
    return buffer.getvalue()
