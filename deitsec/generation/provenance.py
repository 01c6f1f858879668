"""What decides an attack or a model beside its spec and its weights."""

import dataclasses
import hashlib
from pathlib import Path

from torch import nn

from deitsec.attacks import Attack
from deitsec.models import Classifier


def file_sha256(path: Path) -> str:
    """Hash a file without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def attack_file_sha256(attack: Attack) -> str | None:
    """The hash of the file that an attack was made from beforehand; None where there is none.

    Of several files, those of an attack's stages, it is the hash of their hashes.

    Raises:
        OSError: a file cannot be read.
    """
    names = [
        getattr(stage, field.name)
        for stage in attack.stages
        for field in dataclasses.fields(stage)
        if field.metadata.get("made_first")
    ]
    hashes = [file_sha256(Path(name)) for name in names if name]
    if len(hashes) < 2:
        return next(iter(hashes), None)
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def preparation_of(model: nn.Module) -> str:
    """What a `Classifier` does to images and logits, which its weights do not say.

    Of a model that holds some, those of all of them; empty for other modules.
    """
    found = [module for module in model.modules() if isinstance(module, Classifier)]
    return "; ".join(map(_preparation, found))


def _preparation(model: Classifier) -> str:
    mean, std = (",".join(map(repr, values)) for values in model.normalization)
    size = "any" if model.input_size is None else "x".join(map(str, model.input_size))
    return f"mean={mean} std={std} head={model.head} input_size={size}"
