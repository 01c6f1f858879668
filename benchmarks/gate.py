"""The gate of the attacks: no speed is reported for a side that attacked less.

Every side's images are judged alike, by the model in fp32. They have to be in the ball and in
[0, 1], and the success rate of ours within 0.5 points of the best plain PGD's; one image where that
is less than one. More success in the same ball is no fault: deitsec keeps a success that a later
step would lose, and computes the loss so that its gradient does not cancel. A library that attacks
less than another one (they start at other random points) is named, and keeps its speed.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 0.005
ROUNDING = 1e-6  # fp32 images in [0, 1]: a few units in the last place


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What was allowed and what was found.

    Attributes:
        allowed: points of success that a side may fall short.
        success: share of rows that each side flipped.
        faults: what is wrong, by side.
        weaker: the sides that are not ours and flipped fewer than the best of them, by how much.
    """

    allowed: float
    success: dict[str, float]
    faults: dict[str, str]
    weaker: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether speeds may be reported."""
        return not self.faults

    def as_json(self) -> dict[str, Any]:
        """What the result file says of it."""
        return {
            "passed": self.passed,
            "allowed": self.allowed,
            "faults": self.faults,
            "weaker": self.weaker,
        }


@torch.no_grad()
def success_rate(model: nn.Module, adv: Tensor, labels: Tensor) -> float:
    """Share of rows that the model gets wrong at `adv`."""
    wrong = [
        model(x).argmax(1) != y for x, y in zip(adv.split(128), labels.split(128), strict=True)
    ]
    return torch.cat(wrong).double().mean().item()


def judge(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float, found: dict[str, Tensor]
) -> Gate:
    """Hold every side to its ball and to the best success of the sides that are not ours.

    Args:
        model: in fp32.
        images: (B, C, H, W) clean.
        labels: (B,) int64, which the model predicts there.
        eps: radius of the ball.
        found: adversarial images of each side; ours begin with `deitsec`.
    """
    allowed = max(TOLERANCE, 1 / len(labels)) + 1e-9
    success = {side: success_rate(model, adv, labels) for side, adv in found.items()}
    others = [rate for side, rate in success.items() if not side.startswith("deitsec")]
    wanted = max(others, default=0.0) - allowed
    faults: dict[str, str] = {}
    weaker: dict[str, float] = {}
    for side, adv in found.items():
        outside = (adv - images).abs().max().item() - eps
        low, high = adv.aminmax()
        if not (math.isfinite(outside) and outside <= ROUNDING):
            faults[side] = f"leaves the ball by {outside:.2g}"
        elif low < 0 or high > 1:
            faults[side] = f"leaves [0, 1]: {low:.3g} to {high:.3g}"
        elif success[side] < wanted and not side.startswith("deitsec"):
            weaker[side] = max(others) - success[side]
        elif success[side] < wanted:
            faults[side] = f"success {success[side]:.3f} where {wanted:.3f} was needed"
    return Gate(allowed=allowed, success=success, faults=faults, weaker=weaker)
