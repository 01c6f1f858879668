"""The verdict: what a report's figures say, in plain words and no further than they reach."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deitsec.report.chance import at_chance, chance_accuracy
from deitsec.report.wording import (
    attack_label,
    count,
    joined,
    percent,
    perturbation_size,
    points,
    strongest,
)

LEVELS = ((0.10, "broken"), (0.40, "weak"), (0.70, "moderate"), (math.inf, "strong in this test"))
"""A level holds for worst-case robust accuracies below its bound."""

UNLIMITED = ("not judged", "No attack here was limited in how far it may change an image")
"""Where every classifier falls, only how far the images had to be changed tells."""

_HEADLINES = {
    "broken": "This classifier breaks under attack",
    "weak": "This classifier is weak under attack",
    "moderate": "This classifier withstands these attacks in part",
    "strong in this test": "This classifier withstood the attacks of this test",
}

Piece = Mapping[str, Any]


def judge(
    *,
    clean: Piece,
    attacks: Sequence[Piece],
    worst_case: Piece,
    data: Piece,
    checks: Sequence[Piece] = (),
    gate: Piece | None = None,
) -> dict[str, Any]:
    """Put a report's figures into a level, a headline and a few sentences.

    The level goes by the worst-case robust accuracy: below 10% `broken`, below 40% `weak`, below
    70% `moderate`, else `strong in this test`. A model at chance on clean images is `broken`. Where
    no attack had a limit it is `not judged`.

    Args:
        clean: the `clean` part of the report.
        attacks: its `attacks`, at least one.
        worst_case: its `worst_case`; `attacks` has names or specs of those taken together.
        data: its `data`; `name` and `split` are used.
        checks: its `checks`; those that did not pass are told.
        gate: its `gate`.

    Returns:
        `{"level", "headline", "sentences"}`.

    Raises:
        ValueError: without an attack, or when `worst_case` names none of them.
    """
    named = set(worst_case["attacks"])
    taken = [attack for attack in attacks if named & {attack["name"], attack["spec"]}]
    if not taken:
        raise ValueError(
            f"worst_case must name at least one of the attacks "
            f"{[attack['name'] for attack in attacks]}, got {list(worst_case['attacks'])}"
        )
    robust = worst_case["robust_accuracy"]
    if at_chance(clean):
        level, claim = "broken", "This classifier does no better than guessing, even unattacked"
    elif all(attack["eps"] is None and not attack.get("patches") for attack in taken):
        level, claim = UNLIMITED
    else:
        level = _level(robust)
        claim = _HEADLINES[level]
    sentences = [
        _on_clean(clean, data),
        _under_attack(clean, taken, robust),
        _by_the_strongest(taken),
        *_aimed(taken),
        *_doubts(checks),
        *_gated(gate),
        _reach(taken),
    ]
    return {
        "level": level,
        "headline": (
            f"{claim}: {percent(clean['accuracy'])} right on clean images, "
            f"{percent(robust)} under attack."
        ),
        "sentences": sentences,
    }


def _level(robust: float) -> str:
    return next(level for bound, level in LEVELS if robust < bound)


def _interval(share: float, rows: int) -> tuple[float, float]:
    """The 95% interval of a share that was measured on some rows (Wilson's)."""
    z = 1.96
    middle = share + z * z / (2 * rows)
    spread = z * math.sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2)
    scale = 1 + z * z / rows
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def _on_clean(clean: Piece, data: Piece) -> str:
    images = f"{count(clean['rows'], 'clean image')} of {data['name']} ({data['split']})"
    sentence = f"On {images} it is right {percent(clean['accuracy'])} of the time."
    if at_chance(clean):
        chance = percent(chance_accuracy(clean))
        sentence += f" Chance is {chance}: the figures under attack say nothing about robustness."
    return sentence


def _under_attack(clean: Piece, taken: Sequence[Piece], robust: float) -> str:
    rows = min(attack["rows"] for attack in taken)
    low, high = (percent(bound) for bound in _interval(robust, rows))
    tried = "the attack" if len(taken) == 1 else f"the {len(taken)} attacks together"
    lost = "" if len(taken) == 1 else " (an image counts as lost as soon as one of them succeeds)"
    return (
        f"Under {tried} it stays right on {percent(robust)} of {count(rows, 'image')}{lost}, a "
        f"drop of {points(clean['accuracy'] - robust)}. Given that number of images, the true "
        f"figure is likely to lie between {low} and {high}."
    )


def _by_the_strongest(taken: Sequence[Piece]) -> str:
    attack = strongest(taken)
    which = "The attack was" if len(taken) == 1 else "The strongest single attack was"
    return (
        f"{which} {attack_label(attack, taken)}: {percent(attack['robust_accuracy'])} robust "
        f"accuracy, with {perturbation_size(attack)}."
    )


def _aimed(taken: Sequence[Piece]) -> list[str]:
    """A targeted attack tells more by how often it got the class that it wanted."""
    aimed = [
        f"{attack_label(attack, taken)} reached it in {percent(attack['success_rate'])} of tries"
        for attack in taken
        if attack["goal"] != "untargeted" and attack["success_rate"] is not None
    ]
    return [f"Aimed at a class of the attacker's choice, {joined(aimed)}."] if aimed else []


def _doubts(checks: Sequence[Piece]) -> list[str]:
    names = [check["name"] for check in checks if check["status"] != "pass"]
    if not names:
        return []
    noun = "check" if len(names) == 1 else "checks"
    return [
        f"{len(names)} sanity {noun} did not pass ({joined(names)}): the robustness above may be "
        "overstated."
    ]


def _gated(gate: Piece | None) -> list[str]:
    if gate is None:
        return []
    outcome = "passes" if gate["passed"] else "fails"
    return [
        f"It {outcome} the gate: a robust accuracy of at least "
        f"{percent(gate['min_robust_accuracy'])} was asked for, "
        f"{percent(gate['robust_accuracy'])} was measured."
    ]


def _reach(taken: Sequence[Piece]) -> str:
    """Where the evidence ends; said of every verdict."""
    by_size: dict[str, list[str]] = {}
    for attack in taken:
        by_size.setdefault(perturbation_size(attack), []).append(attack_label(attack, taken))
    tried = "; ".join(f"{joined(labels)} with {size}" for size, labels in by_size.items())
    return (
        f"Tried: {tried}. Other attacks, larger changes or other data may break more; "
        "withstanding these attacks is no proof of safety."
    )
