"""The learning curves of adversarial training: training and test images, clean and attacked."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deitsec.report.figure import ATTACKED, CLEAN, new_figure, plot_style, png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, Any]]

# measured name -> label, colour, line
_CURVES = {
    "train_accuracy": ("training, clean", CLEAN, "--"),
    "test_accuracy": ("test, clean", CLEAN, "-"),
    "train_robust_accuracy": ("training, attacked", ATTACKED, "--"),
    "test_robust_accuracy": ("test, attacked", ATTACKED, "-"),
}


def draw_learning_curves(*histories: History, titles: Sequence[str] = ()) -> bytes:
    """Draw `learning_curves` as a PNG of at most 300 KB."""
    with plot_style():
        return png_bytes(learning_curves(*histories, titles=titles))


def learning_curves(*histories: History, titles: Sequence[str] = ()) -> "Figure":
    """Accuracy by epoch, one panel a run.

    Args:
        *histories: the epochs of each run: `dataclasses.asdict` of every `EpochRecord`. Epochs at
            which nothing was measured are left out.
        titles: one a run, or none.

    Raises:
        ValueError: if a run has no point, or the titles are not as many as the runs.
    """
    if titles and len(titles) != len(histories):
        raise ValueError(f"titles must be {len(histories)}, one a run, got {len(titles)}")
    figure = new_figure(2.6 * len(histories))
    axes = figure.subplots(len(histories), 1, squeeze=False, sharex=True)[:, 0]
    for place, (axis, history) in enumerate(zip(axes, histories, strict=True)):
        _draw(axis, history)
        if titles:
            axis.set_title(titles[place])
    axes[0].legend(fontsize=8, ncols=2)
    axes[-1].set_xlabel("epoch")
    return figure


def _draw(axis: Any, history: History) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    points = [record for record in history if set(_CURVES) <= record["measured"].keys()]
    if not points:
        raise ValueError("no learning curve was measured in this run: give curve_every")
    epochs = [record["epoch"] for record in points]
    for name, (label, color, line) in _CURVES.items():
        values = [record["measured"][name] for record in points]
        axis.plot(epochs, values, label=label, color=color, ls=line, marker="o", ms=2.5, lw=1.2)
    for record in history:
        if record["note"] is not None:
            axis.axvline(record["epoch"], color="black", lw=0.8, ls=":")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel("right")
    axis.grid(axis="y")
