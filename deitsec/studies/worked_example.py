"""The worked example of a linear classifier: half a step along the signs of its weights."""

from collections.abc import Mapping
from typing import Any

import torch

from deitsec.studies.tables import table

WEIGHTS = (-1, -1, 1, -1, 1, -1, 1, 1, -1, 1)
INPUT = (2, -1, 3, -2, 2, 2, 1, -4, 5, 1)
STEP = 0.5
LECTURE = {"score": (-3.0, 2.0), "probability": (0.0474, 0.88)}


def worked_example() -> dict[str, Any]:
    """Score and probability before and after x + STEP sgn(d score / d x).

    The score is w x and the probability sigmoid(w x), in fp64; the gradient is autograd's, so that
    the example goes the way of every attack here.
    """
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    x = torch.tensor(INPUT, dtype=torch.float64).requires_grad_()
    score = weights @ x
    (grad,) = torch.autograd.grad(score, x)
    moved = x.detach() + STEP * grad.sign()
    scores = torch.stack([score.detach(), weights @ moved])
    return {
        "weights": list(WEIGHTS),
        "input": list(INPUT),
        "moved": moved.tolist(),
        "score": scores.tolist(),
        "probability": scores.sigmoid().tolist(),
    }


def worked_example_table(found: Mapping[str, Any]) -> str:
    """Ours beside the lecture's."""
    rows = [
        [
            what,
            f"{found['score'][place]:.0f}",
            f"{LECTURE['score'][place]:.0f}",
            f"{found['probability'][place]:.4f}",
            f"{LECTURE['probability'][place]:g}",
        ]
        for place, what in enumerate(("x", f"x + {STEP} sgn(w)"))
    ]
    return table(("", "score", "lecture", "probability of class 1", "lecture"), rows)
