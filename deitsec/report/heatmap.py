"""A table of shares as colours, with the figures written in."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deitsec.report.figure import INK, WIDTH, new_figure
from deitsec.report.wording import shown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLE = 14  # letters


def heatmap(
    values: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    row_name: str = "",
    column_name: str = "",
) -> "Figure":
    """Draw shares in a table, such as sources by targets.

    Args:
        values: R rows of S shares in [0, 1]; None leaves a place empty.
        rows: R titles.
        columns: S titles.
        row_name: what the rows are.
        column_name: what the columns are.

    Raises:
        ValueError: titles that do not fit the values, or no value.
    """
    if not values or len(values) != len(rows) or any(len(row) != len(columns) for row in values):
        raise ValueError(
            f"values must be {len(rows)} rows of {len(columns)}, as the titles are, got rows of "
            f"{[len(row) for row in values]}"
        )
    figure = new_figure(0.9 + 0.42 * len(rows), width=max(WIDTH, 1.4 + 0.55 * len(columns)))
    axes: Any = figure.add_subplot()
    nothing = float("nan")
    axes.imshow(
        [[nothing if value is None else value for value in row] for row in values],
        cmap="Oranges",
        vmin=0,
        vmax=1,
        aspect="auto",
    )
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            text = "-" if value is None else f"{100 * value:.0f}%"
            dark = value is not None and value > 0.6
            colour = "white" if dark else INK
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    names = [[shown_name(name, _TITLE) for name in titles] for titles in (columns, rows)]
    axes.set_xticks(range(len(columns)), names[0], rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), names[1])
    axes.set(xlabel=column_name, ylabel=row_name)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
