"""Signs of masked gradients that only a probe shows: others find what gradients did not.

Athalye et al., arXiv:1802.00420, section 3.1; Carlini et al., arXiv:1902.06705, section 5.
"""

import math
from collections.abc import Mapping
from typing import Any

from deitsec.report.wording import count, joined, percent

VANISHING = -30.0
"""log10 of the amplitude below which fp32, which ends at 1e-38, loses products of gradients."""

_TOLERANCE = 0.01
"""A share of at most one in a hundred is taken for noise."""
_FEWEST = 2
"""So is a single image."""

Check = dict[str, str]
Piece = Mapping[str, Any]


def masking_checks(probes: Piece | None) -> list[Check]:
    """The checks of the `probes` part of a report; none where there is none."""
    if probes is None:
        return []
    return [
        _found_without(
            probes,
            "black_box",
            "gradients-beat-black-box",
            "A search that sees scores only should not beat those that see all",
        ),
        _found_without(
            probes,
            "random_search",
            "gradients-beat-random-search",
            "Chance should not find what they did not",
        ),
        _amplitudes(probes),
    ]


def _found_without(probes: Piece, key: str, name: str, meaning: str) -> Check:
    search, standing = probes[key], probes["standing"]
    bad = search["broken"] >= _FEWEST and search["broken"] > _TOLERANCE * probes["rows"]
    followed = joined([spec.partition(":")[0] for spec in dict.fromkeys(probes["followed"])])
    evidence = (
        f"Of {count(probes['rows'], 'image')}, {standing:,} withstood {followed}; without a "
        f"gradient, {search['attack']} broke {search['broken']:,} of them."
    )
    if bad:
        evidence += f" {meaning}: the gradients may be masked, and the robustness overstated."
    return {"name": name, "status": "warn" if bad else "pass", "evidence": evidence}


def _amplitudes(probes: Piece) -> Check:
    found, rows = probes["amplitudes"], probes["rows"]
    # the two lowest of the ten ranges, and the third, end at 1e-40, 1e-35 and 1e-30
    vanishing = sum(found["shares"][:3])
    bad = vanishing > _TOLERANCE
    nothing = found["median"] is None or not math.isfinite(found["median"])
    middle = "0" if nothing else f"1e{found['median']:.1f}"
    evidence = (
        f"The gradient of the loss has a median L2 norm of {middle} on {count(rows, 'image')}"
    )
    if found["lowest"] is not None:
        evidence += f", and a least one of 1e{found['lowest']:.1f}"
    evidence += f"; it is exactly 0 on {found['zero']:,}."
    if bad:
        evidence += (
            f" On {percent(vanishing)} it is below 1e{VANISHING:.0f}: fp32 loses it on the way, "
            "and attacks by gradients stand still there"
        )
        # no loss brings back a gradient that the model does not have
        lost = vanishing > found["zero"] / rows + _TOLERANCE
        evidence += "; a loss of logits may find more." if lost else "."
    return {
        "name": "gradients-do-not-vanish",
        "status": "warn" if bad else "pass",
        "evidence": evidence,
    }
