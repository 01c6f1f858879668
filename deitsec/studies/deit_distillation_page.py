"""The page of distillation and robustness: a table, a curve and what they say."""

from collections.abc import Mapping
from typing import Any

from deitsec.report.figure import MARKERS, SERIES, new_figure
from deitsec.studies.study import Document, Page
from deitsec.studies.tables import share, table

Found = Mapping[str, Any]


def render(document: Document) -> Page:
    """The page below the head."""
    found = document["found"]
    rows = found["networks"][0]["strongest"]["rows"]
    spec = document["options"]["strongest"]
    parts = [
        f"Accuracy on the whole test split (clean), and on {rows} images of it under attacks of "
        f"L-infinity radius {found['eps']:.3g}; `{spec}` decides.\n",
        _table(found, spec),
        "![Accuracy under PGD by radius](figure:curve)\n",
        _words(found, spec),
    ]
    return Page(markdown="\n".join(parts), figures={"curve": _curve(found)})


def _table(found: Found, spec: str) -> str:
    head = ["network", "trained", "clean", "FGSM", "PGD-20", spec]
    rows = [
        [
            f"{one['name']} ({one['architecture']})",
            one["trained"],
            share(one["clean"]["accuracy"], 1),
            *(share(one[key]["accuracy"], 1) for key in ("fgsm", "pgd", "strongest")),
        ]
        for one in found["networks"]
    ]
    return table(head, rows)


def _words(found: Found, spec: str) -> str:
    """What the figures say; nothing here is known beforehand."""
    by_name = {one["name"]: one for one in found["networks"]}

    def held(name: str) -> float:
        return by_name[name]["strongest"]["accuracy"]

    scratch = held("scratch")
    lines: list[str] = []
    chance = 1.5 / found["classes"]
    for name, words in (
        ("soft", "Soft distillation"),
        ("hard", "Hard distillation"),
        ("soft-robust", "Soft distillation from the robust teacher on clean images"),
        ("robust", "Robust distillation"),
        ("adversarial", "Adversarial training without a teacher"),
    ):
        if by_name[name]["clean"]["accuracy"] < chance:
            lines.append(f"- {words}: ended at chance; it withstands by answering nothing.")
            continue
        change = 100 * (held(name) - scratch)
        cost = 100 * (by_name[name]["clean"]["accuracy"] - by_name["scratch"]["clean"]["accuracy"])
        lines.append(
            f"- {words}: {change:+.1f} points under `{spec}` against training from scratch "
            f"({share(scratch, 1)}), {cost:+.1f} points of clean accuracy."
        )
    return "\n".join(lines) + "\n"


def _curve(found: Found) -> Any:
    radii = [0.0, *found["curve"], found["eps"]]
    keys = [*(f"pgd-{index}" for index in range(len(found["curve"]))), "pgd"]
    colours = (*SERIES, "#8c510a")
    figure = new_figure(3.0)
    axes = figure.subplots()
    for index, one in enumerate(found["networks"]):
        values = [100 * one["clean"]["accuracy"], *(100 * one[key]["accuracy"] for key in keys)]
        axes.plot(
            radii,
            values,
            marker=MARKERS[index % len(MARKERS)],
            ms=3.5,
            lw=1.2,
            ls="--" if "teacher" in one["name"] else "-",
            color=colours[index % len(colours)],
            label=one["name"],
        )
    axes.set(xlabel="eps (PGD-20)", ylabel="accuracy in %", ylim=(-3, 103))
    figure.legend(fontsize=6.5, loc="outside right upper")
    return figure
