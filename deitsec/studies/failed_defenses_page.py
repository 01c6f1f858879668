"""The page of the study of failed defenses."""

import math
from collections.abc import Mapping
from typing import Any

from deitsec.report.wording import grey_levels, points
from deitsec.studies.radius import radius_note
from deitsec.studies.study import Document, Page
from deitsec.studies.tables import seconds, share, table

_NOTABLE = 0.10
"""The least difference of accuracy that is called one."""
_BROKEN = 0.10


def render(document: Document) -> Page:
    """Make the page of a result."""
    found, options = document["found"], document["options"]
    base = found["defenses"][0]
    head = ("defense", "clean", "plain PGD", "adaptive", "seconds", "verdict")
    rows = [
        (
            entry["name"],
            share(entry["clean"], 1),
            share(entry["plain"], 1),
            share(entry["adaptive"], 1),
            seconds(entry["seconds"]),
            verdict(entry, base, notable(found["rows"])),
        )
        for entry in found["defenses"]
    ]
    attacks = [
        (entry["name"], entry["plain_attack"], entry["adaptive_attack"])
        for entry in found["defenses"]
    ]
    least = notable(found["rows"])
    fooled = [
        entry["name"] for entry in found["defenses"] if entry["plain"] - entry["adaptive"] > least
    ]
    whole = base.get("clean_rows")
    of_clean = f" *Clean* is of all {whole:,} test images." if whole else ""
    parts = [
        f"{found['model']} on {found['rows']} test images; no value of an image is changed by more "
        f"than {grey_levels(found['eps'])}.{radius_note(found)} *Plain PGD* ({options['steps']} "
        "steps) does not know of the defense; *adaptive* counts the images that withstand it, and "
        f"PGD and APGD with the DLR loss ({options['adaptive_steps']} steps each) by somebody who "
        "does. Every success is judged by the defended model itself, with random numbers that the "
        "attack has not seen. "
        f"The verdict follows from the row's figures and those of the first.{of_clean}",
        _summary(fooled, least, found["rows"]),
        table(head, rows),
        "## What each attack follows",
        table(("defense", "plain", "adaptive"), attacks),
    ]
    if found["defenses"][-1]["name"] == "adversarial training":
        parts.append(
            "Adversarial training stands last for comparison: what it holds, it holds under "
            "attacks that know everything of it."
        )
    return Page(markdown="\n\n".join(parts))


def notable(rows: int) -> float:
    """A difference of accuracies on the same images beyond chance: 10 points, or what is more.

    The difference of two shares of the same N images has a standard error of at most 1 / sqrt(N);
    two of them count.
    """
    return max(_NOTABLE, 2 / math.sqrt(rows))


def verdict(entry: Mapping[str, Any], base: Mapping[str, Any], least: float) -> str:
    """What a row says, by its figures: clean, plain and adaptive accuracy, in [0, 1].

    Args:
        entry: the row.
        base: the row of the undefended network.
        least: the difference of accuracies that counts (`notable`).
    """
    if entry["name"] == base["name"]:
        return "what the others are held against"
    gain = entry["adaptive"] - base["adaptive"]
    hidden = entry["plain"] - entry["adaptive"]
    price = base["clean"] - entry["clean"]
    if gain > least:
        said = f"helps: {points(gain)} more than undefended"
    elif entry["adaptive"] < _BROKEN:
        said = "broken"
    else:
        said = "no better than undefended"
    if hidden > least:
        said += f"; the plain attack overstates it by {points(hidden)}"
    if price > least:
        said += f"; costs {points(price)} of clean accuracy"
    return said


def _summary(fooled: list[str], least: float, rows: int) -> str:
    size = f"more than {points(least)}, which these {rows} images can tell,"
    if not fooled:
        return (
            f"**No defense looked stronger under the plain attack than it was by {size} "
            "though by less some may have.**"
        )
    verb, they = ("looks", "it is") if len(fooled) == 1 else ("look", "they are")
    return (
        f"**Under the plain attack {len(fooled)} of them {verb} stronger than {they} by {size} "
        f"namely {', '.join(fooled)}.**"
    )
