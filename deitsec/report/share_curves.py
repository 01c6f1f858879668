"""Shares as steps over a measure: certified accuracy by radius, and the like."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deitsec.report.figure import FAINT, MARKERS, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]


def share_curves(
    steps: Mapping[str, Points],
    *,
    xlabel: str,
    ylabel: str,
    marks: Mapping[str, Points] | None = None,
    chance: float | None = None,
) -> "Figure":
    """Draw falling shares as steps, and measured points beside them.

    Args:
        steps: by label, (x, share) in ascending x, at least one: the share holds up to x, included,
            and is 0 beyond the last.
        xlabel, ylabel: of the axes.
        marks: by label, single points; a label that is among `steps` takes its colour.
        chance: a share to draw as a dotted line.
    """
    figure = new_figure(3.0)
    axes: Any = figure.add_subplot()
    colours = dict(zip([*steps, *(marks or {})], SERIES * 4, strict=False))
    for label, points in steps.items():
        end = points[-1][0]  # beyond which nothing is left
        xs, shares = [*(x for x, _ in points), end], [*(share for _, share in points), 0.0]
        axes.step(xs, shares, where="pre", color=colours[label], label=label, linewidth=1.4)
    for marker, (label, points) in zip(MARKERS * 4, (marks or {}).items(), strict=False):
        xs, shares = [x for x, _ in points], [share for _, share in points]
        known = "_nolegend_" if label in steps else label
        style = {"marker": marker, "markersize": 4, "linestyle": "none"}
        axes.plot(xs, shares, color=colours[label], label=known, **style)
    if chance is not None:
        axes.axhline(chance, color=FAINT, linestyle=":", linewidth=1)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.02, 1.02))
    axes.set_xlim(left=0)
    axes.grid(True)
    axes.legend(fontsize=7)
    return figure
