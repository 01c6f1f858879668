"""How figures are written for people: per cent, grey levels of 255, the size of a perturbation."""

from collections.abc import Mapping, Sequence
from typing import Any

DASH = "\N{EN DASH}"
"""Stands for a figure that was not measured."""

NORM_SYMBOLS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in [0, 1] as per cent; a share that was not measured is a dash."""
    return DASH if share is None else f"{100 * share:.{digits}f}%"


def points(difference: float) -> str:
    """Write a difference of two shares as percentage points."""
    return f"{100 * difference:.1f} points"


def number(value: float | None, digits: int = 3) -> str:
    """Write a figure to some significant digits; one that was not measured is a dash."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def count(rows: int, noun: str) -> str:
    """Write a count with its noun: 1 image, 1,000 images."""
    return f"{rows:,} {noun}" if rows == 1 else f"{rows:,} {noun}s"


def levels(eps: float) -> str:
    """Write a distance between images in [0, 1] in grey levels: 8/255 is `8`."""
    return number(255 * eps)


def grey_levels(eps: float) -> str:
    """Write a distance between images in [0, 1] out: 8/255 is `8 grey levels of 255`."""
    return f"{levels(eps)} grey level{'' if levels(eps) == '1' else 's'} of 255"


def short_size(norm: str, eps: float | None) -> str:
    """Write the limit of an attack for a column: `8/255` (L∞), `0.5` (L2), `none`."""
    if eps is None:
        return "none"
    return f"{levels(eps)}/255" if norm == "linf" else f"{eps:g}"


def perturbation_size(attack: Mapping[str, Any]) -> str:
    """Say how far an attack of the report may change an image."""
    norm, eps = attack["norm"], attack["eps"]
    if attack.get("patches"):
        return f"any change of at most {patches(attack)}"
    if eps is None:
        return _size_without_limit(norm, attack["distances"][norm]["median"])
    if norm == "linf":
        return f"at most {grey_levels(eps)} on any pixel"
    if norm == "l0":
        return f"at most {percent(eps) if eps < 1 else f'{eps:g}'} of the values"
    return f"an {NORM_SYMBOLS[norm]} distance of at most {eps:g} (= {grey_levels(eps)})"


def patches(attack: Mapping[str, Any]) -> str:
    """Write how many patches an attack of the report may change: 1 patch, 4 patches."""
    number = attack["patches"]
    return f"{number:,} patch{'' if number == 1 else 'es'}"


def _size_without_limit(norm: str, median: float | None) -> str:
    if median is None:
        return "no limit on the change"
    if norm == "linf":
        size = grey_levels(median)
    elif norm == "l0":
        size = f"{median:g} values"
    else:
        size = f"{NORM_SYMBOLS[norm]} {number(median)}, {grey_levels(median)}"
    return f"no limit on the change (its median: {size})"


def attack_label(attack: Mapping[str, Any], attacks: Sequence[Mapping[str, Any]]) -> str:
    """Name an attack of the report: by its spec where another one has the same name."""
    same = [other for other in attacks if other["name"] == attack["name"]]
    return attack["name"] if len(same) == 1 else attack["spec"]


def attacked(line: Mapping[str, Any], who: str) -> str:
    """Write the figure of a defense under the attack of `plain` or `adaptive` attackers."""
    share = line[who]
    if share is None:
        return DASH
    return (
        f"{percent(share)} right" if line["measure"] == "accuracy" else f"succeeds {percent(share)}"
    )


def attackers(line: Mapping[str, Any]) -> str:
    """Say who the attackers of a defense's line were."""
    told = (f"{who}: {line[f'{who}_attack'] or 'not tried'}" for who in ("plain", "adaptive"))
    return "; ".join(told)


def defense_summary(defense: Mapping[str, Any], line: Mapping[str, Any]) -> str:
    """Write a line of a defense for a terminal."""
    label = f" ({line['label']})" if line["label"] else ""
    figures = f"plain attack {attacked(line, 'plain')}, adaptive {attacked(line, 'adaptive')}"
    return f"{defense['name']}{label}: clean {percent(line['clean'])}, {figures}"


def sweep_norm(attack: str, attacks: Sequence[Mapping[str, Any]]) -> str:
    """Norm of a sweep's eps: that of the attack with its name or spec, L∞ if there is none."""
    found = (other["norm"] for other in attacks if attack in (other["name"], other["spec"]))
    return next(found, "linf")


def strongest(attacks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The attack that leaves the lowest robust accuracy; of equals, the first."""
    return min(attacks, key=lambda attack: attack["robust_accuracy"])


def joined(words: Sequence[str]) -> str:
    """List words in a sentence: `a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def shown_name(name: str, width: int = 16) -> str:
    """Shorten a class name for a plot in its middle, with what cannot be printed replaced."""
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name)
    if len(clean) <= width:
        return clean
    head = width // 2
    return f"{clean[:head]}…{clean[head + 1 - width :]}"
