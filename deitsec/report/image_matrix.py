"""A table of pictures, with a title to each row and each column."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deitsec.report.figure import ATTACKED, INK, WIDTH, new_figure
from deitsec.report.wording import shown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGE = 100  # side from which on an image is smoothed when it is drawn smaller
_TITLE = 12  # letters
_MOST_WIDTH = 9.0  # inches


def image_matrix(
    images: NDArray[np.uint8] | Sequence[Sequence[NDArray[np.uint8] | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    row_name: str = "",
    column_name: str = "",
    marked: NDArray[np.bool_] | None = None,
) -> "Figure":
    """Draw pictures in a table, such as source classes by target classes.

    Args:
        images: (R, S) pictures, each (H, W, C) uint8, grey or colour, all of one shape; None leaves
            a place empty.
        rows: R titles.
        columns: S titles.
        row_name: what the rows are.
        column_name: what the columns are.
        marked: (R, S) bool, pictures that get a frame, those of failed attacks say.

    Raises:
        ValueError: titles or marks that do not fit the pictures, or no picture at all.
    """
    shapes = {picture.shape for row in images for picture in row if picture is not None}
    if len(images) != len(rows) or any(len(row) != len(columns) for row in images):
        raise ValueError(
            f"images must be {len(rows)} rows of {len(columns)} pictures, as the titles are, got "
            f"rows of {[len(row) for row in images]}"
        )
    if len(shapes) != 1:
        raise ValueError(f"pictures must have one shape (H, W, C), got {sorted(shapes)}")
    if marked is not None and marked.shape != (len(rows), len(columns)):
        expected = (len(rows), len(columns))
        raise ValueError(f"marked must be {expected}, got {marked.shape}")
    height, width, _ = shapes.pop()
    across = min(_MOST_WIDTH, max(WIDTH, 0.45 * len(columns)))
    figure = new_figure(across * len(rows) * height / (len(columns) * width) + 0.3, width=across)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for (i, j), axis in np.ndenumerate(axes):
        _draw(axis, images[i][j], framed=marked is not None and bool(marked[i, j]))
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(shown_name(title, _TITLE), fontsize=7.5, fontweight="normal", pad=3)
    for axis, title in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(
            shown_name(title, _TITLE), fontsize=7.5, rotation=0, ha="right", va="center", labelpad=4
        )
    if column_name:
        figure.suptitle(column_name, fontsize=8.5, color=INK)
    if row_name:
        figure.supylabel(row_name, fontsize=8.5, color=INK)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    return figure


def _draw(axis: Any, picture: NDArray[np.uint8] | None, *, framed: bool) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(framed)
    axis.spines[:].set(color=ATTACKED, linewidth=1.5)
    if picture is None:
        return
    axis.imshow(
        picture.squeeze(-1) if picture.shape[2] == 1 else picture,
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="nearest" if max(picture.shape) <= _LARGE else "antialiased",
    )
