"""The pictures of the MNIST study's page."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deitsec.report.example import Example
from deitsec.report.example_grid import example_grid
from deitsec.report.figure import ATTACKED, CLEAN, MARKERS, new_figure
from deitsec.report.image_matrix import image_matrix
from deitsec.report.prediction_grid import Prediction, prediction_grid
from deitsec.studies.pictures import unpacked

Found = Mapping[str, Any]

_COLOURS = (CLEAN, ATTACKED)  # of the first and the second network

_TITLES = {"convolutional": "convolution"}  # of 12 letters at most


def figures_of(found: Found, *, every: int) -> dict[str, Any]:
    """Every figure by name; one that has nothing to show is left out."""
    networks, names = found["networks"], found["class_names"]
    figures = {
        "training": training(networks["dense"]["training"], every=every),
        "answers": answers(networks, names),
        "fgsm": accuracy_by_radius(networks),
        "noise": from_noise(networks, names),
        **{f"targeted-{name}": targeted(one["targeted"], names) for name, one in networks.items()},
    }
    examples = fgsm_examples(networks)
    if examples:
        figures["fgsm-examples"] = example_grid(examples, names)
    return figures


def training(found: Found, *, every: int) -> Any:
    """Loss and accuracy by step."""
    from matplotlib.ticker import PercentFormatter

    steps = [every * record["epoch"] for record in found["epochs"]]
    figure = new_figure(3.6)
    above, below = figure.subplots(2, 1, sharex=True)
    style = {"marker": "o", "markersize": 3, "linewidth": 1.3}
    losses = [record["train_loss"] for record in found["epochs"]]
    measured = [record["measured"] for record in found["epochs"]]
    above.plot(steps, losses, color=CLEAN, linestyle="--", label="training", **style)
    above.plot(steps, [m["test_loss"] for m in measured], color=CLEAN, label="test", **style)
    below.plot(steps, [m["test_accuracy"] for m in measured], color=CLEAN, **style)
    above.set(ylabel="loss")
    above.set_ylim(bottom=0)
    above.legend(fontsize=8)
    below.set(ylabel="test accuracy", xlabel="step")
    below.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axis in (above, below):
        axis.grid(True)
    return figure


def answers(networks: Mapping[str, Found], names: list[str]) -> Any:
    """Right and wrong predictions of both networks."""
    rows = {
        f"{name},\n{kind}": _predictions(found["answers"][kind])
        for name, found in networks.items()
        for kind in ("right", "wrong")
        if found["answers"][kind]["row"]
    }
    return prediction_grid(rows, names)


def accuracy_by_radius(networks: Mapping[str, Found]) -> Any:
    """Accuracy under FGSM by radius, a line a network."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(3.0)
    axis = figure.subplots()
    looks = zip(MARKERS, _COLOURS, networks.items(), strict=False)
    for marker, colour, (name, found) in looks:
        points = [(0.0, found["fgsm"]["clean"])]
        points += [(point["eps"], point["accuracy"]) for point in found["fgsm"]["points"]]
        style = {"marker": marker, "markersize": 3.5, "linewidth": 1.3}
        axis.plot(*zip(*points, strict=True), color=colour, label=name, **style)
    axis.set(xlabel="eps, L-infinity on images in [0, 1]", ylabel="right, clean and attacked")
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlim(left=0)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(True)
    axis.legend(fontsize=8)
    return figure


def fgsm_examples(networks: Mapping[str, Found]) -> list[Example]:
    """A few images that fell, of each network."""
    examples: list[Example] = []
    for name, found in networks.items():
        shown = found["fgsm"]["examples"]
        if not shown["row"]:
            continue
        clean, adversarial = unpacked(shown["clean"]), unpacked(shown["adversarial"])
        examples += [
            Example(
                row=row,
                label=shown["label"][k],
                clean=clean[k],
                adversarial=adversarial[k],
                attack=f"FGSM, {name}",
                **{
                    key: shown[key][k]
                    for key in (
                        "clean_prediction",
                        "clean_confidence",
                        "adversarial_prediction",
                        "adversarial_confidence",
                    )
                },
            )
            for k, row in enumerate(shown["row"])
        ]
    return examples


def from_noise(networks: Mapping[str, Found], names: list[str]) -> Any:
    """The noise, and what it was made into for each class; failures have a frame."""
    starts = next(iter(networks.values()))["noise"]["starts"]
    pictures = [list(unpacked(starts))]
    pictures += [list(unpacked(found["noise"]["images"])) for found in networks.values()]
    failed = [[False] * len(names)]
    failed += [[not r for r in found["noise"]["shown_reached"]] for found in networks.values()]
    return image_matrix(
        pictures,
        rows=("noise", *(_TITLES.get(name, name) for name in networks)),
        columns=names,
        column_name="taken for",
        marked=np.array(failed),
    )


def targeted(found: Found, names: list[str]) -> Any:
    """Sources by targets; the diagonal has the sources themselves, and failures have a frame."""
    sources, images = unpacked(found["sources"]), unpacked(found["images"])
    count = len(names)
    pictures: list[list[Any]] = [[None] * count for _ in names]
    failed = np.zeros((count, count), dtype=bool)
    for k, source in enumerate(sources):
        pictures[k][k] = source
    for (source, target, kept), image in zip(found["pairs"], images, strict=True):
        pictures[source][target] = image
        failed[source, target] = not kept
    return image_matrix(
        pictures,
        rows=names,
        columns=names,
        row_name="looks like",
        column_name="taken for",
        marked=failed,
    )


def _predictions(shown: Found) -> list[Prediction]:
    images = unpacked(shown["pictures"])
    return [
        Prediction(image=image, label=label, predicted=predicted, confidence=confidence)
        for image, label, predicted, confidence in zip(
            images, shown["label"], shown["predicted"], shown["confidence"], strict=True
        )
    ]
