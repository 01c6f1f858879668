"""A photograph-sized classification without a download: crops of photographs that packages ship."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitsec.data import ArrayImageSet, DataSource, to_float
from deitsec.models import Classifier, load_model
from deitsec.models.timm_import import import_timm
from deitsec.studies.study import StudyRun
from deitsec.training import Augmentation, FitConfig, fit, predict
from deitsec.training.recipes import new_model

_STRIDE = 8
_TEST_SHARE = 0.4  # of the longer side


def _china() -> NDArray[np.uint8]:
    from sklearn.datasets import load_sample_image  # pyright: ignore[reportMissingTypeStubs]

    return load_sample_image("china.jpg")


def _flower() -> NDArray[np.uint8]:
    from sklearn.datasets import load_sample_image  # pyright: ignore[reportMissingTypeStubs]

    return load_sample_image("flower.jpg")


def _hopper() -> NDArray[np.uint8]:
    from matplotlib import cbook, image

    samples: Any = cbook  # its stubs leave this unknown
    return image.imread(samples.get_sample_data("grace_hopper.jpg", asfileobj=False))


# class -> the photograph, two of scikit-learn and one of matplotlib, and whether its first end is
# for testing: the end that shows more of what the photograph is of
PHOTOGRAPHS: Mapping[str, tuple[Callable[[], NDArray[np.uint8]], bool]] = {
    "temple": (_china, True),
    "flower": (_flower, False),
    "officer": (_hopper, True),
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
            `side` and `sha256` of the crops.
    """

    model: Classifier
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    facts: Mapping[str, Any]


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
            not the photographs', so that its own answers on the clean crops are the labels.
        epochs: of the training.
        train, test, side: see `photographs`.
    """
    data = photographs(train=train, test=test, side=side)
    network: Classifier
    if pretrained:
        network = load_model(model, pretrained=True).to(run.device)
        answers = predict(network, data.test).argmax(1)
        names = _names(network.num_classes)
        pixels = data.test.images(torch.arange(len(data.test)))
        known = ArrayImageSet(pixels=pixels, labels=answers.cpu())
        data = replace(data, train=None, test=known, class_names=names)
    else:
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
    right = predict(network, data.test).argmax(1) == data.test.labels
    return Subject(
        model=network,
        images=to_float(data.test.images(torch.arange(len(data.test)))),
        labels=data.test.labels,
        class_names=data.class_names,
        facts={
            "model": model,
            "pretrained": pretrained,
            "epochs": None if pretrained else epochs,
            "accuracy": right.double().mean().item(),
            "classes": network.num_classes,
            "train": 0 if data.train is None else len(data.train),
            "test": len(data.test),
            "side": side,
            "sha256": data.sha256,
        },
    )


def told(facts: Mapping[str, Any], *, option: str = "--model") -> str:
    """What the classifier is, in a sentence.

    Args:
        facts: of a `Subject`.
        option: of the command, that takes another classifier.
    """
    crops = f"crops of {facts['side']} x {facts['side']} pixels"
    if facts["pretrained"]:
        return (
            f"{facts['model']} with timm's published weights, on {facts['test']} {crops} of "
            "photographs that ship with scikit-learn and matplotlib; what it answers to the clean "
            "crop counts as right."
        )
    return (
        f"{facts['model']}, trained here for {facts['epochs']} epochs to tell which of "
        f"{len(PHOTOGRAPHS)} photographs (scikit-learn's china and flower, matplotlib's Grace "
        f"Hopper) a crop is cut from: {facts['train']} {crops} to train on, {facts['test']} from "
        "another part of the photographs to test on, which overlap each other, so they count for "
        f"less than as many photographs would. It has {100 * facts['accuracy']:.1f}% of them "
        "right. It is no ImageNet classifier: where published weights can be had, "
        f"`{option} NAME --pretrained` takes one."
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
