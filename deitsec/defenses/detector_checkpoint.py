"""A detector as a safetensors file, which says whose detector it is."""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save

import deitsec
from deitsec.defenses.detector import Detector
from deitsec.models import CheckpointError, Classifier, model_sha256
from deitsec.models.state_file import read_metadata, read_tensors
from deitsec.whole_files import replace_files

_CARD_KEY = "deitsec_detector"
_FORMAT = 1


def save_detector(
    detector: Detector,
    path: str | PathLike[str],
    *,
    classifier: Classifier,
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a detector, its threshold, and whose it is, whole or not at all; folders are made.

    Args:
        detector: is not changed.
        path: file to write, ending in .safetensors.
        classifier: whose images it looks at; a hash of its weights is kept.
        training: what it was trained on, anything that JSON can say.

    Returns:
        The card that is in the file.

    Raises:
        ValueError: if `path` ends otherwise.
        TypeError: if `training` cannot be said in JSON.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}")
    card = {
        "format": _FORMAT,
        "shape": list(detector.shape),
        "num_classes": detector.num_classes,
        "width": detector.width,
        "classifier": {"name": classifier.name, "sha256": model_sha256(classifier)},
        "training": None if training is None else dict(training),
        "deitsec": deitsec.__version__,
    }
    owned = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in detector.state_dict().items()
    }
    replace_files({path: save(owned, metadata={_CARD_KEY: json.dumps(card, sort_keys=True)})})
    return card


def load_detector(path: str | PathLike[str], classifier: Classifier) -> Detector:
    """Read a detector in eval mode, onto the classifier's device.

    Args:
        path: what `save_detector` wrote.
        classifier: the one that it was trained for.

    Raises:
        CheckpointError: no detector, one that is damaged, or one of another classifier: its
            threshold and its false alarms would mean nothing.
    """
    path = Path(path)
    text = read_metadata(path).get(_CARD_KEY)
    if text is None:
        raise CheckpointError(f"{path}: this is no detector; `deitsec detect` writes one")
    card = cast(dict[str, Any], json.loads(text))
    if card["format"] != _FORMAT:
        raise CheckpointError(f"{path}: format {card['format']}, expected {_FORMAT}")
    theirs = card["classifier"]
    if theirs["sha256"] != model_sha256(classifier):
        raise CheckpointError(
            f"{path}: the detector was trained for another classifier ({theirs['name']}, sha256 "
            f"{theirs['sha256'][:12]}…) than {classifier.name}: train one for this"
        )
    channels, height, width = card["shape"]
    detector = Detector((channels, height, width), card["num_classes"], width=card["width"])
    try:
        detector.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit its own card: {error}") from error
    place = next((p.device for p in classifier.parameters()), None)
    return detector.to(place).eval()
