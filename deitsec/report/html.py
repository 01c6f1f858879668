"""The report as one HTML page that loads nothing: style inside, pictures inside, no script."""

import base64
import struct
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from deitsec.report.plots import MOST_BARS, most_vulnerable
from deitsec.report.wording import (
    DASH,
    NORM_SYMBOLS,
    attack_label,
    attacked,
    attackers,
    count,
    levels,
    number,
    patches,
    percent,
    short_size,
    strongest,
)

Document = Mapping[str, Any]


def render_html(document: Document, plots: Mapping[str, bytes]) -> str:
    """Render a report as a page; every word that comes from the document is escaped.

    Args:
        document: a whole report.
        plots: file name -> PNG, as `draw_plots` returns them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deitsec.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(_FILTERS)
    images = {name: _embed(png) for name, png in plots.items()}
    template = environment.get_template("report.html.j2")
    return template.render(**document, images=images, alt=_alt_texts(document))


def _embed(png: bytes) -> dict[str, Any]:
    """A PNG as a data URI with its size in pixels, which its header holds at byte 16."""
    width, height = struct.unpack(">II", png[16:24])
    uri = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return {"uri": uri, "width": width, "height": height}


def _conditions(attack: Document) -> str:
    """`L∞ 8/255, targeted`: what tells two rows of one attack apart."""
    size = short_size(attack["norm"], attack["eps"])
    limit = "no limit" if attack["eps"] is None else size
    if attack.get("patches"):
        limit = patches(attack)
    return f"{NORM_SYMBOLS[attack['norm']]} {limit}, {attack['goal']}"


def _moment(created: str) -> str:
    return f"{datetime.fromisoformat(created):%Y-%m-%d %H:%M} UTC"


def _alt_texts(document: Document) -> dict[str, str]:
    """What each picture shows, in words with figures."""
    attack = strongest(document["attacks"])
    label = attack_label(attack, document["attacks"])
    clean = percent(document["clean"]["accuracy"])
    sweeps = "; ".join(
        f"{sweep['attack']} down to {percent(min(p['robust_accuracy'] for p in sweep['points']))}"
        for sweep in document["sweeps"]
    )
    first = most_vulnerable(document["per_class"])[:MOST_BARS]
    weakest = ", ".join(f"{row['name']} {percent(row['robust_accuracy'])}" for row in first[:3])
    return {
        "confusion": (
            f"Two confusion matrices: {clean} right on clean images, "
            f"{percent(attack['accuracy'])} under {label}."
        ),
        "examples": "Rows of three pictures: a clean image, its amplified change, and the "
        "adversarial image with the model's answers below.",
        "looks": "Rows of pictures that show in bright colours where the model looks: on a clean "
        "image, and on its adversarial version.",
        "eps": f"Robust accuracy against eps, from {clean} on clean images: {sweeps}.",
        "classes": f"Bars of each class's accuracy; the lowest under attack: {weakest}.",
    }


def _score(share: float | None) -> str:
    """A share in the four digits of the study's table."""
    return DASH if share is None else f"{share:.4f}"


def _in_levels(distance: float | None) -> str:
    return DASH if distance is None else levels(distance)


def _level_class(level: str) -> str:
    """`strong in this test` is `strong` to the style sheet."""
    return level.split()[0]


_FILTERS: dict[str, Any] = {
    "attacked": attacked,
    "attackers": attackers,
    "percent": percent,
    "number": number,
    "count": count,
    "score": _score,
    "in_levels": _in_levels,
    "grouped": "{:,}".format,
    "conditions": _conditions,
    "moment": _moment,
    "level_class": _level_class,
}
