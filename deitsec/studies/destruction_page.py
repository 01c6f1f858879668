"""What print and photograph took back, beside the published rates, and why it differs."""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from deitsec.report.wording import grey_levels, joined, points
from deitsec.studies.destruction import CHANGES, PRINT
from deitsec.studies.tables import share, table

Found = Mapping[str, Any]

# Kurakin et al., arXiv:1607.02533, table 3, average case, top 1: ImageNet, Inception v3, prints
# photographed by a phone; by eps in levels of 255
PUBLISHED: Mapping[str, Mapping[int, float]] = {
    "fast": {16: 0.125, 8: 0.333},
    "basic iterative": {16: 0.404, 8: 0.521},
    "least likely": {16: 0.722, 8: 0.863},
}
_LEVEL = 16  # the published rates whose order is compared
_APART = 0.02
"""A difference from the published that has to be explained."""


def destruction_table(found: Found) -> str:
    """Rates by method and change, beside those of real prints at this eps, and what moves them."""
    rows: list[list[str]] = []
    for method in found["methods"]:
        published, ours = published_rate(method["name"], found["eps"]), method["rates"][PRINT]
        apart = None if published is None or ours is None else ours - published
        rows.append(
            [
                method["name"],
                str(method["fooled"]),
                *map(_shown, method["rates"].values()),
                _shown(published),
                "-" if apart is None else f"{100 * apart:+.1f}",
            ]
        )
    head = ("method", "images fooled", *CHANGES, "real prints, published", "points")
    return "\n".join(
        [
            f"At most {grey_levels(found['eps'])}, {found['rows']} images, {found['draws']} draws "
            "of each change:\n",
            table(head, rows),
            f"Of the clean images that are right, {_shown(found['clean'])} still are once printed "
            "and photographed. What moves the rate of print and photograph:\n",
            _variants(found),
        ]
    )


def _variants(found: Found) -> str:
    """The same rate, each time with one thing changed."""
    methods = found["methods"]
    weaker = list(methods[0]["strengths"])
    head = (
        "method",
        *(f"at strength {strength}" for strength in weaker),
        f"on the {found['common']} images that all fool",
        "stopped at its goal",
        "surer half",
        "other half",
        "confidence when wrong",
        "stopped at its goal: confidence",
    )
    rows = [
        [
            method["name"],
            *(_shown(method["strengths"][strength]) for strength in weaker),
            _shown(method["common"]),
            _shown(method["first_success"]["rate"]),
            *(_shown(method[key]) for key in ("surer", "less_sure", "confidence")),
            _shown(method["first_success"]["confidence"]),
        ]
        for method in methods
    ]
    return table(head, rows)


def published_rate(name: str, eps: float) -> float | None:
    """The published rate of a method within eps, None where there is none."""
    return PUBLISHED.get(name, {}).get(round(255 * eps))


def order_found(name: str, found: Found, *, short: bool = False) -> str:
    """Where the order of the methods is the reverse of the published, and whether it is known why.

    Args:
        name: of what was attacked, as a sentence begins with it.
        found: of `measure_destruction`.
        short: leave out what was tried.
    """
    turned = _turned(found, lambda method: method["rates"][PRINT])
    if not turned:
        return f"{name} the order of the methods is that of the paper."
    if short:
        return f"{name} the order of the methods is not that of the paper."
    said = [
        f"{name} the order of the methods is not that of the paper: there "
        f"{joined([_pair(*pair) for pair in turned])}; here it is the reverse."
    ]
    tries: dict[str, Callable[[Found], float | None]] = {
        f"at strength {strength}": lambda method, strength=strength: method["strengths"][strength]
        for strength in found["methods"][0]["strengths"]
    }
    tries["on the images that all methods fool"] = lambda method: method["common"]
    tries["where each attack stops at its goal"] = lambda method: method["first_success"]["rate"]
    left = {what: _turned(found, rate) for what, rate in tries.items()}
    unexplained: list[tuple[str, str]] = []
    for pair in turned:
        mended = [what for what in tries if pair not in left[what]]
        if mended:
            said.append(f"Between {joined(pair)} it is the paper's {joined(mended)}.")
        else:
            unexplained.append(pair)
    said.append(_confidence(found, turned))
    if unexplained:
        listed = ", and between ".join(f"{less} and {more}" for less, more in unexplained)
        said.append(
            f"Between {listed}, it stays reversed in everything that was tried: "
            f"{joined(list(left))}; the reason was not found."
        )
    return " ".join(said)


def _confidence(found: Found, turned: list[tuple[str, str]]) -> str:
    """Whether the method that is taken back less is the surer one."""
    sure = {method["name"]: method["confidence"] for method in found["methods"]}
    known = [(a, b) for a, b in turned if sure[a] is not None and sure[b] is not None]
    as_said = [(a, b) for a, b in known if sure[b] > sure[a]]
    others = [pair for pair in known if pair not in as_said]
    said: list[str] = []
    if as_said:
        said.append(
            "What is taken back less is what the model is surer of for "
            + joined(
                [f"{b} ({share(sure[b], 1)}) against {a} ({share(sure[a], 1)})" for a, b in as_said]
            )
        )
    if others:
        said.append("it is not for " if said else "Confidence does not explain it for ")
        said[-1] += joined(
            [f"{b} ({share(sure[b], 1)}) against {a} ({share(sure[a], 1)})" for a, b in others]
        )
    return f"{'; '.join(said)}." if said else ""


def size_found(found: Found) -> str:
    """How far the rates are from the published, and what a weaker print comes to."""
    apart: dict[str, float] = {}
    for method in found["methods"]:
        published, ours = published_rate(method["name"], found["eps"]), method["rates"][PRINT]
        if published is not None and ours is not None and abs(ours - published) > _APART:
            apart[method["name"]] = ours - published
    if not apart:
        return f"No rate is more than {points(_APART)} from the published one."
    listed = joined([f"{name} {100 * value:+.1f}" for name, value in apart.items()])
    nearest: list[str] = []
    for method in found["methods"]:
        if method["name"] not in apart:
            continue
        published = published_rate(method["name"], found["eps"]) or 0.0
        tried = {**method["strengths"], "1": method["rates"][PRINT]}
        known = {key: value for key, value in tried.items() if value is not None}
        near = min(known, key=lambda key: abs(known[key] - published))
        nearest.append(f"{method['name']} at {near} ({share(known[near], 1)})")
    most: list[str] = []
    for method in found["methods"]:
        rates = {key: rate for key, rate in method["rates"].items() if key != PRINT}
        alone = {key: rate for key, rate in rates.items() if rate is not None}
        if not alone:
            continue  # it fooled on nothing
        change = max(alone, key=lambda key: alone[key])
        told = f"{change} ({share(alone[change], 1)})" if alone[change] else "none takes any back"
        most.append(f"{method['name']} {told}")
    return (
        f"Apart from the published by more than {points(_APART)}: {listed}. The published rates "
        "are of real prints of ImageNet images that Inception v3 got wrong, photographed by a "
        "phone; ours are of a simulation, on another classifier. Of the strengths tried, the "
        f"nearest to the published rate: {joined(nearest)}. The single change that takes back "
        f"most: of {', of '.join(most)}."
    )


def _turned(found: Found, rate: Callable[[Found], float | None]) -> list[tuple[str, str]]:
    """Pairs (less, more) destroyed in the paper that the rates have the other way round."""
    ours = {method["name"]: rate(method) for method in found["methods"]}
    published = {name: rates[_LEVEL] for name, rates in PUBLISHED.items() if name in ours}
    ordered = sorted(published, key=lambda name: published[name])
    pairs: list[tuple[str, str]] = []
    for less, more in combinations(ordered, 2):
        a, b = ours[less], ours[more]
        if a is not None and b is not None and a > b:
            pairs.append((less, more))
    return pairs


def _pair(less: str, more: str) -> str:
    return f"less of {less} is taken back than of {more}"


def _shown(rate: float | None) -> str:
    return "-" if rate is None else share(rate, 1)
