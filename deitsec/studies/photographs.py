"""A photograph-sized classification without a download: crops of photographs that packages ship."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitsec.data import ArrayImageSet, DataSource, to_float
from deitsec.data.image_set import UNLABELLED
from deitsec.models import Classifier
from deitsec.models.timm_import import import_timm
from deitsec.studies.pretrained_photographs import (
    check_same,
    photographs_for,
    pretrained_network,
    told_pretrained,
)
from deitsec.studies.shipped_photographs import china, flower, hopper
from deitsec.studies.study import StudyRun
from deitsec.training import Augmentation, FitConfig, fit, predict
from deitsec.training.recipes import new_model

_STRIDE = 8
_TEST_SHARE = 0.4  # of the longer side


# class -> the photograph, two of scikit-learn and one of matplotlib, and whether its first end is
# for testing: the end that shows more of what the photograph is of
PHOTOGRAPHS: Mapping[str, tuple[Callable[[], NDArray[np.uint8]], bool]] = {
    "temple": (china, True),
    "flower": (flower, False),
    "officer": (hopper, True),
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is attacked.

    Attributes:
        model: the classifier.
        images: (N, 3, S, S) in [0, 1].
        labels: (N,) the photograph's class, or of a pretrained model its own answer.
        class_names: of the labels.
        facts: plain values for the result: `model`, `pretrained`, `accuracy`, `train`, `test`,
            `side` and `sha256` of the crops; of a pretrained model also those of
            `pretrained_network` and `photographs_for`, its mean `confidence` in its answers, and
            what it says of the `whole_photographs`: (name, answer, confidence).
        whole: rows that show a whole photograph; None where none does.
    """

    model: Classifier
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    facts: Mapping[str, Any]
    whole: tuple[int, ...] | None = None


def photographs(*, train: int, test: int, side: int) -> DataSource:
    """Crops of each photograph, whose class is which photograph.

    The crops of the test split are cut from one end of the longer side, those of the training split
    from the rest: no pixel is in both. Crops of a split overlap each other.

    Args:
        train, test: crops of each photograph.
        side: of a crop, in pixels of the photograph.

    Raises:
        ValueError: a side that no part of the photographs holds, or more crops than there are
            places.
    """
    parts: dict[str, list[Tensor]] = {"train": [], "test": []}
    for load, first in PHOTOGRAPHS.values():
        photograph = torch.as_tensor(np.array(load())).permute(2, 0, 1)
        along = 1 if photograph.shape[1] > photograph.shape[2] else 2
        length = photograph.shape[along]
        held = min(length, max(side, round(_TEST_SHARE * length)))
        if first:
            for_test, rest = photograph.split([held, length - held], dim=along)
        else:
            rest, for_test = photograph.split([length - held, held], dim=along)
        parts["train"].append(_crops(rest, train, side))
        parts["test"].append(_crops(for_test, test, side))
    sets = {
        split: ArrayImageSet(
            pixels=torch.cat(crops),
            labels=torch.arange(len(crops)).repeat_interleave(len(crops[0])),
        )
        for split, crops in parts.items()
    }
    names = tuple(PHOTOGRAPHS)
    return DataSource(uri="photographs", name="photographs", class_names=names, **sets)


def photograph_classifier(
    run: StudyRun[Any],
    *,
    model: str,
    pretrained: bool,
    weights: str | None = None,
    photos: str | None = None,
    epochs: int,
    train: int,
    test: int,
    side: int,
) -> Subject:
    """A classifier of photographs: with published weights, or trained here on some crops.

    Args:
        run: of a study; the training is a piece of it.
        model: a timm model.
        pretrained: take its published weights, which need a network or a cache. Its classes are
            not the photographs', so that its own answers on the clean images are the labels.
        weights: a file to take them from instead.
        photos: a data source to show it, where it has published weights.
        epochs: of the training.
        train, test, side: see `photographs`; a pretrained model is shown `test` views of each
            photograph, at its own size.
    """
    if pretrained or weights is not None:
        return _pretrained(run, model, weights, photos, test, side)
    data = photographs(train=train, test=test, side=side)
    config = FitConfig(
        epochs=epochs,
        batch_size=16,
        lr=2e-3,
        warmup_epochs=epochs / 10,
        augmentation=Augmentation(shift=0.1, scale=0.1, flip=True, padding="reflection"),
        validation=0.0,
        seed=run.seed,
    )
    network = replace(run, data=data).network(
        "photographs",
        lambda: new_model(model, data, seed=run.seed).to(run.device),
        lambda network, **more: fit(network, data, config, **more),
    )
    return _subject(network, data, {"model": model, "pretrained": False, "epochs": epochs})


def told(facts: Mapping[str, Any], *, option: str = "--model") -> str:
    """What the classifier is, in a sentence.

    Args:
        facts: of a `Subject`.
        option: of the command, that takes another classifier.
    """
    if facts["pretrained"]:
        return told_pretrained(facts)
    crops = f"crops of {facts['side']} x {facts['side']} pixels"
    return (
        f"{facts['model']}, trained here for {facts['epochs']} epochs to tell which of "
        f"{len(PHOTOGRAPHS)} photographs (scikit-learn's china and flower, matplotlib's Grace "
        f"Hopper) a crop is cut from: {facts['train']} {crops} to train on, {facts['test']} from "
        "another part of the photographs to test on, which overlap each other, so they count for "
        f"less than as many photographs would. It has {100 * facts['accuracy']:.1f}% of them "
        "right. It is no ImageNet classifier: where published weights can be had, "
        f"`{option} NAME --pretrained` takes one."
    )


def _pretrained(
    run: StudyRun[Any], model: str, weights: str | None, photos: str | None, test: int, side: int
) -> Subject:
    network, origin = pretrained_network(model, weights)
    network = network.to(run.device)
    pixels, shown = photographs_for(network, test, side=side, photos=photos)
    unknown = torch.full((len(pixels),), UNLABELLED)
    logits = predict(network, ArrayImageSet(pixels=pixels, labels=unknown))
    sure, answers = logits.double().softmax(1).max(1)
    names = _names(network.num_classes)
    known = ArrayImageSet(pixels=pixels, labels=answers)
    data = DataSource(
        uri="photographs", name="photographs", class_names=names, train=None, test=known
    )
    facts = {"model": model, "pretrained": True, "epochs": None, **origin, **shown}
    facts["confidence"] = sure.mean().item()
    firsts = range(0, len(pixels), shown["views"])
    listed = [name for package in shown["photographs"].values() for name in package]
    facts["whole_photographs"] = [
        (name, names[int(answers[row])], sure[row].item())
        for name, row in zip(listed, firsts, strict=False)  # of the user's own none is listed
    ]
    subject = _subject(network, data, facts)
    check_same(run, subject.facts)
    return replace(subject, whole=tuple(firsts))


def _subject(network: Classifier, data: DataSource, facts: Mapping[str, Any]) -> Subject:
    right = predict(network, data.test).argmax(1) == data.test.labels
    return Subject(
        model=network,
        images=to_float(data.test.images(torch.arange(len(data.test)))),
        labels=data.test.labels,
        class_names=data.class_names,
        facts={
            **facts,
            "accuracy": right.double().mean().item(),
            "classes": network.num_classes,
            "train": 0 if data.train is None else len(data.train),
            "test": len(data.test),
            "side": data.test.shape[-1],
            "sha256": data.sha256,
        },
    )


def _crops(part: Tensor, number: int, side: int) -> Tensor:
    """(number, 3, side, side) crops, evenly spread over the places of a grid."""
    _, height, width = part.shape
    places = [
        (top, left)
        for top in range(0, height - side + 1, _STRIDE)
        for left in range(0, width - side + 1, _STRIDE)
    ]
    if not 1 <= number <= len(places):
        raise ValueError(
            f"crops of a photograph must be 1 to {len(places)} where their side is {side}, "
            f"got {number}"
        )
    chosen = [places[i * len(places) // number] for i in range(number)]
    return torch.stack([part[:, t : t + side, left : left + side] for t, left in chosen])


def _names(number: int) -> tuple[str, ...]:
    """Names of ImageNet's classes, or numbers where there are as many as of nothing known."""
    if number != 1000:
        return tuple(map(str, range(number)))
    info = import_timm("data").ImageNetInfo()
    return tuple(info.index_to_description(i).partition(",")[0] for i in range(number))
