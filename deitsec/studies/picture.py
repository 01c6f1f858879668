"""Pictures inside of a result: PNG as text, so that a page can be made of the result alone."""

import base64
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]


def packed(image: Tensor) -> str:
    """An image (C, H, W) in [0, 1], rounded to 8 bits, as the text of a PNG."""
    levels = (image.detach().cpu().double().clamp(0, 1) * 255).round().to(torch.uint8)
    return _text(levels.permute(1, 2, 0).numpy())


def packed_change(clean: Tensor, adv: Tensor) -> str:
    """adv - clean in levels of 8 bits around 128, which takes fewer bytes than the image."""
    before, after = ((image.detach().cpu().double() * 255).round() for image in (clean, adv))
    change = (128 + after - before).clamp(0, 255).to(torch.uint8)
    return _text(change.permute(1, 2, 0).numpy())


def unpacked(text: str) -> Picture:
    """The picture (H, W, C) uint8."""
    from PIL import Image  # matplotlib depends on it

    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        picture = np.asarray(image)
    return picture[:, :, None] if picture.ndim == 2 else picture


def changed(clean: Picture, change: Picture) -> Picture:
    """The picture after a change that `packed_change` wrote."""
    return np.clip(clean.astype(int) + change.astype(int) - 128, 0, 255).astype(np.uint8)


def _text(picture: Any) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    flat = picture[:, :, 0] if picture.shape[2] == 1 else picture
    Image.fromarray(flat).save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
