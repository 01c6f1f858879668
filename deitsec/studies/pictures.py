"""Pictures within a result: 8-bit images as text that JSON can say, and back."""

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def packed(images: Tensor) -> dict[str, Any]:
    """Images as plain values.

    Args:
        images: (N, C, H, W), uint8 or float in [0, 1], which is rounded.

    Raises:
        ValueError: another shape.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (N, C, H, W), got {tuple(images.shape)}")
    if images.dtype != torch.uint8:
        images = (images.detach() * 255).round().clamp(0, 255).to(torch.uint8)
    rows = images.cpu().permute(0, 2, 3, 1).contiguous().numpy()
    text = base64.b64encode(zlib.compress(rows.tobytes(), 9)).decode()
    return {"shape": list(rows.shape), "zlib": text}


def unpacked(pictures: Mapping[str, Any]) -> NDArray[np.uint8]:
    """(N, H, W, C) uint8 images of what `packed` gave.

    Raises:
        ValueError: the bytes are not those of such images.
    """
    shape = tuple(pictures["shape"])
    wanted = math.prod(shape)
    # no more than is wanted is ever inflated
    content = zlib.decompressobj().decompress(base64.b64decode(pictures["zlib"]), wanted + 1)
    if len(content) != wanted:
        raise ValueError(f"pictures of shape {shape} take {wanted} bytes, got {len(content)}")
    return np.frombuffer(content, np.uint8).reshape(shape)
