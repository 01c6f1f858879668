"""The picture grid: clean image, amplified change, adversarial image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deitsec.report.example import Example
from deitsec.report.figure import ATTACKED, INK, new_figure
from deitsec.report.wording import percent, shown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_EXAMPLES = 6
_MOST_LARGE = 3
"""Rows of images above 100 pixels: their noise does not compress, and text must stay legible."""
_LARGE = 100
_MIDDLE = 128
"""Grey level that shows no change."""


def example_grid(examples: Sequence[Example], class_names: Sequence[str]) -> "Figure":
    """Draw up to six examples, three of large images, one a row.

    Each change is amplified to the full range of grey.

    Args:
        examples: at least one.
        class_names: one name a class.
    """
    shown = shown_examples(examples)
    figure = new_figure(1.95 * len(shown))
    for axes, example in zip(figure.subplots(len(shown), 3, squeeze=False), shown, strict=True):
        _draw_row(axes, example, class_names)
    return figure


def shown_examples(examples: Sequence[Example]) -> Sequence[Example]:
    """Those that a picture has room for."""
    large = max(examples[0].clean.shape) > _LARGE
    return examples[: _MOST_LARGE if large else MOST_EXAMPLES]


def _draw_row(axes: NDArray[Any], example: Example, class_names: Sequence[str]) -> None:
    change, scale = amplified_change(example)
    largest = int(np.abs(example.adversarial.astype(int) - example.clean.astype(int)).max())
    cells = (
        (example.clean, *_prediction(example, class_names, adversarial=False)),
        (change, f"change \N{MULTIPLICATION SIGN}{scale}\nat most {largest} of 255", INK),
        (example.adversarial, *_prediction(example, class_names, adversarial=True)),
    )
    for axis, (image, caption, color) in zip(axes, cells, strict=True):
        axis.imshow(
            image.squeeze(-1) if image.shape[2] == 1 else image,
            cmap="gray",
            vmin=0,
            vmax=255,
            interpolation="nearest" if max(image.shape) <= _LARGE else "antialiased",
        )
        axis.set_xlabel(caption, fontsize=8, color=color, labelpad=3)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    true = shown_name(class_names[example.label], 24)
    title = f"{true}, row {example.row}: {example.attack}"
    axes[0].set_title(title, loc="left", fontsize=8.5, pad=4)


def _prediction(
    example: Example, class_names: Sequence[str], *, adversarial: bool
) -> tuple[str, str]:
    """The caption of an image, and its colour: a mark says right or wrong without colour too."""
    predicted = example.adversarial_prediction if adversarial else example.clean_prediction
    confidence = example.adversarial_confidence if adversarial else example.clean_confidence
    right = predicted == example.label
    answer = f"{shown_name(class_names[predicted], 12)}, {percent(confidence, 0)}"
    which = "adversarial" if adversarial else "clean"
    return f"{which}\n{'✓' if right else '✗'} {answer}", INK if right else ATTACKED


def amplified_change(example: Example) -> tuple[NDArray[np.uint8], int]:
    """The difference of the images around mid-grey, and the whole number it was multiplied by.

    The largest change that still fits is shown in full: black or white.
    """
    difference = example.adversarial.astype(int) - example.clean.astype(int)
    largest = int(np.abs(difference).max())
    scale = max(1, (_MIDDLE - 1) // largest) if largest else 1
    return np.clip(_MIDDLE + scale * difference, 0, 255).astype(np.uint8), scale
