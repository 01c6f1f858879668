"""The figures of defensive distillation."""

from collections.abc import Mapping, Sequence
from typing import Any

from deitsec.report.figure import ATTACKED, CLEAN, FAINT, new_figure
from deitsec.studies.defensive_distillation_published import MOST_VARIATION, PUBLISHED

Found = Mapping[str, Any]

BASELINE = "undistilled"  # name of the network that was not distilled
_CW = "#009E73"


def label(one: Found) -> str:
    """What a network is called in tables."""
    return one["name"] if one["name"] == BASELINE else f"T = {one['temperature']:g}"


def ranges(edges: Sequence[float]) -> list[str]:
    """The names of the ranges between edges, given as powers of ten."""
    return [f"< 10^{edges[0]:g}", *(f"to 10^{edge:g}" for edge in edges[1:]), "above"]


def _distilled(found: Found) -> tuple[list[float], list[Found]]:
    ones = found["networks"][1:]
    return [one["temperature"] for one in ones], ones


def success(found: Found, name: str) -> Any:
    """Success of the attacks by temperature."""
    temperatures, ones = _distilled(found)
    figure = new_figure(3.2)
    axes = figure.subplots()
    for key, colour, which in (
        ("jsma", ATTACKED, "JSMA on probabilities (the paper's)"),
        ("jsma_cooled", CLEAN, "JSMA on softmax(z / T)"),
    ):
        values = [100 * one[key]["success"] for one in ones]
        axes.plot(temperatures, values, marker="o", ms=4, color=colour, label=which)
    cw = [100 * (one["cw"]["success"] or 0.0) for one in ones]
    axes.plot(temperatures, cw, marker="s", ms=4, color=_CW, label="C&W (untargeted)")
    published = PUBLISHED.get((found["network"], name))
    if published:
        axes.axhline(100 * published["success"][0], color=FAINT, ls=":", lw=1)
        axes.plot(
            [100],
            [100 * published["success"][1]],
            marker="x",
            ls="none",
            color="black",
            label="published: undistilled (dotted), T = 100",
        )
    axes.set(xscale="log", xlabel="temperature", ylabel="success in %", ylim=(-3, 104))
    _ticks(axes, temperatures)
    figure.legend(loc="outside upper center", ncol=2, fontsize=6.5)
    return figure


def robustness(found: Found, name: str) -> Any:
    """Least share of values to change, by temperature."""
    temperatures, ones = _distilled(found)
    base = found["networks"][0]
    figure = new_figure(2.6)
    axes = figure.subplots()
    for key, colour, which in (
        ("jsma", ATTACKED, "JSMA on probabilities (the paper's)"),
        ("jsma_cooled", CLEAN, "JSMA on softmax(z / T)"),
    ):
        values = [100 * one[key]["robustness"] for one in ones]
        axes.plot(temperatures, values, marker="o", ms=4, color=colour, label=which)
        axes.axhline(100 * base[key]["robustness"], color=colour, ls=":", lw=1)
    published = PUBLISHED.get((found["network"], name))
    if published:
        axes.axhline(100 * published["robustness"][0], color=FAINT, ls=":", lw=1)
        which = "published, T = 100"
        theirs = [100 * published["robustness"][1]]
        axes.plot([100], theirs, marker="x", ls="none", color="black", label=which)
    axes.set(xscale="log", xlabel="temperature", ylabel="values changed in %")
    axes.set_ylim(bottom=0)
    _ticks(axes, temperatures)
    axes.legend(fontsize=7, title="dotted: undistilled (grey: published)", title_fontsize=7)
    return figure


def variation(found: Found) -> Any:
    """Accuracy of each distilled network less that of the undistilled one."""
    temperatures, ones = _distilled(found)
    base = found["networks"][0]["clean"]["accuracy"]
    figure = new_figure(2.4)
    axes = figure.subplots()
    values = [100 * (one["clean"]["accuracy"] - base) for one in ones]
    axes.axhspan(-100 * MOST_VARIATION, 100 * MOST_VARIATION, color="#dbe2ea", lw=0)
    axes.axhline(0, color=FAINT, lw=1)
    axes.plot(temperatures, values, marker="o", ms=4, color=CLEAN)
    axes.set(xscale="log", xlabel="temperature", ylabel="accuracy, points")
    axes.set_title("less that of the undistilled network; grey: as far as published", fontsize=8)
    _ticks(axes, temperatures)
    return figure


def gradients(found: Found) -> Any:
    """Shares of the images by amplitude of their gradients."""
    names = [label(one).removeprefix("T = ").replace(BASELINE, "none") for one in found["networks"]]
    figure = new_figure(3.2)
    axes = figure.subplots()
    below = [0.0] * len(names)
    import matplotlib

    parts = ranges(found["edges"])
    colours = matplotlib.colormaps["viridis_r"].resampled(len(parts))  # dark is small
    for index, part in enumerate(parts):
        values = [100 * one["gradients"]["bins"][index] for one in found["networks"]]
        axes.bar(names, values, bottom=below, color=colours(len(parts) - 1 - index), label=part)
        below = [low + value for low, value in zip(below, values, strict=True)]
    axes.set(xlabel="temperature", ylabel="images in %")
    axes.tick_params(axis="x", labelrotation=30)
    figure.legend(loc="outside right center", fontsize=6.5, title="amplitude", title_fontsize=7)
    return figure


def _ticks(axes: Any, temperatures: Sequence[float]) -> None:
    axes.set_xticks(temperatures, [f"{t:g}" for t in temperatures], fontsize=7)
    axes.minorticks_off()
