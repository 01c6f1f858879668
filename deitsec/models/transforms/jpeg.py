"""JPEG compression at a random quality, with a gradient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Table = tuple[tuple[float, ...], ...]
_KEPT: dict[tuple[Table, torch.device, torch.dtype], Tensor] = {}  # tables by where they are

# ITU-T T.81, annex K: quantisation of luminance and of chrominance at quality 50
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)
# JFIF: full-range ITU-R BT.601
_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class JPEG:
    """Compresses an image as JPEG, and decompresses it.

    What is rounded passes its gradient on as if it were not (straight through); all else has its
    own: the result is that of a JPEG file, to its rounding to 8 bits.

    Attributes:
        quality: (lowest, highest) of 1 to 100; uniform among the whole numbers.
        subsampling: whether colour has half the resolution, down and across (4:2:0), as most
            cameras and programs have it.
    """

    quality: tuple[int, int] = (60, 95)
    subsampling: bool = True

    def __post_init__(self) -> None:
        """Validate."""
        low, high = self.quality
        if not 1 <= low <= high <= 100:
            raise ValueError(
                f"quality must be (lowest, highest) within 1 to 100, got {self.quality}"
            )

    def num_draws(self, shape: Sequence[int]) -> int:
        """One.

        Raises:
            ValueError: images that are neither grey nor RGB.
        """
        if shape[0] not in (1, 3):
            raise ValueError(f"JPEG takes images of 1 or 3 channels, got {shape[0]}")
        return 1

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Compress and decompress."""
        low, high = self.quality
        quality = (low + (draws[:, :1] * (high - low + 1)).floor()).clamp(max=high)
        levels = _straight_through(x.to(draws.dtype).clamp(0, 1) * 255)
        if x.shape[1] == 1:
            back = _coded(levels - 128, _table(_LUMINANCE, quality)) + 128
        else:
            back = self._in_colour(levels, quality)
        return (_straight_through(back).clamp(0, 255) / 255).to(x.dtype)

    def _in_colour(self, levels: Tensor, quality: Tensor) -> Tensor:
        ycc = torch.einsum("ij,bjhw->bihw", _constant(_TO_YCC, levels.device, levels.dtype), levels)
        ycc = _straight_through(ycc)  # planes have 8 bits, before the cosines and after
        luma = _coded(ycc[:, :1] - 128, _table(_LUMINANCE, quality)) + 128
        chroma, table = ycc[:, 1:], _table(_CHROMINANCE, quality)
        if self.subsampling:
            height, width = levels.shape[2:]
            half = functional.avg_pool2d(_filled_up(chroma, 2), 2)
            # libjpeg rounds a mean of four whole numbers down and up in turn, column by column
            odd = torch.arange(half.shape[3], device=half.device) % 2
            half = _straight_through(half + odd / 4 - 0.125)
            whole = functional.interpolate(
                _coded(half, table), scale_factor=2, mode="bilinear", align_corners=False
            )
            chroma = _straight_through(whole[:, :, :height, :width])
        else:
            chroma = _coded(chroma, table)
        ycc = torch.cat([luma, chroma], 1)
        return torch.einsum("ij,bjhw->bihw", _constant(_TO_RGB, levels.device, levels.dtype), ycc)


def _table(base: Table, quality: Tensor) -> Tensor:
    """(B, 8, 8) quantisation at each quality (B, 1), as libjpeg scales it."""
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    table = (_constant(base, quality.device, quality.dtype) * percent[:, :, None] + 50) / 100
    return table.floor().clamp(1, 255)


def _brought(rows: Table, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A table on a device, copied there once: a CUDA graph cannot hold a copy from the host."""
    key = rows, device, dtype
    if key in _KEPT:
        return _KEPT[key]
    with torch.inference_mode(False):  # it outlives what is going on, and meets gradients later
        table = torch.tensor(rows, device=device, dtype=dtype)
    if type(table) is Tensor:  # one that is made while tracing has no values
        _KEPT[key] = table
    return table


@torch.compiler.assume_constant_result
def _constant(rows: Table, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The same to `torch.compile`, which would look past the cache."""
    return _brought(rows, device, dtype)


def _coded(plane: Tensor, table: Tensor) -> Tensor:
    """Planes (B, P, H, W) around 0 after their blocks' cosine transforms were quantised."""
    rows, planes, height, width = plane.shape
    filled = _filled_up(plane, 8)
    down, across = filled.shape[2] // 8, filled.shape[3] // 8
    blocks = filled.reshape(rows, planes, down, 8, across, 8).permute(0, 1, 2, 4, 3, 5)
    basis = _cosines(plane.device, plane.dtype)
    step = table[:, None, None, None]
    levels = _straight_through(basis @ blocks @ basis.T / step)
    blocks = basis.T @ (levels * step) @ basis
    whole = blocks.permute(0, 1, 2, 4, 3, 5).reshape(filled.shape)[:, :, :height, :width]
    return _straight_through(whole).clamp(-128, 127)


def _filled_up(plane: Tensor, multiple: int) -> Tensor:
    """Planes with the last row and column repeated up to a multiple."""
    height, width = plane.shape[2:]
    more = (0, -width % multiple, 0, -height % multiple)
    return functional.pad(plane, more, mode="replicate") if any(more) else plane


def _cosines(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The orthonormal cosine transform of 8 values: frequencies in rows."""
    place = torch.arange(8, device=device, dtype=dtype)
    basis = (math.pi / 8 * place[:, None] * (place + 0.5)).cos() / 2
    return torch.where(place[:, None] == 0, 0.125**0.5, basis)


def _straight_through(values: Tensor) -> Tensor:
    """Round, with the gradient of the identity."""
    return values + (values.round() - values).detach()
