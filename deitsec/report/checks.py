"""Sanity checks: signs in a report's own figures that an attack failed rather than the model held.

A model whose gradients are masked looks robust to attacks that follow gradients and is not
(Athalye et al., arXiv:1802.00420; Carlini et al., arXiv:1902.06705).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from deitsec.report.chance import at_chance, chance_accuracy
from deitsec.report.masking import masking_checks
from deitsec.report.wording import (
    attack_label,
    count,
    percent,
    points,
    short_size,
    strongest,
    sweep_norm,
)

ONE_STEP = ("fgsm",)
ITERATIVE = ("bim", "pgd", "mifgsm", "nifgsm", "apgd", "autoattack", "reliable")

_TOLERANCE = 0.01
"""A difference of at most one point is taken for noise."""
_BROKEN = 0.10
"""Robust accuracy below which an attack has broken the model."""

Check = dict[str, str]
Piece = Mapping[str, Any]


def sanity_checks(
    *,
    clean: Piece,
    attacks: Sequence[Piece],
    sweeps: Sequence[Piece] = (),
    probes: Piece | None = None,
) -> list[Check]:
    """Check a report's figures for signs that they overstate the robustness.

    A check that the run has no figures for is left out: it needs a one-step attack and an
    iterative one of at least its eps, a sweep, or probes.

    Args:
        clean: the `clean` part of the report.
        attacks: its `attacks`.
        sweeps: its `sweeps`.
        probes: its `probes`.

    Returns:
        `{"name", "status", "evidence"}` a check; status is `pass`, `warn` or `fail`.
    """
    checks = [
        _clean_above_chance(clean),
        _iterative_beats_one_step(attacks),
        _accuracy_falls_with_eps(sweeps, attacks),
        _large_eps_breaks(sweeps, attacks),
        _finite_gradients(attacks),
        _gradients_drive(attacks),
        _survives_rounding(attacks),
        *masking_checks(probes),
    ]
    return [check for check in checks if check is not None]


def _check(name: str, bad: bool, evidence: str, *, status_if_bad: str = "warn") -> Check:
    return {"name": name, "status": status_if_bad if bad else "pass", "evidence": evidence}


def _clean_above_chance(clean: Piece) -> Check:
    bad = at_chance(clean)
    accuracy, chance = percent(clean["accuracy"]), percent(chance_accuracy(clean))
    evidence = (
        f"Clean accuracy is {accuracy} on {count(clean['rows'], 'image')}; chance is {chance}."
    )
    if bad:
        evidence += " A model that guesses has nothing to lose, so no robustness can be measured."
    return _check("clean-above-chance", bad, evidence, status_if_bad="fail")


def _iterative_beats_one_step(attacks: Sequence[Piece]) -> Check | None:
    """A one-step attack is the iterative one cut short; it can only win where that is misled."""
    gaps = [
        (rival["robust_accuracy"] - single["robust_accuracy"], single, rival)
        for single in attacks
        if single["name"] in ONE_STEP
        if (rivals := [other for other in attacks if _comparable(other, single)])
        for rival in [strongest(rivals)]
    ]
    if not gaps:
        return None
    gap, single, rival = max(gaps, key=lambda found: found[0])
    bad = gap > _TOLERANCE
    evidence = (
        f"One step ({attack_label(single, attacks)}) leaves a robust accuracy of "
        f"{percent(single['robust_accuracy'])}, many steps ({attack_label(rival, attacks)}) leave "
        f"{percent(rival['robust_accuracy'])}."
    )
    if bad:
        evidence += f" One step is stronger by {points(gap)}: the gradients may be masked."
    return _check("iterative-beats-one-step", bad, evidence)


def _comparable(other: Piece, single: Piece) -> bool:
    """Whether an iterative attack has at least the means of a one-step attack."""
    if other["name"] not in ITERATIVE or None in (other["eps"], single["eps"]):
        return False
    same = all(other[key] == single[key] for key in ("norm", "goal"))
    return same and other["eps"] >= single["eps"] * (1 - 1e-6)


def _by_eps(sweep: Piece) -> list[Piece]:
    return sorted(sweep["points"], key=lambda point: point["eps"])


def _accuracy_falls_with_eps(sweeps: Sequence[Piece], attacks: Sequence[Piece]) -> Check | None:
    """An attack with a larger eps may do all that it may do with a smaller one."""
    rises = [
        (after["robust_accuracy"] - before["robust_accuracy"], sweep["attack"], before, after)
        for sweep in sweeps
        for before, after in zip(_by_eps(sweep), _by_eps(sweep)[1:], strict=False)
    ]
    if not rises:
        return None
    rise, attack, before, after = max(rises, key=lambda found: found[0])
    bad = rise > _TOLERANCE
    evidence = "Robust accuracy falls, or stays within one point, as eps grows in every sweep."
    if bad:
        norm = sweep_norm(attack, attacks)
        evidence = (
            f"Robust accuracy under {attack} rises from {percent(before['robust_accuracy'])} at "
            f"eps {short_size(norm, before['eps'])} to {percent(after['robust_accuracy'])} at "
            f"{short_size(norm, after['eps'])}: the attack is misled at large eps."
        )
    return _check("accuracy-falls-with-eps", bad, evidence)


def _large_eps_breaks(sweeps: Sequence[Piece], attacks: Sequence[Piece]) -> Check | None:
    """At a large enough eps every classifier breaks; one that does not was not really attacked."""
    largest = [(_by_eps(sweep)[-1], sweep["attack"]) for sweep in sweeps if sweep["points"]]
    if not largest:
        return None
    point, attack = min(largest, key=lambda found: found[0]["robust_accuracy"])
    bad = point["robust_accuracy"] >= _BROKEN
    size = short_size(sweep_norm(attack, attacks), point["eps"])
    evidence = (
        f"At the largest eps of its sweep, {size}, {attack} leaves a robust accuracy of "
        f"{percent(point['robust_accuracy'])}."
    )
    if bad:
        evidence += (
            " No sweep gets below 10%: either gradients are masked, or the model is robust at "
            "these sizes; a sweep to larger eps tells them apart."
        )
    return _check("large-eps-breaks", bad, evidence)


def _finite_gradients(attacks: Sequence[Piece]) -> Check | None:
    if not attacks:
        return None
    found = {attack_label(attack, attacks): attack["non_finite"] for attack in attacks}
    bad = {label: rows for label, rows in found.items() if rows > 0}
    evidence = "Every gradient and every output was finite."
    if bad:
        listed = ", ".join(f"{count(rows, 'image')} under {label}" for label, rows in bad.items())
        evidence = (
            f"Gradients or outputs were NaN or infinite on {listed}: there the attack stopped "
            "short, and the image counts with its last finite iterate."
        )
    return _check("finite-gradients", bool(bad), evidence)


def _gradients_drive(attacks: Sequence[Piece]) -> Check | None:
    """An attack without a gradient to follow says nothing of the model."""
    if not attacks:
        return None
    worst = max(attacks, key=lambda attack: attack["zero_gradients"] / attack["rows"])
    share = worst["zero_gradients"] / worst["rows"]
    bad = share > _TOLERANCE
    evidence = (
        f"The gradient was exactly 0 on at most {percent(share)} of the images "
        f"({attack_label(worst, attacks)})."
    )
    if bad:
        evidence += (
            " There nothing drove the attack: saturated or masked gradients, not robustness."
        )
    return _check("gradients-drive", bad, evidence)


def _survives_rounding(attacks: Sequence[Piece]) -> Check | None:
    measured = [attack for attack in attacks if attack["lost_in_rounding"] is not None]
    if not measured:
        return None
    worst = max(measured, key=lambda attack: attack["lost_in_rounding"])
    bad = worst["lost_in_rounding"] > _TOLERANCE
    evidence = (
        f"Rounding the adversarial images to 8 bits loses at most "
        f"{percent(worst['lost_in_rounding'], 2)} of the successes "
        f"({attack_label(worst, attacks)})."
    )
    if bad:
        evidence += " Saved as image files, the attacks would look weaker than they are."
    return _check("survives-8-bit", bad, evidence)
