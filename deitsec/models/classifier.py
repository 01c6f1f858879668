"""A classifier as everybody else sees it: images in [0, 1] to logits, all preparation inside."""

from collections.abc import Callable, Mapping, Sequence, Sized
from math import isfinite
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

HEADS = ("average", "class", "distillation")

# ITU-R BT.601 luma: what PIL's convert("L") does, so grey images read from disk agree.
_LUMA = (0.299, 0.587, 0.114)


class Classifier(nn.Module):
    """Maps float images (B, C, H, W) in [0, 1] to logits (B, num_classes), differentiably.

    Inside, in this order: channels are adapted (1 -> 3 by repetition, 3 -> 1 by luma), images of
        another size
    are resized to `input_size` (bilinear, no antialiasing), (x - mean) / std is taken in fp32 or
    fp64, and the result takes the dtype of the network's weights.

    Attributes:
        module: the wrapped network; normalised images to logits.
        name: the name of the architecture.
        num_classes: number of logits.
        in_chans: channels that the network takes; None if unknown, and then channels are never
            adapted.
        input_size: (H, W) that the network sees; None to pass every size on.
        mean, std: (C, 1, 1) buffers, absent from every state dict; fp32 for a network of half
            precision too.
        normalization: (mean, std) as the tuples of floats that were given.
        head: "average", "class" or "distillation"; a network with one head has "average".
        arguments: what `build_own` or timm rebuilds the network from; None if it cannot be rebuilt
            by name.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        num_classes: int,
        in_chans: int | None,
        input_size: tuple[int, int] | None,
        mean: Sequence[float],
        std: Sequence[float],
        head: str = "average",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap `module` without changing it; train or eval mode is taken from it.

        Args:
            module: network from normalised images to logits.
            name: name of the architecture.
            num_classes: number of logits, >= 2.
            in_chans: channels that the network takes, or None.
            input_size: (H, W) that the network sees, or None.
            mean: one value, or one a channel, in the units of [0, 1] images.
            std: the same, > 0.
            head: which head of a distilled network answers (DeiT, arXiv:2012.12877, section 4).
            arguments: constructor arguments of the architecture.

        Raises:
            TypeError: if `module` is no module, or a Classifier already.
            ValueError: for an argument out of range, or a head that the network does not have.
        """
        super().__init__()
        _check_module(module)
        if num_classes < 2:
            raise ValueError(f"num_classes must be >= 2, got {num_classes}")
        _check_normalization(mean, std, in_chans)
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {head!r}")
        if head != "average" and not _has_two_heads(module):
            raise ValueError(
                f"head={head!r} was asked for, but {name} has one head: expected head='average'"
            )
        self.module = module
        self.training = module.training
        self.name = name
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.input_size = input_size
        self.normalization = (tuple(map(float, mean)), tuple(map(float, std)))
        self.head = head
        self.arguments = None if arguments is None else dict(arguments)
        dtype = _floating_dtype(module)
        wide = torch.float32 if dtype is None else torch.promote_types(dtype, torch.float32)
        self._register_normalization(_device_of(module), wide)

    @property
    def distilled(self) -> bool:
        """Whether the network has a class head and a distillation head."""
        return _has_two_heads(self.module)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, C, H, W) in [0, 1].

        Raises:
            ValueError: if the images cannot be adapted, or the network returns anything but (B,
                num_classes).
        """
        if self.head == "average":
            return self._checked(_logits_of(self.module(self._prepare(images))), len(images))
        class_logits, distillation_logits = self.forward_heads(images)
        return class_logits if self.head == "class" else distillation_logits

    def forward_heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (class logits, distillation logits), each (B, num_classes), in any mode.

        The distillation logits learn from the teacher, the class logits from the labels (DeiT,
        arXiv:2012.12877).

        Raises:
            ValueError: if the network has one head, or for images and logits as in `forward`.
        """
        if not self.distilled:
            raise ValueError(f"{self.name} has one head: forward_heads expects a distilled network")
        heads = _two_heads(self.module, self._prepare(images))
        return self._checked(heads[0], len(images)), self._checked(heads[1], len(images))

    def extra_repr(self) -> str:
        """Show what the wrapper does, before the network."""
        return (
            f"name={self.name!r}, num_classes={self.num_classes}, in_chans={self.in_chans}, "
            f"input_size={self.input_size}, normalization={self.normalization}, head={self.head!r}"
        )

    def _prepare(self, images: Tensor) -> Tensor:
        if images.ndim != 4:
            raise ValueError(f"images must be (B, C, H, W), got shape {tuple(images.shape)}")
        images = self._adapt_channels(images)
        if self.input_size is not None and tuple(images.shape[-2:]) != self.input_size:
            images = functional.interpolate(
                images, size=self.input_size, mode="bilinear", align_corners=False
            )
        # fp32: a pixel's 8 bits, shifted and scaled in bf16, are no longer told apart
        prepared = (images - self.mean) / self.std
        dtype = _floating_dtype(self.module)
        prepared = prepared if dtype is None else prepared.to(dtype)
        return prepared if self.in_chans is None else prepared.expand(-1, self.in_chans, -1, -1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Classifier":
        # what half() and to() call: they may have rounded the buffers, which start anew then
        super()._apply(fn, recurse)
        if self.mean.element_size() < torch.float32.itemsize:
            self._register_normalization(self.mean.device, torch.float32)
        return self

    def _register_normalization(self, device: torch.device | None, dtype: torch.dtype) -> None:
        for key, values in zip(("mean", "std"), self.normalization, strict=True):
            buffer = torch.tensor(values, device=device, dtype=dtype).view(-1, 1, 1)
            self.register_buffer(key, buffer, persistent=False)

    def _adapt_channels(self, images: Tensor) -> Tensor:
        given = images.shape[1]
        if self.in_chans in (None, given) or (given, self.in_chans) == (1, 3):
            return images  # one channel is repeated last of all, when it has been resized
        if (given, self.in_chans) == (3, 1):
            red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
            return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
        raise ValueError(
            f"{self.name} takes {self.in_chans} channels, got images of {given} channels"
        )

    def _checked(self, logits: Any, rows: int) -> Tensor:
        expected = (rows, self.num_classes)
        if isinstance(logits, Tensor) and tuple(logits.shape) == expected:
            return logits
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else _describe(logits)
        raise ValueError(
            f"{self.name} returned {got}, expected logits of shape {expected} (rows, num_classes)"
        )


def _check_module(module: object) -> None:
    if isinstance(module, Classifier):
        raise TypeError(
            "module is a Classifier already, and would be normalised twice: pass it on as it is"
        )
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")


def _check_normalization(mean: Sequence[float], std: Sequence[float], in_chans: int | None) -> None:
    for key, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, in_chans or len(mean)):
            raise ValueError(
                f"{key} must have 1 value or one a channel ({in_chans}), got {len(values)}"
            )
        if not all(isfinite(value) for value in values):
            raise ValueError(f"{key} must be finite, got {tuple(values)}")
    if min(std) <= 0:
        raise ValueError(f"std must be > 0, got {tuple(std)}")


def _floating_dtype(module: nn.Module) -> torch.dtype | None:
    floating = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floating, None)


def _device_of(module: nn.Module) -> torch.device | None:
    return next((parameter.device for parameter in module.parameters()), None)


def _has_two_heads(module: nn.Module) -> bool:
    # timm's DeiT, LeViT, PiT, EfficientFormer and SwiftFormer with distillation share these names.
    return isinstance(getattr(module, "head_dist", None), nn.Module) and all(
        hasattr(module, part) for part in ("forward_features", "forward_head", "global_pool")
    )


def _two_heads(module: nn.Module, prepared: Tensor) -> tuple[Tensor, Tensor]:
    # timm returns the pair only while training with a flag set, so its parts are called here in its
    # own order.
    network = cast(Any, module)
    features = network.forward_features(prepared)
    if network.global_pool == "token":
        class_features, distillation_features = (network.head_drop(features[:, i]) for i in (0, 1))
    else:
        class_features = distillation_features = network.forward_head(features, pre_logits=True)
    return network.head(class_features), network.head_dist(distillation_features)


def _logits_of(output: Any) -> Any:
    logits: Any = getattr(output, "logits", output)
    match logits:
        # DeiT's train-mode pair: averaged, as timm does it in eval mode.
        case (Tensor() as first, Tensor() as second) if first.shape == second.shape:
            return (first + second) / 2
        case _:
            return logits


def _describe(output: Any) -> str:
    length = f" of {len(output)}" if isinstance(output, Sized) else ""
    return f"a {type(output).__name__}{length}"
