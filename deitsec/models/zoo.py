"""Models by name: the project's own networks, every timm model, and checkpoints."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from deitsec.models.checkpoint import find_model_card, load_weights
from deitsec.models.checkpoint_error import CheckpointError
from deitsec.models.classifier import Classifier
from deitsec.models.deit import deit_micro, next_whole_side
from deitsec.models.model_card import ModelCard
from deitsec.models.networks import (
    logistic_regression,
    mnist_dense,
    papernot_cifar10,
    papernot_mnist,
    small_cnn,
    vat_dense,
)
from deitsec.models.pretrained import weights_overlay
from deitsec.models.timm_import import import_timm

Size = int | tuple[int, int]

OWN_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "deit_micro": deit_micro,
    "logistic_regression": logistic_regression,
    "mnist_dense": mnist_dense,
    "mnist_dense_bn": partial(mnist_dense, batch_norm=True),
    "papernot_cifar10": papernot_cifar10,
    "papernot_mnist": papernot_mnist,
    "small_cnn": small_cnn,
    "vat_dense": vat_dense,
}
_OWN_MEAN, _OWN_STD = 0.5, 0.5
# What a checkpoint may ask timm for. Nothing here reads a file or the network.
_TIMM_ARGUMENTS = {"num_classes", "in_chans"}


def load_model(
    name: str | None = None,
    *,
    pretrained: bool = False,
    checkpoint: str | PathLike[str] | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    image_size: Size | None = None,
    head: str = "average",
) -> Classifier:
    """Build a model in eval mode, with new, published or saved weights.

    A checkpoint of `save_checkpoint` restores architecture, classes, normalisation and head; `name`
    may then be None. The network's input size: own networks are built for a square of the larger
    side of `image_size` (deit_micro: for the next multiple of 4); a timm model that takes every
    size and is not pretrained runs at `image_size`; any other timm model keeps the size it was made
    for. Images of another size are resized inside.

    Args:
        name: an own network or any timm model, with or without a tag ("resnet18.a1_in1k").
        pretrained: take timm's published weights, from the cache or the network.
        checkpoint: a safetensors or torch file.
        num_classes: number of logits; by default the model's own (10 for own networks).
        in_chans: channels of the images; by default the model's own.
        image_size: side, or (H, W), of the images.
        head: "average", "class" or "distillation" for a distilled model. Anything but "average"
            overrides the head of a checkpoint.

    Raises:
        ValueError: for an unknown name, arguments that contradict each other or the checkpoint, or
            a size or head that the model does not have.
        CheckpointError: (a ValueError) if weights cannot be had, read or trusted, or do not fit.
        ImportError: if timm is needed and cannot be imported.
    """
    if pretrained and checkpoint is not None:
        raise ValueError("pretrained=True and checkpoint= exclude each other: pass one of them")
    path = None if checkpoint is None else Path(checkpoint)
    card = None if path is None else find_model_card(path)
    if path is not None and card is not None:
        _check_agreement(card, path, name=name, num_classes=num_classes, in_chans=in_chans)
        return _restore(card, path, head=card.head if head == "average" else head).eval()
    if name is None:
        raise ValueError(
            "name is needed: no checkpoint was given"
            if path is None
            else f"name is needed: {path} carries no model card"
        )
    if name in OWN_NETWORKS:
        model = _new_own(name, pretrained, num_classes, in_chans, image_size, head)
    else:
        model = _build_timm(
            name,
            pretrained=pretrained,
            num_classes=num_classes,
            in_chans=in_chans,
            image_size=image_size,
            head=head,
        )
    if path is not None:
        load_weights(model, path)
    return model.eval()


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that match a shell pattern: own networks first, then timm's.

    Args:
        pattern: such as "deit*"; case matters.

    Raises:
        ImportError: if timm cannot be imported.
    """
    names = [*OWN_NETWORKS, *import_timm().list_models()]
    return [name for name in names if fnmatchcase(name, pattern)]


def build_own(name: str, *, head: str = "average", **arguments: Any) -> Classifier:
    """Build an own network from its constructor's arguments, in train mode and with new weights.

    Args:
        name: a key of `OWN_NETWORKS`.
        head: which head answers.
        **arguments: those of the constructor, such as patch_size for deit_micro, whose image_size
            becomes the next multiple of 4 where no patch_size is given.

    Raises:
        ValueError: for an unknown name, or an argument out of range.
        TypeError: for an argument that the constructor does not take.
    """
    if name not in OWN_NETWORKS:
        raise ValueError(f"name must be one of {', '.join(OWN_NETWORKS)}, got {name!r}")
    build = OWN_NETWORKS[name]
    defaults = {key: value.default for key, value in inspect.signature(build).parameters.items()}
    if unknown := set(arguments) - set(defaults):
        raise TypeError(f"{name} takes {', '.join(defaults)}; got {', '.join(sorted(unknown))}")
    full = {**defaults, **arguments}
    for key in ("num_classes", "in_chans", "image_size"):
        if full[key] < 1:
            raise ValueError(f"{key} must be >= 1, got {full[key]}")
    if name == "deit_micro" and full["patch_size"] is None:
        full["image_size"] = next_whole_side(full["image_size"])
    return Classifier(
        build(**full),
        name=name,
        num_classes=full["num_classes"],
        in_chans=full["in_chans"],
        input_size=(full["image_size"], full["image_size"]),
        mean=(_OWN_MEAN,) * full["in_chans"],
        std=(_OWN_STD,) * full["in_chans"],
        head=head,
        arguments=full,
    )


def _new_own(
    name: str,
    pretrained: bool,
    num_classes: int | None,
    in_chans: int | None,
    image_size: Size | None,
    head: str,
) -> Classifier:
    if pretrained:
        raise ValueError(f"{name} has no pretrained weights: train it, or pass checkpoint=FILE")
    side = None if image_size is None else max(_pair(image_size))
    given = {"num_classes": num_classes, "in_chans": in_chans, "image_size": side}
    return build_own(
        name, head=head, **{key: value for key, value in given.items() if value is not None}
    )


def _build_timm(
    name: str,
    *,
    pretrained: bool,
    num_classes: int | None,
    in_chans: int | None,
    image_size: Size | None,
    head: str,
) -> Classifier:
    timm = import_timm()
    cfg = _timm_cfg(timm, name)
    overlay = weights_overlay(name, cfg) if pretrained else None
    try:
        module = timm.create_model(
            name,
            pretrained=pretrained,
            pretrained_cfg_overlay=overlay,
            num_classes=num_classes,
            in_chans=in_chans,
        )
    except OSError as error:
        raise CheckpointError(
            f"the pretrained weights of {name} could not be read ({error})"
        ) from error
    cfg = module.pretrained_cfg
    if module.num_classes < 2:
        raise ValueError(f"{name} has no classification head of its own: pass num_classes=")
    channels, *native = cfg["input_size"]
    channels = channels if in_chans is None else in_chans
    keep = pretrained or cfg.get("fixed_input_size", False) or image_size is None
    return Classifier(
        module,
        name=name,
        num_classes=module.num_classes,
        in_chans=channels,
        input_size=(native[0], native[1]) if keep or image_size is None else _pair(image_size),
        mean=_adapt(cfg["mean"], channels),
        std=_adapt(cfg["std"], channels),
        head=head,
        arguments={"num_classes": module.num_classes, "in_chans": channels},
    )


def _timm_cfg(timm: Any, name: str) -> Any:
    """Return timm's PretrainedCfg of a name, None if it has none; name the nearest if unknown."""
    if timm.is_model(name):
        try:
            return timm.get_pretrained_cfg(name)
        except RuntimeError:
            pass  # the architecture exists, the tag does not
    if Path(name).is_file():
        raise ValueError(f"unknown model {name!r}: a file of weights is given as checkpoint")
    known = [*OWN_NETWORKS, *timm.list_models(), *timm.list_models(pretrained=True)]
    near = get_close_matches(name, known, n=1, cutoff=0.0)
    raise ValueError(f"unknown model {name!r}: the nearest name is {near[0]!r} (see list_models())")


def _adapt(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Fit a normalisation to other channels, averaged or repeated (as timm fits weights)."""
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(channels))


def _restore(card: ModelCard, path: Path, *, head: str) -> Classifier:
    if card.arguments is None:
        raise CheckpointError(
            f"{path} holds a wrapped {card.architecture}, which no name rebuilds: build it, "
            "load_weights(module, path) and wrap() it"
        )
    module = _rebuild(card, path)
    load_weights(module, path, assign=True)
    return Classifier(
        module,
        name=card.architecture,
        num_classes=card.num_classes,
        in_chans=card.in_chans,
        input_size=card.input_size,
        mean=card.mean,
        std=card.std,
        head=head,
        arguments=card.arguments,
    )


def _rebuild(card: ModelCard, path: Path) -> nn.Module:
    arguments = card.arguments or {}
    try:
        if card.architecture in OWN_NETWORKS:
            return OWN_NETWORKS[card.architecture](**arguments)
        if unknown := set(arguments) - _TIMM_ARGUMENTS:
            raise TypeError(f"timm models take {sorted(_TIMM_ARGUMENTS)}, got {sorted(unknown)}")
        timm = import_timm()
        _timm_cfg(timm, card.architecture)
        return timm.create_model(card.architecture, **arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the model card cannot be rebuilt ({error})") from error


def _check_agreement(
    card: ModelCard, path: Path, *, name: str | None, num_classes: int | None, in_chans: int | None
) -> None:
    if name is not None and name.partition(".")[0] != card.architecture.partition(".")[0]:
        raise ValueError(
            f"{path} holds {card.architecture}, got name={name!r}: pass that name, or None"
        )
    if num_classes not in (None, card.num_classes):
        raise ValueError(f"{path} has {card.num_classes} classes, got num_classes={num_classes}")
    if in_chans not in (None, card.in_chans) and {in_chans, card.in_chans} != {1, 3}:
        raise ValueError(f"{path} takes {card.in_chans} channels, got in_chans={in_chans}")


def _pair(size: Size) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else (size[0], size[1])
    if min(pair) < 1:
        raise ValueError(f"image_size must be >= 1, got {size}")
    return pair
