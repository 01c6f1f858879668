"""The plots of a report: confusion matrices, accuracy against eps, vulnerable classes, examples."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deitsec.report.chance import chance_accuracy
from deitsec.report.example import Example
from deitsec.report.example_grid import example_grid
from deitsec.report.figure import (
    ATTACKED,
    CLEAN,
    FAINT,
    INK,
    MARKERS,
    PALE,
    SERIES,
    WIDTH,
    new_figure,
    plot_style,
    png_bytes,
)
from deitsec.report.looks_grid import looks_grid
from deitsec.report.wording import (
    NORM_SYMBOLS,
    attack_label,
    percent,
    shown_name,
    strongest,
    sweep_norm,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOT_NAMES = (
    "examples.png",
    "looks.png",
    "confusion.png",
    "confusion-narrow.png",
    "accuracy-eps.png",
    "per-class.png",
)
MOST_BARS = 25

_MOST_NUMBERED = 12
"""Classes up to which a confusion matrix has its percentages written in."""
_MOST_TICKS = 25

Document = Mapping[str, Any]


def draw_plots(document: Document, examples: Sequence[Example] = ()) -> dict[str, bytes]:
    """Draw every plot that the report has figures for.

    Args:
        document: a whole report.
        examples: for the picture grid; the first six are drawn.

    Returns:
        File name (of `PLOT_NAMES`) -> PNG of at most 300 KB.
    """
    with plot_style():
        figures = {
            "confusion.png": confusion_matrices(document),
            "confusion-narrow.png": confusion_matrices(document, columns=1),
        }
        if examples:
            names = document["data"]["class_names"]
            figures["examples.png"] = example_grid(examples, names)
            if len(examples[0].looks):
                figures["looks.png"] = looks_grid(examples, names)
        if document["sweeps"]:
            figures["accuracy-eps.png"] = accuracy_against_eps(document)
        if document["per_class"]:
            figures["per-class.png"] = vulnerable_classes(document)
        return {name: png_bytes(figures[name]) for name in PLOT_NAMES if name in figures}


def accuracy_against_eps(document: Document) -> "Figure":
    """Robust accuracy of every sweep against eps, one panel a norm."""
    attacks, clean = document["attacks"], document["clean"]
    panels: dict[str, list[tuple[int, Any]]] = {}
    for index, sweep in enumerate(document["sweeps"]):
        norm = sweep_norm(sweep["attack"], attacks)
        panels.setdefault(norm, []).append((index, sweep))
    figure = new_figure(3.1 * len(panels))
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (norm, sweeps) in zip(axes, panels.items(), strict=True):
        scale = 255 if norm == "linf" else 1
        for index, sweep in sweeps:
            points = sorted((p["eps"] * scale, p["robust_accuracy"]) for p in sweep["points"])
            same_rows = sweep.get("rows", clean["rows"]) == clean["rows"]
            if same_rows and points[0][0] > 0:
                points.insert(0, (0.0, clean["accuracy"]))
            style = {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}
            axis.plot(
                *zip(*points, strict=True),
                label=shown_name(sweep["attack"], 28),
                clip_on=False,
                **style,
            )
        _reference_lines(axis, document)
        unit = "largest change of a pixel, grey levels of 255" if norm == "linf" else "distance"
        axis.set_xlabel(f"{unit} ({NORM_SYMBOLS[norm]})")
        axis.set_ylabel("right, clean and attacked")
        axis.set_xlim(left=0)
        _percent_axis(axis.yaxis)
        axis.set_ylim(-0.02, 1.02)
        axis.legend(loc="upper right", fontsize=8)
    return figure


def _reference_lines(axis: Any, document: Document) -> None:
    axis.axhline(chance_accuracy(document["clean"]), color=FAINT, ls=":", lw=1.2, label="chance")
    if document["gate"] is not None:
        asked = document["gate"]["min_robust_accuracy"]
        axis.axhline(asked, color=INK, ls="--", lw=1, label=f"gate {percent(asked, 0)}")


def _percent_axis(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.axes.grid(axis=axis.axis_name)


def confusion_matrices(document: Document, *, columns: int = 2) -> "Figure":
    """Confusion on clean images and under the strongest attack, in shares of the true class.

    Args:
        document: a whole report.
        columns: 2 draws them side by side, 1 the one above the other.
    """
    attack = strongest(document["attacks"])
    label = shown_name(attack_label(attack, document["attacks"]), 24)
    names = [shown_name(name, 12) for name in document["data"]["class_names"]]
    panels = (
        (document["clean"], "clean images", CLEAN),
        (attack, f"under {label}", ATTACKED),
    )
    figure = new_figure(4.4 * (3 - columns), width=WIDTH * columns)
    axes = figure.subplots(3 - columns, columns, squeeze=False).ravel()
    for axis, (metrics, title, color) in zip(axes, panels, strict=True):
        _draw_confusion(axis, np.asarray(metrics["confusion"], dtype=float), names)
        axis.set_title(f"{title}: {percent(metrics['accuracy'])} right", color=color)
    if len(names) > _MOST_NUMBERED:
        bar = figure.colorbar(axes[0].images[0], ax=list(axes), shrink=0.6, aspect=30, pad=0.02)
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
        _percent_axis(bar.ax.yaxis)
        bar.ax.grid(visible=False)
    return figure


def _draw_confusion(axis: Any, counts: NDArray[Any], names: Sequence[str]) -> None:
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.full_like(counts, np.nan), where=rows > 0)
    axis.set_facecolor("#e4e7eb")  # a class without images
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    every = math.ceil(len(names) / _MOST_TICKS)
    ticks = range(0, len(names), every)
    size = 7.5 if len(names) <= _MOST_NUMBERED else 6
    labels = [names[tick] for tick in ticks]
    axis.set_xticks(ticks, labels, rotation=90 if len(names) > 2 else 0, fontsize=size)
    axis.set_yticks(ticks, labels, fontsize=size)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if len(names) <= _MOST_NUMBERED:
        edges = np.arange(len(names) + 1) - 0.5
        axis.set_xticks(edges, minor=True)
        axis.set_yticks(edges, minor=True)
        axis.grid(which="minor", color="white", linewidth=1.2)
        axis.tick_params(which="minor", length=0)
        _write_percentages(axis, shares)
    axis.set(xlabel="predicted class", ylabel="true class")


def _write_percentages(axis: Any, shares: NDArray[Any]) -> None:
    size = 7.5 if len(shares) > 5 else 11
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            ink = "white" if share > 0.55 else INK
            text = f"{100 * share:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=ink, fontsize=size)


def vulnerable_classes(document: Document) -> "Figure":
    """Accuracy of each class, clean and under attack, the most vulnerable first."""
    rows = most_vulnerable(document["per_class"])
    shown = rows[:MOST_BARS]
    figure = new_figure(0.9 + 0.24 * len(shown))
    axis = figure.subplots()
    places = range(len(shown))
    clean = [row["clean_accuracy"] or 0 for row in shown]
    robust = [row["robust_accuracy"] or 0 for row in shown]
    axis.barh(places, clean, height=0.72, color=PALE, label="clean")
    axis.barh(places, robust, height=0.4, color=ATTACKED, label="under attack")
    for place, row in zip(places, shown, strict=True):
        if row["most_confused_with"] is not None:
            taken = f"{shown_name(row['most_confused_with'], 12)}, {percent(row['share'], 0)}"
            axis.text(1.03, place, taken, va="center", fontsize=7)
    axis.text(1.03, -0.85, "taken most for", va="center", fontsize=7, fontweight="bold")
    axis.set_yticks(places, [shown_name(row["name"], 14) for row in shown])
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_xlim(0, 1)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    _percent_axis(axis.xaxis)
    which = f"the {len(shown)} weakest of {len(rows)} classes" if shown != rows else ""
    axis.set_xlabel(f"images that are right ({which})" if which else "images that are right")
    figure.legend(loc="outside upper left", ncols=2, fontsize=8)
    return figure


def most_vulnerable(per_class: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The classes that have images, the lowest accuracy under attack first."""
    present = [row for row in per_class if row["rows"]]
    return sorted(present, key=lambda row: (row["robust_accuracy"], row["clean_accuracy"]))
