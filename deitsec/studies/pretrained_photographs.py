"""A classifier of photographs with published weights, and the photographs that it is shown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deitsec.data import load_data
from deitsec.models import Classifier, load_foreign_weights, load_model, model_sha256
from deitsec.models.checkpoint import find_model_card
from deitsec.report.wording import joined
from deitsec.studies.shipped_photographs import (
    MOST_VIEWS,
    named_by_package,
    shipped_photographs,
    views,
)
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share
from deitsec.verification.protocol import choose_rows


def check_pretrained(
    pretrained: bool, weights: str | None, photos: str | None, number: int
) -> None:
    """Refuse options of a study that contradict each other.

    Args:
        pretrained, weights, photos: see `deitsec.studies.photographs.photograph_classifier`.
        number: of views of a photograph, where the weights are published.

    Raises:
        ValueError: two origins of the weights, a file that is not there, photographs of the user's
            own for a classifier that is trained here, or more views of one than there are.
    """
    if (pretrained or weights is not None) and photos is None and not 1 <= number <= MOST_VIEWS:
        raise ValueError(
            f"photo_test must be 1 to {MOST_VIEWS} with published weights, got {number}"
        )
    if pretrained and weights is not None:
        raise ValueError("pretrained and photo_weights exclude each other: give one of them")
    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"photo_weights: there is no file {weights}")
    if photos is not None and not pretrained and weights is None:
        raise ValueError(
            "photos are for a classifier that knows them already: give pretrained or photo_weights"
        )


def pretrained_network(model: str, weights: str | None) -> tuple[Classifier, dict[str, Any]]:
    """A timm model with published weights.

    Args:
        model: a timm model, whose configuration says how images are prepared.
        weights: a file of them, under its names, or another implementation's and in their order;
            None takes timm's, from the cache or the network.

    Returns:
        The classifier, and facts: `weights`, the file's name or None; `in_order`; and
        `network_sha256`.

    Raises:
        ValueError: as `load_model` and `load_foreign_weights`.
    """
    in_order = False
    if weights is None:
        network = load_model(model, pretrained=True)
    elif find_model_card(Path(weights)) is not None:
        network = load_model(model, checkpoint=weights)
    else:
        network = load_model(model)
        in_order = load_foreign_weights(network, weights)
    return network, {
        "weights": None if weights is None else Path(weights).name,
        "in_order": in_order,
        "network_sha256": model_sha256(network),
    }


def photographs_for(
    network: Classifier, number: int, *, side: int, photos: str | None = None
) -> tuple[Tensor, dict[str, Any]]:
    """What a pretrained classifier is shown, at the size that it takes.

    Args:
        network: of `pretrained_network`.
        number: views of each photograph that packages ship, or images of each class of `photos`.
        side: of a view, in pixels, for a network that takes every size.
        photos: a data source, or None.

    Returns:
        (N, C, S, S) uint8, photograph by photograph, and facts: `side`; `views`, `photographs` by
        their package, or `source`, the data source's name.
    """
    side = side if network.input_size is None else max(network.input_size)
    if photos is not None:
        source = load_data(photos, image_size=side)
        shown = source.test.images(choose_rows(source, number))
        return shown, {"side": side, "views": 1, "photographs": {}, "source": source.name}
    known = shipped_photographs()
    config: Mapping[str, Any] = getattr(network.module, "pretrained_cfg", {})
    crop = config.get("crop_pct") or 1.0
    shown = torch.cat([views(one.load(), number, side=side, crop=crop) for one in known])
    names = named_by_package(known)
    return shown, {"side": side, "views": number, "photographs": names, "source": None}


def check_same(run: StudyRun[Any], facts: Mapping[str, Any]) -> None:
    """Refuse to go on with the pieces of another network, or of other photographs.

    The settings of a run name a file and packages; what is in them may change between two runs.

    Raises:
        ValueError: they did.
    """
    keys = ("network_sha256", "sha256")
    now = {key: facts[key] for key in keys}
    before = run.part("photographs-shown", lambda: now)
    for key, what in zip(keys, ("weights", "photographs"), strict=True):
        if before[key] != now[key]:
            raise ValueError(
                f"{run.workbook.folder} holds the pieces of other {what}: {before[key][:12]}, and "
                f"these are {now[key][:12]}. Give another --out, or --fresh to start anew"
            )


def told_pretrained(facts: Mapping[str, Any]) -> str:
    """What the classifier is, and what it says of the clean photographs."""
    if facts["weights"] is None:
        weights = "timm's published weights"
    else:
        taken = ", another implementation's, taken in order" if facts["in_order"] else ""
        weights = f"the weights of {facts['weights']}{taken}"
    size = f"{facts['side']} x {facts['side']} pixels"
    if facts["source"] is not None:
        shown = f"{facts['test']} images of {facts['source']}, brought to {size}. What"
    else:
        packages = joined(
            [f"{package} ({', '.join(names)})" for package, names in facts["photographs"].items()]
        )
        number = sum(map(len, facts["photographs"].values()))
        overlap = (
            "; views of a photograph overlap, so they count for less than as many photographs would"
            if facts["views"] > 1
            else ""
        )
        shown = (
            f"{facts['test']} views of {number} photographs, {size}, that ship with "
            f"{packages}{overlap}. What"
        )
    said = [
        f"{name} *{answer}* ({share(sure, 1)})" for name, answer, sure in facts["whole_photographs"]
    ]
    of_whole = f" Of the whole photographs it says: {', '.join(said)}." if said else ""
    return (
        f"{facts['model']} with {weights} (sha256 {facts['network_sha256'][:12]}), on {shown} it "
        "answers to the clean image counts as right; it is "
        f"{share(facts['confidence'], 1)} sure of that on average.{of_whole}"
    )
