"""Maps of where a model looks."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from deitsec.attacks.tokens import on_image, token_grid
from deitsec.engine.checked_model import CheckedModel, ModelError
from deitsec.engine.guard import attack_mode, calculation
from deitsec.engine.memory import rows_by_size
from deitsec.engine.parts import look_into
from deitsec.engine.rows import check_images
from deitsec.interpretation.rollout import attention_rollout

Method = Literal["gradient", "rollout"]
METHODS: tuple[Method, ...] = ("gradient", "rollout")


@torch.inference_mode(False)
def saliency(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    method: Method = "gradient",
    fusion: str = "mean",
    discard: float = 0.0,
    batch_size: int | None = None,
) -> Tensor:
    """Map where a model looks, each map scaled so that its largest value is 1.

    `gradient`: the largest |d logit_c / d x| over a pixel's channels (Simonyan et al.,
    arXiv:1312.6034, section 3.1). `rollout`: the share of each patch in the output of the token
    that answers (`attention_rollout`), smoothly enlarged to the image; of a distilled model that
    answers by both heads, the mean of the class and the distillation token; of one without such
    tokens, of all.

    Args:
        model: (B, C, H, W) images in [0, 1] -> (B, K) logits; asked in eval mode and left as it was
            found.
        images: (B, C, H, W) float in [0, 1].
        labels: (B,) integer classes whose logits are looked at; None takes those predicted. A
            rollout has no class.
        method: `gradient`, or `rollout` for a vision transformer.
        fusion, discard: see `attention_rollout`.
        batch_size: images that go together; None takes what fits.

    Returns:
        (B, H, W) in [0, 1], at least fp32, on the device of the images. A map is 0 everywhere where
        the gradient is.

    Raises:
        TypeError: images that are not floating.
        ValueError: images out of range, labels that do not fit, or an unknown method.
        ModelError: a rollout of a model without attention, or a gradient that there is none of.
    """
    check_images(images)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if labels is not None and (labels.shape != (len(images),) or labels.is_floating_point()):
        raise ValueError(
            f"labels must be ({len(images)},) integers, got {tuple(labels.shape)} {labels.dtype}"
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device = next((p.device for p in model.parameters()), images.device)
    size = batch_size or rows_by_size(images.shape[1:])
    checked = CheckedModel(model, torch.zeros(1) if labels is None else labels)
    maps: list[Tensor] = []
    with attack_mode(model), calculation(device, deterministic=False):
        for start in range(0, len(images), size):
            rows = slice(start, start + size)
            x = images[rows].detach().clone().to(device)
            if method == "gradient":
                classes = None if labels is None else labels[rows].to(device, torch.int64)
                found = _gradient(checked, x, classes)
            else:
                found = _rollout(model, x, fusion, discard)
            maps.append(_scaled(found).to(images.device))
    return torch.cat(maps)


def _gradient(model: Callable[[Tensor], Tensor], x: Tensor, classes: Tensor | None) -> Tensor:
    leaf = x.requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
    if not logits.requires_grad:
        raise ModelError("the model's logits do not depend on its input in a differentiable way")
    if classes is None:
        classes = logits.argmax(1)
    asked = torch.zeros_like(logits).scatter(1, classes[:, None], 1.0)
    (grad,) = torch.autograd.grad(logits, leaf, asked)
    return grad.abs().amax(1)


def _rollout(model: nn.Module, x: Tensor, fusion: str, discard: float) -> Tensor:
    with torch.no_grad():
        attention = look_into(model, x, "attention").attention
    height, width = x.shape[2:]
    prefix, _, _ = token_grid(attention[0].shape[-1], height, width)
    rolled = attention_rollout(attention, fusion=fusion, discard=discard, prefix=prefix)
    answering = _answering(model, prefix, rolled.shape[-1])
    patches = on_image(rolled[:, answering].mean(1), height, width)
    return functional.interpolate(patches, (height, width), mode="bilinear", align_corners=False)[
        :, 0
    ]


def _answering(model: nn.Module, prefix: int, tokens: int) -> list[int]:
    """The tokens whose output the model answers by."""
    if prefix == 0:
        return list(range(tokens))
    for module in model.modules():
        if getattr(module, "distilled", False) and prefix >= 2:
            heads = {"class": [0], "distillation": [1]}
            return heads.get(str(getattr(module, "head", "")), [0, 1])
    return [0]


def _scaled(maps: Tensor) -> Tensor:
    """Maps (B, H, W) over their largest value."""
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    largest = wide.amax((1, 2), keepdim=True)
    return wide / torch.where(largest > 0, largest, 1.0)
