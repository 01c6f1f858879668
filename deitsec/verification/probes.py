"""Probes for masked gradients: what finds images that attacks by gradients left standing."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deitsec.attacks import Attack, RandomSearch, Square, format_spec
from deitsec.data import DataSource, to_float
from deitsec.engine import Engine
from deitsec.engine.access import access_of
from deitsec.metrics import amplitude_shares, log10_loss_gradient
from deitsec.report.checks import ONE_STEP
from deitsec.verification.measure import Outcome, measure
from deitsec.verification.pieces import Piece, robust

_QUERIES = 150  # of Square: a look, a second or two where a model withstands
_POINTS = 100


def probe(
    engine: Engine,
    data: DataSource,
    rows: Tensor,
    found: list[tuple[Attack, Outcome]],
    ticker: Callable[[str, int], Callable[[int], None]],
) -> Piece | None:
    """Attack what stands without gradients, and see how large the gradients are.

    Args:
        engine: of the model.
        data: its test split is attacked.
        rows: (N,) int64 rows that are probed, among those of the outcomes.
        found: what the attacks of the run came to; of those that follow gradients in L-infinity
            step by step and away from the label, the ones of the largest eps left the rows that
            are attacked. One step, or one towards a target, leaves much on honest models too.
        ticker: makes what is told of the rows of a stage.

    Returns:
        The `probes` part; None where no such attack ran or the model gives no gradient.
    """
    followed = [(attack, outcome) for attack, outcome in found if _by_gradient(attack)]
    if not followed or access_of(engine.model) != "gradient":
        return None
    eps = max(attack.radius or 0.0 for attack, _ in followed)
    followed = [(attack, outcome) for attack, outcome in followed if attack.radius == eps]
    standing = _standing(rows, [outcome for _, outcome in followed])
    searches = {
        "black_box": Square(eps=eps, n_queries=_QUERIES),
        "random_search": RandomSearch(eps=eps, points=_POINTS),
    }
    pieces: dict[str, Any] = {}
    for name, attack in searches.items():
        tick = ticker(f"probe: {attack.name}", len(standing))
        broken, seconds = 0, 0.0
        if len(standing):
            outcome = measure(engine, attack, data, standing, tick)
            broken, seconds = int((~robust(outcome)).sum()), outcome.seconds
        pieces[name] = {"attack": format_spec(attack), "broken": broken, "seconds": seconds}
    return {
        "rows": len(rows),
        "eps": eps,
        "followed": [format_spec(attack) for attack, _ in followed],
        "standing": len(standing),
        **pieces,
        "amplitudes": _amplitudes(engine, data, rows),
    }


def _by_gradient(attack: Attack) -> bool:
    traits = attack.traits
    limited = traits.goal == "budget" and attack.radius is not None
    follows = limited and traits.norm == "linf" and traits.needs == "gradient"
    return follows and attack.target is None and attack.name not in ONE_STEP


def _standing(rows: Tensor, outcomes: list[Outcome]) -> Tensor:
    """The rows that are right before and under each of some attacks; one not attacked is not."""
    standing = torch.ones_like(rows, dtype=torch.bool)
    for outcome in outcomes:
        standing &= torch.isin(rows, outcome.rows[robust(outcome)])
    return rows[standing]


def _amplitudes(engine: Engine, data: DataSource, rows: Tensor) -> Piece:
    """How large the gradient of the loss is in the images, as logarithms that do not underflow."""
    images = to_float(data.test.images(rows))
    found = log10_loss_gradient(engine.model, images, data.test.labels[rows])
    there = found[found.isfinite()]
    median = found.median().item()
    return {
        "zero": len(found) - len(there),
        "lowest": there.min().item() if len(there) else None,
        "median": median if math.isfinite(median) else None,
        "shares": amplitude_shares(found),
    }
