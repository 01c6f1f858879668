"""A model whose input is not in [0, 1]: shifted and scaled, as a caller says.

All of it is computed in at least fp32, whatever the dtype of the images, which they keep: in bf16 a
mean alone may be off by half a grey level.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

_ROUNDING = 1e-4  # by which an image that was scaled and back may leave [0, 1]


class Outward(Protocol):
    """How a caller has images that are in [0, 1] here."""

    def outward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], as the caller has them."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """`outward = (image - mean) / std`, channel by channel.

    Attributes:
        mean: (1 or C, 1, 1), fp64 on the CPU, since not every device has fp64.
        std: (1 or C, 1, 1), likewise.
    """

    mean: Tensor
    std: Tensor
    _beside: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def of(cls, mean: Any, std: Any) -> Self:
        """The scale of these numbers, one or one a channel: sequences, arrays or tensors.

        Raises:
            ValueError: values that are not one a channel, or a std that is not positive.
        """
        shift, size = _per_channel("mean", mean), _per_channel("std", std)
        if 1 not in (len(shift), len(size)) and len(shift) != len(size):
            raise ValueError(f"mean and std must be as many, got {len(shift)} and {len(size)}")
        if not bool((size > 0).all()):
            raise ValueError(f"std must be > 0, got {size.flatten().tolist()}")
        return cls(shift, size)

    def outward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], as the caller has them."""
        mean, std = self._numbers(images)
        return ((images - mean) / std).to(images.dtype)

    def inward(self, images: Tensor) -> Tensor:
        """The caller's images in [0, 1]; what left it by rounding is brought back."""
        mean, std = self._numbers(images)
        return _brought_back(images * std + mean, (images * std).abs() + mean.abs(), images.dtype)

    def _numbers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std where the images are, brought there once: a graph may not copy them."""
        key = images.device, torch.promote_types(images.dtype, torch.float32)
        if key not in self._beside:
            self._beside[key] = self.mean.to(*key), self.std.to(*key)
        return self._beside[key]


@dataclass(frozen=True, slots=True)
class Range:
    """`outward = low + image * (high - low)`.

    Attributes:
        low: of the caller's images.
        high: of the caller's images.
    """

    low: float
    high: float

    @property
    def span(self) -> float:
        """Length of the range: what a distance of 1 is to the caller."""
        return self.high - self.low

    @property
    def plain(self) -> bool:
        """Whether it is [0, 1], and nothing is to be done."""
        return (self.low, self.high) == (0.0, 1.0)

    def outward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], as the caller has them."""
        if self.plain:
            return images
        wide = torch.promote_types(images.dtype, torch.float32)
        return (images.to(wide) * self.span + self.low).to(images.dtype)

    def inward(self, images: Tensor) -> Tensor:
        """The caller's images in [0, 1]; what left it by rounding is brought back."""
        if self.plain:
            return images
        wide = torch.promote_types(images.dtype, torch.float32)
        inside = (images.to(wide) - self.low) / self.span
        return _brought_back(inside, inside.abs() + abs(self.low / self.span), images.dtype)

    def returned(self, images: Tensor, clean: Tensor, given: Tensor) -> Tensor:
        """Images in [0, 1] for the caller: in the range, `given` to the last bit where `clean`."""
        if self.plain:
            return images
        back = self.outward(images).clamp(self.low, self.high)
        return torch.where(images == clean, given.to(images.device), back)


class Scaled(nn.Module):
    """A model that takes images as a caller has them, as one that takes images in [0, 1].

    Args:
        model: takes what `scale.outward` gives.
        scale: the caller's.
    """

    def __init__(self, model: nn.Module, scale: Outward) -> None:
        super().__init__()
        self.model = model
        self.scale = scale
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]."""
        return self.model(self.scale.outward(images))


def place(model: nn.Module) -> torch.device:
    """Where a model is."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _per_channel(name: str, values: Any) -> Tensor:
    """(1 or C, 1, 1) of a number, of C of them, or of C with axes of length 1 around."""
    held = values.detach().cpu() if isinstance(values, Tensor) else values
    numbers = torch.as_tensor(held, dtype=torch.float64, device="cpu")
    shape = tuple(numbers.shape)
    channels = shape[-3] if len(shape) >= 3 else numbers.numel()
    if numbers.numel() != max(channels, 1) or numbers.numel() == 0:
        raise ValueError(f"{name} must be a number or one a channel here, got shape {shape}")
    return numbers.reshape(-1, 1, 1)


def _brought_back(inside: Tensor, size: Tensor, dtype: torch.dtype) -> Tensor:
    """Clipped where it left [0, 1] by the rounding of numbers of this size in this dtype."""
    clipped = inside.clamp(0, 1)
    near = (inside - clipped).abs() <= (torch.finfo(dtype).eps * size).clamp(min=_ROUNDING)
    return torch.where(near, clipped, inside).to(dtype)
