"""The model card: enough to rebuild the model and to know where it came from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, cast

from deitsec.models.checkpoint_error import CheckpointError

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What a checkpoint is.

    Attributes:
        architecture: name, as `load_model` takes it (or the class of a wrapped module).
        arguments: constructor arguments of the architecture; None if it cannot be rebuilt by name.
        num_classes: number of logits.
        class_names: one a class, or None.
        in_chans: channels of the network, or None if unknown.
        input_size: (H, W) that the network sees, or None if every size is passed on.
        head: "average", "class" or "distillation".
        mean, std: normalisation, one value or one a channel, for images in [0, 1].
        training: the recipe, or None.
        metrics: what was measured, or None.
        sha256: `model_sha256` of the weights.
        deitsec, timm, torch: versions that wrote it; None for a package that was not installed.
        schema: version of this form.
    """

    architecture: str
    arguments: dict[str, Any] | None
    num_classes: int
    class_names: tuple[str, ...] | None
    in_chans: int | None
    input_size: tuple[int, int] | None
    head: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    training: dict[str, Any] | None
    metrics: dict[str, Any] | None
    sha256: str
    deitsec: str | None
    timm: str | None
    torch: str
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Write the card as JSON, keys sorted.

        Raises:
            ValueError: if training or metrics hold NaN or infinity.
            TypeError: if they hold something that JSON cannot say.
        """
        document = asdict(self)
        try:
            return json.dumps(
                document, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"training and metrics must be plain JSON values: {error}") from error

    @staticmethod
    def from_json(text: str, *, source: str | Path) -> "ModelCard":
        """Read a card; `source` is named in errors.

        Raises:
            CheckpointError: if the text is no model card, or one of a newer form.
        """
        try:
            document: Any = json.loads(text)
        except ValueError as error:
            raise CheckpointError(f"{source}: the model card is not JSON ({error})") from error
        if not isinstance(document, dict):
            raise CheckpointError(f"{source}: the model card must be a JSON object")
        return _card_of(cast(dict[str, Any], document), source)


_TYPES: dict[str, tuple[type, ...]] = {
    "architecture": (str,),
    "arguments": (dict, NoneType),
    "num_classes": (int,),
    "class_names": (list, NoneType),
    "in_chans": (int, NoneType),
    "input_size": (list, NoneType),
    "head": (str,),
    "mean": (list,),
    "std": (list,),
    "training": (dict, NoneType),
    "metrics": (dict, NoneType),
    "sha256": (str,),
    "deitsec": (str, NoneType),
    "timm": (str, NoneType),
    "torch": (str,),
    "schema": (int,),
}
_ITEMS: dict[str, tuple[type, ...]] = {
    "class_names": (str,),
    "input_size": (int,),
    "mean": (int, float),
    "std": (int, float),
}


def _card_of(document: Mapping[str, Any], source: str | Path) -> ModelCard:
    if document.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{source}: model card schema must be {SCHEMA}, got {document.get('schema')!r}"
        )
    names = {field.name for field in fields(ModelCard)}
    if names != set(document):
        raise CheckpointError(
            f"{source}: the model card lacks {sorted(names - set(document))} "
            f"and has unknown {sorted(set(document) - names)}"
        )
    for key, value in document.items():
        _check(key, value, source)
    values: dict[str, Any] = dict(document)
    for key in _ITEMS:
        values[key] = None if values[key] is None else tuple(values[key])
    return ModelCard(**values)


def _check(key: str, value: Any, source: str | Path) -> None:
    right = isinstance(value, _TYPES[key])
    if right and key in _ITEMS and value is not None:
        right = all(isinstance(item, _ITEMS[key]) for item in value)
        right = right and (key != "input_size" or len(value) == 2)
    if not right:
        expected = " or ".join(kind.__name__ for kind in _TYPES[key])
        raise CheckpointError(
            f"{source}: model card field {key!r} must be {expected}, got {value!r}"
        )
