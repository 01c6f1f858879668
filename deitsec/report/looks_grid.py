"""The picture of where the model looks, before and after an attack."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deitsec.report.example import Example
from deitsec.report.example_grid import shown_examples
from deitsec.report.figure import ATTACKED, INK, new_figure
from deitsec.report.wording import shown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METHODS = ("gradient", "attention")
_PALER = 0.55
"""How much of an image is washed out below its map."""


def looks_grid(examples: Sequence[Example], class_names: Sequence[str]) -> "Figure":
    """Draw where the model looks on each example, clean and attacked, one example a row.

    Args:
        examples: those of the picture grid, with maps.
        class_names: one name a class.
    """
    shown = shown_examples(examples)
    columns = 2 * len(shown[0].looks)
    figure = new_figure((4.4 / columns + 0.42) * len(shown))
    places = figure.subplots(len(shown), columns, squeeze=False)
    for axes, example in zip(places, shown, strict=True):
        _draw_row(axes, example, class_names)
    return figure


def _draw_row(axes: NDArray[Any], example: Example, class_names: Sequence[str]) -> None:
    for number, maps in enumerate(example.looks):
        for axis, attacked, own in zip(axes[2 * number :], (False, True), maps, strict=False):
            _draw_map(axis, example.adversarial if attacked else example.clean, own)
            predicted = example.adversarial_prediction if attacked else example.clean_prediction
            right = predicted == example.label
            answer = f"{'✓' if right else '✗'} {shown_name(class_names[predicted], 8)}"
            caption = f"{_METHODS[number]}\n{'attacked' if attacked else 'clean'} {answer}"
            axis.set_xlabel(caption, fontsize=7.5, color=INK if right else ATTACKED, labelpad=3)
    true = shown_name(class_names[example.label], 24)
    axes[0].set_title(f"{true}, row {example.row}: {example.attack}", loc="left", fontsize=8.5)


def _draw_map(axis: Any, image: NDArray[np.uint8], looks: NDArray[np.uint8]) -> None:
    """Lay a map over its image, the thinner the less it says."""
    axis.imshow(_paler(image), interpolation="nearest")
    alpha = 0.15 + 0.85 * looks / 255
    axis.imshow(looks, cmap="inferno", vmin=0, vmax=255, alpha=alpha, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _paler(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image in grey, washed out, so that only the map has colour."""
    grey = image.astype(float).mean(axis=2)
    pale = 255 - (255 - grey) * (1 - _PALER)
    return np.repeat(pale[:, :, None], 3, axis=2).astype(np.uint8)
