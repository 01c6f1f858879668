"""Safetensors with a model card inside and beside, written whole, read without trust."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from deitsec import __version__
from deitsec.environment import package_version
from deitsec.models.checkpoint_error import CheckpointError
from deitsec.models.classifier import Classifier
from deitsec.models.hf_keys import from_transformers
from deitsec.models.model_card import ModelCard
from deitsec.models.state_file import read_metadata, read_tensors, strip_prefixes
from deitsec.models.weights_hash import network_of, state_sha256, tensors_of
from deitsec.whole_files import replace_files

# The only metadata key: safetensors writes several in random order, and files would differ byte for
# byte.
_CARD_KEY = "deitsec_card"
_LISTED = 5


def save_checkpoint(
    model: Classifier,
    path: str | PathLike[str],
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> ModelCard:
    """Write the weights to `path` and the model card into it and beside it, as `<stem>.card.json`.

    Nothing appears under the final names until everything is on the disk; folders are made. An
    interruption in between leaves the old weights, which carry their own card, beside the new card.

    Args:
        model: the classifier; it is not changed.
        path: file to write, ending in .safetensors.
        training: the recipe, anything that JSON can say.
        metrics: what was measured, anything that JSON can say.
        class_names: one a class, or None.

    Returns:
        The model card.

    Raises:
        TypeError: if `model` is no Classifier, or the card cannot be said in JSON.
        ValueError: if `path` ends otherwise, or class_names are not num_classes many.
        OSError: if the files cannot be written.
    """
    if not isinstance(cast(object, model), Classifier):
        raise TypeError(f"model must be a Classifier, got {type(model).__name__}: wrap() it first")
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}")
    if class_names is not None and len(class_names) != model.num_classes:
        raise ValueError(
            f"class_names must have {model.num_classes} entries, got {len(class_names)}"
        )
    tensors = tensors_of(model)
    card = _describe(model, tensors, training=training, metrics=metrics, class_names=class_names)
    text = card.to_json()
    # contiguous clones: safetensors refuses tensors that share memory.
    owned = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = save(owned, metadata={_CARD_KEY: text})
    replace_files({_card_path(path): text.encode(), path: weights})
    return card


def read_model_card(path: str | PathLike[str]) -> ModelCard:
    """Read the model card of a checkpoint: the one inside it, else the one beside it.

    Args:
        path: a checkpoint, or a .card.json file.

    Raises:
        CheckpointError: if there is no card, or it cannot be read.
    """
    card = find_model_card(Path(path))
    if card is None:
        raise CheckpointError(f"{path}: no model card inside it or beside it")
    return card


def find_model_card(path: Path) -> ModelCard | None:
    """Read the model card of a checkpoint, or return None if it has none.

    The card inside is the one of the weights; the one beside may be of a later save that was
    interrupted, and counts only for a file that has none inside.

    Raises:
        CheckpointError: if the card cannot be read.
    """
    if path.suffix == ".json":
        return _read_card_file(path)
    inside_text = read_metadata(path).get(_CARD_KEY)
    if inside_text is not None:
        return ModelCard.from_json(inside_text, source=path)
    return _read_card_file(_card_path(path)) if _card_path(path).is_file() else None


def load_weights(module: nn.Module, path: str | PathLike[str], *, assign: bool = False) -> None:
    """Load a checkpoint of any origin into a module that fits it.

    Names of timm, of transformers' ViT and DeiT, and of the module itself are understood.

    Args:
        module: a module, or a Classifier, whose network is loaded.
        path: a safetensors or torch file.
        assign: as in `Module.load_state_dict`: take the file's tensors, dtype and all, instead of
            copying.

    Raises:
        CheckpointError: if the file is unreadable, would run code, does not agree with its model
            card, or does not fit; then the module is as it was.
    """
    path = Path(path)
    card = find_model_card(path)
    tensors = read_tensors(path)
    if card is not None and (found := state_sha256(tensors)) != card.sha256:
        raise CheckpointError(
            f"{path}: the weights were altered or damaged: sha256 {found[:12]}…, "
            f"and the model card says {card.sha256[:12]}…"
        )
    network = network_of(module)
    expected = network.state_dict()
    tensors = from_transformers(strip_prefixes(tensors, expected))
    _check_fit(expected, tensors, path)
    network.load_state_dict(tensors, assign=assign)


def _describe(
    model: Classifier,
    tensors: Mapping[str, Tensor],
    *,
    training: Mapping[str, Any] | None,
    metrics: Mapping[str, Any] | None,
    class_names: Sequence[str] | None,
) -> ModelCard:
    mean, std = model.normalization
    return ModelCard(
        architecture=model.name,
        arguments=None if model.arguments is None else dict(model.arguments),
        num_classes=model.num_classes,
        class_names=None if class_names is None else tuple(class_names),
        in_chans=model.in_chans,
        input_size=model.input_size,
        head=model.head,
        mean=mean,
        std=std,
        training=None if training is None else dict(training),
        metrics=None if metrics is None else dict(metrics),
        sha256=state_sha256(tensors),
        deitsec=__version__,
        timm=package_version("timm"),
        torch=str(torch.__version__),
    )


def _check_fit(expected: Mapping[str, Any], given: Mapping[str, Tensor], path: Path) -> None:
    both = [name for name in expected if name in given]
    wrong = [
        f"{name} {tuple(given[name].shape)} for {tuple(expected[name].shape)}"
        for name in both
        if given[name].shape != expected[name].shape
    ]
    problems = {
        "missing": [name for name in expected if name not in given],
        "not expected": [name for name in given if name not in expected],
        "of another shape": wrong,
    }
    found = [f"{len(names)} {what}: {_some(names)}" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{path}: does not fit the network; {'; '.join(found)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")


def _card_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.card.json")


def _read_card_file(path: Path) -> ModelCard:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: the model card cannot be read ({error})") from error
    return ModelCard.from_json(text, source=path)
