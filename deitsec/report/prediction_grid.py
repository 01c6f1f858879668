"""Pictures with a model's answers below them, right and wrong ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deitsec.report.figure import ATTACKED, INK, new_figure
from deitsec.report.wording import percent, shown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL = 0.72  # inches
_CAPTION = 0.34
_NAME = 8  # letters


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """A picture and what a model takes it for.

    Attributes:
        image: (H, W, C) uint8, grey or colour.
        label: true class.
        predicted: the model's.
        confidence: softmax of it, in [0, 1].
    """

    image: NDArray[np.uint8]
    label: int
    predicted: int
    confidence: float


def prediction_grid(
    rows: Mapping[str, Sequence[Prediction]], class_names: Sequence[str]
) -> "Figure":
    """Draw a row of pictures for each title.

    Args:
        rows: title -> pictures, as many as there are; the longest row decides the width.
        class_names: one name a class.

    Raises:
        ValueError: no picture at all.
    """
    columns = max(map(len, rows.values()), default=0)
    if columns == 0:
        raise ValueError("a grid of predictions needs at least one picture, got none")
    figure = new_figure((_CELL + _CAPTION) * len(rows), width=_CELL * columns + 0.6)
    axes: NDArray[Any] = figure.subplots(len(rows), columns, squeeze=False)
    for line, (title, shown) in zip(axes, rows.items(), strict=True):
        for axis in line[len(shown) :]:
            axis.set_axis_off()
        for axis, prediction in zip(line, shown, strict=False):
            _draw(axis, prediction, class_names)
        style: Any = {"fontsize": 7.5, "rotation": 0, "ha": "right", "va": "center"}
        line[0].text(-0.12, 0.5, title, transform=line[0].transAxes, **style)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0.02, hspace=0.02)
    return figure


def _draw(axis: Any, prediction: Prediction, class_names: Sequence[str]) -> None:
    image, right = prediction.image, prediction.predicted == prediction.label
    axis.imshow(
        image.squeeze(-1) if image.shape[2] == 1 else image,
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="nearest",
    )
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    answer = shown_name(class_names[prediction.predicted], _NAME)
    caption = f"{'✓' if right else '✗'} {answer}, {percent(prediction.confidence, 0)}"
    if not right:
        caption += f"\nis {shown_name(class_names[prediction.label], _NAME)}"
    axis.set_xlabel(caption, fontsize=6.5, color=INK if right else ATTACKED, labelpad=2)
