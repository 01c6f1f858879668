"""The squared error of a softmax, with a gradient that survives rows the model is sure of."""

import math

import torch
from torch import Tensor

from deitsec.types import Parts


def half_squared_error(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) half the squared distance between softmax and one-hot, 1/2 ||y - softmax(z)||^2."""
    probabilities = logits.softmax(1)
    others = probabilities.scatter(1, y[:, None], 0.0)
    # 1 - p at the goal is the sum of the others: the difference has lost its digits where p is 1
    return 0.5 * (others.sum(1).square() + others.square().sum(1))


def unit_gradient(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of `half_squared_error` in the logits, brought to a largest entry of 1.

    With p the softmax and e = p - y it is p_k (e_k - sum_j p_j e_j). Where the model is sure of
    another class, every entry is as small as the second probability, below what fp32 can hold,
    and the first one is a difference of numbers near 1. So probabilities are taken relative to the
    second one, and the entry of the first is minus the sum of the rest.

    Args:
        logits: (B, K), at least fp32.
        y: (B,) int64.

    Returns:
        (B, K) gradient over its largest magnitude, and (B,) the logarithm of that.
    """
    logs = logits.log_softmax(1)
    likeliest = logs.argmax(1, keepdim=True)
    rest = logs.scatter(1, likeliest, -torch.inf)
    second = rest.amax(1, keepdim=True)
    probabilities = logs.exp()
    others = probabilities.scatter(1, y[:, None], 0.0).sum(1, keepdim=True)
    error = probabilities.scatter(1, y[:, None], -others)
    mean = (probabilities * error).sum(1, keepdim=True)
    entries = (rest - second).exp() * (error - mean)  # 0 at the likeliest
    entries = entries.scatter(1, likeliest, -entries.sum(1, keepdim=True))
    largest = entries.abs().amax(1, keepdim=True)
    entries = entries / torch.where(largest > 0, largest, 1.0)
    return entries, (second + largest.log())[:, 0]


def tempered(logits: Tensor, y: Tensor, gap: Tensor | float) -> Tensor:
    """Logits of each row over the temperature at which `y` is at most `gap` behind the first.

    The temperature is 1 where it is no farther behind; `gap` may be (B, 1).
    """
    behind = logits.amax(1, keepdim=True) - logits.gather(1, y[:, None])
    return logits / (behind / gap).clamp(min=1)


class SquaredError:
    """An objective for `Query.objective`: the squared error, its gradient brought to a unit.

    The descent of the formula itself ends between two classes that are both wrong: there the
    probability of the goal is all that is left of its slope, and every step is spent on the edge of
    that valley. So the gradient of a row is taken at a temperature that keeps the goal within
    `gap` of the first logit; from there on it is the formula's, in direction.

    Args:
        y: (B,) int64 classes.
        gap: most that the logit of `y` may be behind, one for all or (B, 1); inf for the formula
            to the letter.
    """

    def __init__(self, y: Tensor, gap: Tensor | float = math.inf) -> None:
        self.y = y
        self.gap = gap

    def __call__(self, parts: Parts) -> Tensor:
        """(B,) the value, in whose graph the gradient in the logits is the unit one."""
        raw = parts.logits
        logits = raw.detach().to(torch.promote_types(raw.dtype, torch.float32))
        unit, _ = unit_gradient(tempered(logits, self.y, self.gap), self.y)
        value = half_squared_error(logits, self.y)
        wide = raw.to(logits.dtype)
        return value + (unit * (wide - wide.detach())).sum(1)
