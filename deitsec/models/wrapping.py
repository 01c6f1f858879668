"""Any torch module as a Classifier."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from deitsec.models.classifier import Classifier

Values = float | Sequence[float] | Tensor


def wrap(
    module: nn.Module,
    *,
    mean: Values,
    std: Values,
    num_classes: int,
    input_size: int | tuple[int, int] | None = None,
    name: str | None = None,
    in_chans: int | None = None,
) -> Classifier:
    """Wrap `module`, which takes normalised images, so that it takes images in [0, 1].

    The module is neither copied nor changed. Its output may be logits, an object with `.logits`
    (Hugging Face), or DeiT's pair of a class and a distillation head, which is averaged. A
    Classifier is refused.

    Args:
        module: network from normalised images (B, C, H, W) to logits (B, num_classes).
        mean: one value or one a channel, in the units of [0, 1] images (0.1307, not 33.3).
        std: the same, > 0.
        num_classes: number of logits, >= 2.
        input_size: H and W that the network needs; images of another size are resized. None passes
            every size on.
        name: name of the architecture; by default the module's class.
        in_chans: channels of the network; by default one a value of mean, else those of its first
            convolution, else unknown, and then images of 1 and 3 channels are not adapted.

    Raises:
        TypeError: if `module` is no module, or a Classifier already.
        ValueError: if std <= 0, if mean and std disagree in length, or num_classes < 2.
    """
    means, deviations = _values("mean", mean), _values("std", std)
    if in_chans is None:
        in_chans = _channels_of(module, mean, std)
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    if size is not None and min(size) < 1:
        raise ValueError(f"input_size must be >= 1, got {input_size}")
    return Classifier(
        module,
        name=type(module).__name__ if name is None else name,
        num_classes=num_classes,
        in_chans=in_chans,
        input_size=size,
        mean=means,
        std=deviations,
    )


def _values(key: str, given: Values) -> tuple[float, ...]:
    values: Any = torch.as_tensor(given, dtype=torch.float64)
    if values.ndim > 1 and values.numel() != max(values.shape):
        raise ValueError(
            f"{key} must be a number or one a channel, got shape {tuple(values.shape)}"
        )
    if values.numel() == 0:
        raise ValueError(f"{key} must be a number or one a channel, got none")
    return tuple(values.flatten().tolist())


def _channels_of(module: nn.Module, mean: Values, std: Values) -> int | None:
    lengths = {
        torch.as_tensor(values).numel() for values in (mean, std) if torch.as_tensor(values).ndim
    }
    if len(lengths) > 1:
        raise ValueError(f"mean and std must have one length, got {sorted(lengths)}")
    if lengths:
        return lengths.pop()
    for part in module.modules() if isinstance(cast(object, module), nn.Module) else ():
        if isinstance(part, nn.Conv2d):
            return part.in_channels
    return None
