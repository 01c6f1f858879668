"""Receiver operating characteristics of a detector, one an attack."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deitsec.report.figure import FAINT, SERIES, new_figure
from deitsec.report.wording import shown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES = {"seen": "-", "unseen": "--", "adaptive": ":"}


def roc_curves(attacks: Sequence[Mapping[str, Any]], *, false_positives: float) -> "Figure":
    """Draw the curves, and the false positive rate at the detector's threshold.

    Args:
        attacks: with `spec`, `kind`, `auroc` and `curve`, as `Detection.summary` gives them; those
            without a curve are left out.
        false_positives: measured share of clean images that are detected.
    """
    figure = new_figure(3.6)
    axes: Any = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
    axes.axvline(false_positives, color=FAINT, linewidth=1)
    drawn = [attack for attack in attacks if attack["curve"]]
    for color, attack in zip(SERIES * 4, drawn, strict=False):
        label = f"{shown_name(attack['spec'], 24)}, {attack['kind']}: {attack['auroc']:.3f}"
        xs, ys = zip(*attack["curve"], strict=True)
        style = {"linestyle": _LINES[attack["kind"]], "linewidth": 1.6}
        axes.step(xs, ys, where="post", color=color, label=label, clip_on=False, **style)
    axes.set(xlabel="clean images detected", ylabel="adversarial images detected")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(True)
    if drawn:
        axes.legend(loc="lower right", fontsize=7, title="attack: AUROC", title_fontsize=7)
    return figure
