"""What a classifier's last layer sees: the features that its logits are linear in."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.models.classifier import Classifier


def penultimate(model: nn.Module, images: Tensor) -> Tensor:
    """Return the inputs of the last layer at images, without a graph.

    The layer is what timm calls the classifier of a network, of a distilled one both heads, whose
    inputs stand side by side; of other networks it is the last linear layer with as many outputs as
    there are classes. The model is asked in the mode that it is in.

    Args:
        model: a `Classifier`, or any module with `num_classes` and such a layer.
        images: (B, C, H, W) in [0, 1].

    Returns:
        (B, D) at least fp32, on the device of the images.

    Raises:
        ValueError: a model without such a layer, a black box say.
    """
    with _listening(last_layers(model)) as heard, torch.no_grad():
        model(images)
    if any(len(inputs) != 1 for inputs in heard):
        raise ValueError(
            f"{_name(model)}: the last layer must be asked once for a batch, got "
            f"{[len(inputs) for inputs in heard]} times"
        )
    features = torch.cat([inputs[0].flatten(1) for inputs in heard], 1)
    return features.to(torch.promote_types(features.dtype, torch.float32))


def last_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose outputs are the logits; see `penultimate`.

    Raises:
        ValueError: there is none.
    """
    network: Any = model.module if isinstance(model, Classifier) else model
    if hasattr(network, "get_classifier"):
        found = network.get_classifier()
        heads = list(found) if isinstance(found, tuple | list) else [found]
        if all(isinstance(head, nn.Linear | nn.Conv2d) for head in heads):
            return heads
    classes = getattr(model, "num_classes", None)
    linear: list[nn.Module] = [
        part
        for part in network.modules()
        if isinstance(part, nn.Linear) and part.out_features == classes
    ]
    if not linear:
        raise ValueError(
            f"{_name(model)} has no last linear layer of {classes} outputs, whose inputs are asked "
            "for; give a network that ends in one"
        )
    return linear[-1:]


@contextmanager
def _listening(layers: list[nn.Module]) -> Generator[list[list[Tensor]]]:
    """Write down what goes into layers while the block runs."""
    heard: list[list[Tensor]] = [[] for _ in layers]

    def listener(to: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: to.append(given[0].detach())

    hooks = [
        layer.register_forward_pre_hook(listener(to))
        for layer, to in zip(layers, heard, strict=True)
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _name(model: nn.Module) -> str:
    name = getattr(model, "name", None)
    return name if isinstance(name, str) else type(model).__name__
