"""The page of defensive distillation: its tables and figures, beside those that were published."""

from collections.abc import Mapping, Sequence
from typing import Any

from deitsec.report.figure import ATTACKED, CLEAN, FAINT, new_figure
from deitsec.studies.study import Document, Page
from deitsec.studies.tables import share, table

Found = Mapping[str, Any]

# arXiv:1511.04508: section V; success and robustness undistilled and at T = 100
_PUBLISHED: dict[str, dict[str, Any]] = {
    "papernot_mnist": {
        "accuracy": 0.9951,
        "success": (0.9589, 0.0045),
        "robustness": (0.0155, 0.1408),
    },
    "papernot_cifar10": {
        "accuracy": 0.8095,
        "success": (0.8789, 0.0511),
        "robustness": (0.0039, 0.0257),
    },
}
BASELINE = "undistilled"  # name of the network that was not distilled
_MOST_VARIATION = 0.0137
_CHANGES = ("epochs", "batch_size", "optimizer", "lr", "schedule", "precision")


def render(document: Document) -> Page:
    """The page below the head."""
    found = document["found"]
    parts = [
        _what(found, document),
        "## What the paper measured\n",
        _paper_table(found),
        "![JSMA's success by temperature](figure:success)\n",
        "![Robustness by temperature](figure:robustness)\n",
        "## Why: the gradients\n",
        _gradient_words(found),
        "![Amplitudes of the gradients](figure:gradients)\n",
        _gradient_table(found),
        "## What the defense is worth\n",
        _strong_words(found),
        _strong_table(found),
        "## Ours beside the published\n",
        _published_table(found),
    ]
    figures = {
        "success": _success(found),
        "robustness": _robustness(found),
        "gradients": _gradients(found),
    }
    return Page(markdown="\n".join(parts), figures=figures)


def _what(found: Found, document: Document) -> str:
    ours, paper = found["recipe"], found["paper_recipe"]
    changed = [
        f"{name} {ours[name]} (paper: {paper[name]})"
        for name in _CHANGES
        if ours[name] != paper[name]
    ]
    differs = "Trained as in the paper." if not changed else f"Trained with {', '.join(changed)}."
    jsma = found["networks"][0]["jsma"]
    return (
        f"Network {found['network']}, {ours['epochs']} epochs each. {differs} A network F is "
        "trained with softmax(z / T), another of the same architecture on its answers at T, and "
        f"that one is deployed at T = 1. JSMA aims {jsma['rows']} times (images x other classes) "
        f"and may change {jsma['limit']} values. It looks at probabilities in fp32, as the "
        "paper's does, and leaves out values that are 1 already, as the authors' library does; on "
        "softmax(z / T), which the paper did not try, nothing is saturated.\n"
    )


def _paper_table(found: Found) -> str:
    base = found["networks"][0]
    rows = [
        [
            _label(one),
            share(one["clean"]["accuracy"]),
            _points(one["clean"]["accuracy"] - base["clean"]["accuracy"]),
            share(one["jsma"]["success"]),
            share(one["jsma"]["robustness"]),
            _gain(one["jsma"]["robustness"], base["jsma"]["robustness"]),
            share(one["jsma_cooled"]["success"]),
            share(one["jsma_cooled"]["robustness"]),
        ]
        for one in found["networks"]
    ]
    head = [
        "temperature",
        "accuracy",
        "variation",
        "JSMA success",
        "robustness",
        "gain",
        "JSMA on softmax(z / T): success",
        "robustness",
    ]
    note = (
        "Robustness is the mean over images of the least share of values that reaches any other "
        "class; a class that was not reached counts as the limit.\n"
    )
    return table(head, rows) + "\n" + note


def _gradient_words(found: Found) -> str:
    base, last = found["networks"][0]["gradients"], found["networks"][-1]["gradients"]
    if base["median_log10"] is None or last["median_log10"] is None:
        return "Some networks have no gradient at all on most images.\n"
    fall = base["median_log10"] - last["median_log10"]
    return (
        "The mean amplitude of the derivatives of the probabilities in the image, taken in the log "
        f"domain, where floats would say 0: its median falls by a factor of 10^{fall:.1f} from the "
        f"undistilled network to T = {found['networks'][-1]['temperature']:g}. The smallest is "
        f"10^{last['least_log10']:.0f}; fp32 ends near 10^-45, and an attack that follows it there "
        "stands still.\n"
    )


def _gradient_table(found: Found) -> str:
    head = ["temperature", *_ranges(found["edges"]), "median"]
    rows = [
        [
            _label(one),
            *(share(part, 1) for part in one["gradients"]["bins"]),
            _power(one["gradients"]["median_log10"]),
        ]
        for one in found["networks"]
    ]
    return table(head, rows)


def _strong_words(found: Found) -> str:
    """A statement computed from the figures."""
    distilled = found["networks"][1:]
    hardest = min(distilled, key=lambda one: one["jsma"]["success"])
    by_cw = [one["cw"]["success"] or 0.0 for one in distilled]
    strongest, weakest = max(by_cw), min(by_cw)
    reached = share(weakest, 1)
    if strongest > weakest:
        reached += f" to {share(strongest, 1)}"
    apgd = max(one["apgd_dlr"]["accuracy"] for one in distilled)
    base = found["networks"][0]
    ratio = (
        hardest["cw"]["median_l2"] / base["cw"]["median_l2"]
        if hardest["cw"]["median_l2"] and base["cw"]["median_l2"]
        else None
    )
    words = (
        f"At T = {hardest['temperature']:g} JSMA on probabilities reaches "
        f"{share(hardest['jsma']['success'])} of its targets, and on softmax(z / T) "
        f"{share(hardest['jsma_cooled']['success'])}. C&W finds an adversarial image for "
        f"{reached} of the images of every distilled network, "
        f"and under APGD with the DLR loss at eps {found['eps']:.3g} at most {share(apgd, 1)} are "
        "still classified right."
    )
    if ratio is not None:
        words += (
            f" The median L2 distance that C&W needs there is {ratio:.2f} times that of the "
            "undistilled network: this is all that the defense gained."
        )
    broken = weakest >= 0.99
    verdict = (
        " **The defense hides gradients and does not make the network robust.**"
        if broken
        else " C&W left images standing, so this run does not settle what the defense is worth."
    )
    return words + verdict + "\n"


def _strong_table(found: Found) -> str:
    head = [
        "temperature",
        "PGD-40, T = 1",
        "no gradient",
        "PGD-40 on logits / T",
        "APGD-DLR",
        "C&W success",
        "C&W median L2",
    ]
    rows = [
        [
            _label(one),
            share(one["pgd"]["accuracy"], 1),
            share(one["pgd"]["undriven"], 1),
            share(one["pgd_cooled"]["accuracy"], 1),
            share(one["apgd_dlr"]["accuracy"], 1),
            share(one["cw"]["success"], 1),
            "-" if one["cw"]["median_l2"] is None else f"{one['cw']['median_l2']:.3f}",
        ]
        for one in found["networks"]
    ]
    rows_measured = found["networks"][0]["pgd"]["rows"]
    note = (
        f"Accuracy on {rows_measured} images under PGD and APGD, eps {found['eps']:.3g}; *no "
        "gradient*: rows on which every gradient of the cross-entropy was exactly 0.\n"
    )
    return table(head, rows) + "\n" + note


def _published_table(found: Found) -> str:
    theirs = _PUBLISHED.get(found["network"])
    if theirs is None:
        return "Nothing was published for this network.\n"
    base, last = found["networks"][0], found["networks"][-1]
    temperature = f"T = {last['temperature']:g}"
    largest = max(
        abs(one["clean"]["accuracy"] - base["clean"]["accuracy"]) for one in found["networks"]
    )
    rows = [
        ["accuracy, undistilled", share(theirs["accuracy"]), share(base["clean"]["accuracy"])],
        ["JSMA success, undistilled", share(theirs["success"][0]), share(base["jsma"]["success"])],
        [
            f"JSMA success, distilled (paper: T = 100, ours: {temperature})",
            share(theirs["success"][1]),
            share(last["jsma"]["success"]),
        ],
        [
            "robustness, undistilled",
            share(theirs["robustness"][0]),
            share(base["jsma"]["robustness"]),
        ],
        [
            f"robustness, distilled (paper: T = 100, ours: {temperature})",
            share(theirs["robustness"][1]),
            share(last["jsma"]["robustness"]),
        ],
        [
            "largest variation of accuracy",
            f"under {share(_MOST_VARIATION)}",
            share(largest),
        ],
    ]
    return table(["", "published", "ours"], rows)


def _label(one: Found) -> str:
    return one["name"] if one["name"] == BASELINE else f"T = {one['temperature']:g}"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _gain(value: float, base: float) -> str:
    return "-" if base == 0 else f"{100 * (value / base - 1):+.0f}%"


def _power(value: float | None) -> str:
    return "0" if value is None else f"10^{value:.1f}"


def _ranges(edges: Sequence[float]) -> list[str]:
    return [f"< 10^{edges[0]:g}", *(f"to 10^{edge:g}" for edge in edges[1:]), "above"]


def _distilled(found: Found) -> tuple[list[float], list[Found]]:
    ones = found["networks"][1:]
    return [one["temperature"] for one in ones], ones


def _success(found: Found) -> Any:
    temperatures, ones = _distilled(found)
    figure = new_figure(3.2)
    axes = figure.subplots()
    for key, colour, label in (
        ("jsma", ATTACKED, "JSMA on probabilities (the paper's)"),
        ("jsma_cooled", CLEAN, "JSMA on softmax(z / T)"),
    ):
        values = [100 * one[key]["success"] for one in ones]
        axes.plot(temperatures, values, marker="o", ms=4, color=colour, label=label)
    cw = [100 * (one["cw"]["success"] or 0.0) for one in ones]
    axes.plot(temperatures, cw, marker="s", ms=4, color="#009E73", label="C&W (untargeted)")
    published = _PUBLISHED.get(found["network"])
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


def _robustness(found: Found) -> Any:
    temperatures, ones = _distilled(found)
    base = found["networks"][0]
    figure = new_figure(2.6)
    axes = figure.subplots()
    for key, colour, label in (
        ("jsma", ATTACKED, "JSMA on probabilities (the paper's)"),
        ("jsma_cooled", CLEAN, "JSMA on softmax(z / T)"),
    ):
        values = [100 * one[key]["robustness"] for one in ones]
        axes.plot(temperatures, values, marker="o", ms=4, color=colour, label=label)
        axes.axhline(100 * base[key]["robustness"], color=colour, ls=":", lw=1)
    axes.set(xscale="log", xlabel="temperature", ylabel="values changed in %")
    axes.set_ylim(bottom=0)
    _ticks(axes, temperatures)
    axes.legend(fontsize=7, title="dotted: undistilled", title_fontsize=7)
    return figure


def _gradients(found: Found) -> Any:
    names = [
        _label(one).removeprefix("T = ").replace(BASELINE, "none") for one in found["networks"]
    ]
    figure = new_figure(3.2)
    axes = figure.subplots()
    below = [0.0] * len(names)
    import matplotlib

    ranges = _ranges(found["edges"])
    colours = matplotlib.colormaps["viridis_r"].resampled(len(ranges))  # dark is small
    for index, label in enumerate(ranges):
        values = [100 * one["gradients"]["bins"][index] for one in found["networks"]]
        axes.bar(names, values, bottom=below, color=colours(len(ranges) - 1 - index), label=label)
        below = [low + value for low, value in zip(below, values, strict=True)]
    axes.set(xlabel="temperature", ylabel="images in %")
    axes.tick_params(axis="x", labelrotation=30)
    figure.legend(loc="outside right center", fontsize=6.5, title="amplitude", title_fontsize=7)
    return figure


def _ticks(axes: Any, temperatures: Sequence[float]) -> None:
    axes.set_xticks(temperatures, [f"{t:g}" for t in temperatures], fontsize=7)
    axes.minorticks_off()
