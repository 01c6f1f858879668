"""The plots of the page, from the rows of a result file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS, OTHERS, LIMIT = "#1f6f8b", "#b0b7bf", "#d9822b"
Row = dict[str, Any]


def slug(*parts: str) -> str:
    """A file name."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def rates(rows: Sequence[Row], file: Path, title: str) -> None:
    """Bars of images per second, one panel a row: each side on its own line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * min(3, len(rows)), 3.2 * -(-len(rows) // 3)))
    for index, row in enumerate(rows):
        axes = figure.add_subplot(-(-len(rows) // 3), min(3, len(rows)), index + 1)
        sides = {name: side for name, side in row["sides"].items() if "seconds" in side}
        names = list(sides)[::-1]
        values = [sides[name]["images_per_second"] for name in names]
        bars = axes.barh(names, values, color=[_colour(name) for name in names])
        axes.bar_label(bars, fmt=lambda value: f"{value:,.3g}", fontsize=7, padding=2)
        axes.set_title(f"{row['network']}, PGD-{row['steps']}", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("images per second", fontsize=8)
    _save(figure, file, title)


def rows_by_step(rows: Sequence[Row], file: Path, title: str) -> None:
    """Rows that still take a gradient, by step; the area is the sample-steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(rows), 3.0))
    for index, row in enumerate(rows):
        axes = figure.add_subplot(1, len(rows), index + 1)
        for name, side in row["sides"].items():
            steps = [*side["rows_by_step"], side["rows_by_step"][-1]]
            label = f"{name}: {side['sample_steps']:,}"
            style = "-" if name == "deitsec compaction" else ":"
            axes.step(range(len(steps)), steps, style, where="post", label=label)
        axes.set_title(row["network"], fontsize=9)
        axes.set_ylim(0, row["batch"] * 1.05)
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel("rows", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=6, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, file, title)


def _colour(name: str) -> str:
    if name == "model floor":
        return LIMIT
    return OURS if name.startswith("deitsec") else OTHERS


def _save(figure: Any, file: Path, title: str) -> None:
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    # no date and no version inside: the same results give the same bytes
    figure.savefig(file, dpi=130, metadata={"Software": None})
