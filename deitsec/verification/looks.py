"""Where the model looks on the images that a report shows."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from deitsec.data import to_float
from deitsec.interpretation import saliency
from deitsec.interpretation.saliency import METHODS, Method
from deitsec.report import Example


def with_looks(model: nn.Module, examples: Sequence[Example]) -> list[Example]:
    """The examples with maps of where the model looks, clean and attacked.

    By its gradient, and by attention rollout where it has attention.

    Args:
        model: what was attacked.
        examples: of one image shape.
    """
    if not examples:
        return []
    pairs = np.stack([image for e in examples for image in (e.clean, e.adversarial)])
    images = to_float(torch.from_numpy(pairs).permute(0, 3, 1, 2).contiguous())
    maps = [found for found in (_maps(model, images, m) for m in METHODS) if found is not None]
    if not maps:
        return list(examples)
    looks = torch.stack(maps, 1).unflatten(0, (len(examples), 2)).transpose(1, 2).numpy()
    return [
        dataclasses.replace(example, looks=own)
        for example, own in zip(examples, looks, strict=True)
    ]


def _maps(model: nn.Module, images: Tensor, method: Method) -> Tensor | None:
    """(N, H, W) uint8 maps; None of a model that has none of the kind."""
    try:
        found = saliency(model, images, method=method)
    except ValueError:  # no gradient, no attention, or attention that no rollout is defined for
        return None
    return (found * 255).round().byte().cpu()
