"""The lines of each defense, made of the figures that its command writes."""

from collections.abc import Mapping
from typing import Any

from deitsec.report.checks import ONE_STEP
from deitsec.report.defense import DefenseLine
from deitsec.report.wording import count, joined, percent

Piece = Mapping[str, Any]

_NO_SEARCH = (*ONE_STEP, "rfgsm", "random_search")
"""Attacks that take no look at what they came to: alone they say nothing of a defense."""
_MASKING = (
    "iterative-beats-one-step",
    "accuracy-falls-with-eps",
    "large-eps-breaks",
    "gradients-drive",
    "gradients-beat-black-box",
    "gradients-beat-random-search",
    "gradients-do-not-vanish",
)
_WAYS = {
    "fit": "training on labels",
    "study": "distillation, teacher first",
    "soft": "distillation, soft",
    "hard": "distillation, hard",
    "robust": "robust distillation",
    "defensive": "defensive distillation",
    "defensive-teacher": "training at a temperature",
    "virtual": "virtual adversarial training",
}


def training_name(training: Piece) -> str | None:
    """Name the way in which a checkpoint was trained; None where that is not known."""
    method = training.get("method")
    if method == "adversarial":
        return f"adversarial training ({training['attack']['method']})"
    return None if method is None else _WAYS.get(method, str(method))


def training_lines(report: Piece) -> tuple[DefenseLine, ...]:
    """The line of a model's training, of a report's own figures.

    Nothing of a trained network is hidden, so attacks that search in it know the defense: the worst
    case over them is the adaptive figure, unless a check says that gradients may be masked.

    Args:
        report: its `clean`, `attacks`, `worst_case` and `checks`.
    """
    worst, specs = report["worst_case"]["robust_accuracy"], report["worst_case"]["attacks"]
    names = {spec.partition(":")[0] for spec in specs}
    warned = [
        c["name"] for c in report["checks"] if c["status"] != "pass" and c["name"] in _MASKING
    ]
    searched = bool(names - set(_NO_SEARCH))
    single = [a for a in report["attacks"] if a["name"] in ONE_STEP and a["goal"] == "untargeted"]
    least = min(single, key=lambda attack: attack["robust_accuracy"], default=None)
    told = joined(specs)
    if warned:
        worth = (
            f"{percent(worst)} stay right under {told}, but {joined(warned)} warns that gradients "
            "may be masked: attack it with `reliable` or `cw` before believing it."
        )
    elif not searched:
        worth = f"{told} takes no second look at the model: run `pgd` or `reliable` to know more."
    else:
        worth = (
            f"Nothing of it is hidden: of {percent(report['clean']['accuracy'])} right on clean "
            f"images, {percent(worst)} stay right under {told}."
        )
    adaptive = searched and not warned
    plain = (worst, told) if not adaptive else (None, None)
    if adaptive and least is not None:
        plain = (least["robust_accuracy"], least["spec"])
    return (
        DefenseLine(
            label="",
            clean=report["clean"]["accuracy"],
            measure="accuracy",
            plain=plain[0],
            plain_attack=plain[1],
            adaptive=worst if adaptive else None,
            adaptive_attack=told if adaptive else None,
            worth=worth,
        ),
    )


def smoothing_lines(found: Piece) -> tuple[DefenseLine, ...]:
    """The line of randomised smoothing.

    Args:
        found: what `deitsec certify` writes.
    """
    worth = (
        f"Certified within L2 {found['sigma']:g} (one sigma) on {percent(_certified(found))}, each "
        f"certificate wrong at a rate of at most {found['alpha']:g}"
    )
    attacked = found["attacked"]
    if attacked is None:
        worth += "; it was not attacked."
    else:
        worth += (
            f"; an attacker who averages over the noise leaves {percent(attacked['adaptive'])}, "
            f"and one who does not know of it {percent(attacked['plain'])}."
        )
    spec = None if attacked is None else attacked["spec"]
    return (
        DefenseLine(
            label=f"sigma {found['sigma']:g}",
            clean=found["accuracy"] if attacked is None else attacked["accuracy"],
            measure="accuracy",
            plain=None if attacked is None else attacked["plain"],
            plain_attack=None if attacked is None else f"{spec} on the model without noise",
            adaptive=None if attacked is None else attacked["adaptive"],
            adaptive_attack=None if attacked is None else f"{spec} averaged over the noise",
            worth=worth,
        ),
    )


def _certified(found: Piece) -> float:
    """Certified accuracy at one sigma, which is one of the radii where it can be certified."""
    within = [p for p in found["certified"] if p["radius"] >= found["sigma"] * (1 - 1e-9)]
    return within[0]["accuracy"] if within else 0.0


def detector_lines(found: Piece) -> tuple[DefenseLine, ...]:
    """The line of a detector: the worst case over the attacks on either side.

    Args:
        found: what `deitsec detect` writes.
    """
    ignorant = [one for one in found["attacks"] if one["kind"] != "adaptive"]
    knowing = [one for one in found["attacks"] if one["kind"] == "adaptive"]
    right = found["accuracy"] * found["rows"]
    plain = _evaded(ignorant) / right if ignorant else None
    # who knows the detector has the attacks of those who do not, too
    adaptive = _evaded(found["attacks"]) / right if knowing else None
    rate = found["false_positive_rate"]
    worth = f"It takes {percent(rate)} of the clean images for adversarial"
    if plain is not None:
        worth += f"; attackers who do not know it get {percent(plain)} of the images past it"
    if adaptive is None:
        worth += "; of an attacker who knows it nothing is known."
    else:
        worth += (
            f"; an attacker who knows it gets {percent(adaptive)} past classifier and detector."
        )
    return (
        DefenseLine(
            label="",
            clean=found["accuracy_accepted"],
            measure="success",
            plain=plain,
            plain_attack=_specs(ignorant, "on the classifier alone"),
            adaptive=adaptive,
            adaptive_attack=_specs(knowing, "on classifier and detector, and the plain ones"),
            worth=worth,
        ),
    )


def _evaded(attacks: list[Piece]) -> int:
    """Rows that got past under any of the attacks."""
    return len({row for one in attacks for row in one["evaded_rows"]})


def _specs(attacks: list[Piece], where: str) -> str | None:
    return f"{joined([one['spec'] for one in attacks])} {where}" if attacks else None


def substitute_lines(found: Piece) -> tuple[DefenseLine, ...]:
    """The lines of a hidden model that is asked for labels: one an attack.

    Args:
        found: what `deitsec substitute` writes.
    """
    asked = f"{found['queries']:,} labels"
    return tuple(
        _hidden(
            one["spec"],
            found["accuracy"]["model"],
            (one["noise"], one["transfer"], one["white_box"]),
            f"{one['spec']} on a {found['substitute']} trained on {asked}",
            f"of an attacker who asks for {asked}",
        )
        for one in found["attacks"]
    )


def transfer_lines(found: Piece) -> tuple[DefenseLine, ...]:
    """The lines of the first model of a transfer matrix, hidden from who has the others.

    Args:
        found: what `deitsec transfer` writes.
    """
    names, specs, open_to_all = found["names"], found["attacks"], found["rate"][0][0]
    if len(names) == 1:
        line = DefenseLine(
            label="not hidden",
            clean=found["accuracy"][0],
            measure="success",
            plain=found["noise"][0][0],
            plain_attack="noise of the same size",
            adaptive=open_to_all,
            adaptive_attack=specs[0],
            worth="No other model was there to attack it from: nothing is known of hiding it.",
        )
        return (line,)
    return tuple(
        _hidden(
            f"from {names[i]}",
            found["accuracy"][0],
            (found["noise"][i][0], found["rate"][i][0], open_to_all),
            f"{specs[i]} on {names[i]}",
            "of an attacker who asks it nothing; one who does may reach more",
        )
        for i in range(1, len(names))
    )


def _hidden(
    label: str,
    accuracy: float,
    shares: tuple[float | None, float | None, float | None],
    adaptive_attack: str,
    who: str,
) -> DefenseLine:
    noise, hidden, white_box = shares
    return DefenseLine(
        label=label,
        clean=accuracy,
        measure="success",
        plain=noise,
        plain_attack="noise of the same size",
        adaptive=hidden,
        adaptive_attack=adaptive_attack,
        worth=f"Open to all, it falls on {percent(white_box)} of the images; hidden, on "
        f"{percent(hidden)}, {who}.",
    )


def poisoning_lines(found: Piece) -> tuple[DefenseLine, ...]:
    """The lines of a poisoned training set: undefended, and less what each detector flags.

    Args:
        found: what `deitsec poison` writes.
    """
    dirt = found["contamination"]
    poison = f"{dirt['what']}: {dirt['poisoned']:,} of {count(dirt['rows'], 'image')}"
    lines = [
        _poisoned(
            "undefended",
            found["poisoned"],
            poison,
            f"Trained on clean images instead, accuracy is {percent(found['clean']['accuracy'])}.",
        )
    ]
    for one in found["detectors"]:
        worth = (
            f"It flags {percent(one['recall'])} of the poisoned rows, and "
            f"{percent(one['precision'])} of what it flags is poisoned. Nobody who knows it was "
            "tried: against such an attacker this proves nothing."
        )
        lines.append(_poisoned(one["name"], one.get("without"), poison, worth))
    return tuple(lines)


def _poisoned(label: str, effect: Piece | None, poison: str, worth: str) -> DefenseLine:
    """A line of one effect; none where no model was trained."""
    success = None
    if effect is not None:
        success = effect["attack_success"] if effect["flipped"] is None else effect["flipped"]
    return DefenseLine(
        label=label,
        clean=None if effect is None else effect["accuracy"],
        measure="success",
        plain=success,
        plain_attack=poison,
        adaptive=None,
        adaptive_attack=None,
        worth=worth,
    )
