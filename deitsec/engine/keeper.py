"""Keeps the best adversarial image of each row while an attack runs."""

from typing import Literal

import torch
from torch import Tensor

from deitsec.engine.goal import Goal

Stop = Literal["first_success", "never"]


class Keeper:
    """Best iterate of each row so far, from the logits of the attack's own forward passes.

    `first_success` keeps the first iterate that reaches the goal, `never` the one of highest loss
    among those that do. Where none does, the one of highest loss is kept.

    Args:
        x: (B, C, H, W) clean images.
        goal: what is aimed at.
        stop: which success to keep.
    """

    def __init__(self, x: Tensor, goal: Goal, stop: Stop) -> None:
        rows, device = x.shape[0], x.device
        self.goal = goal
        self.stop = stop
        self.adv = x
        self.logits: Tensor | None = None
        self.success = torch.zeros(rows, dtype=torch.bool, device=device)
        self.score = torch.full((rows,), -torch.inf, device=device)
        self.steps = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self.finite = torch.ones(rows, dtype=torch.bool, device=device)
        self.driven = torch.zeros(rows, dtype=torch.bool, device=device)

    def offer(self, x: Tensor, logits: Tensor, loss: Tensor, predicted: Tensor, step: int) -> None:
        """Take over the rows of `x` that are better than what is kept.

        Args:
            x: (B, C, H, W) the iterate.
            logits: (B, K) at x.
            loss: (B,) loss at the goal's class.
            predicted: (B,) int64.
            step: gradient steps taken so far.
        """
        sane = loss.isfinite()
        score = -loss if self.goal.targeted else loss
        success = self.goal.reached(logits, predicted) & sane
        newly = success & ~self.success
        higher = (score > self.score) & sane
        if self.stop == "first_success":
            better = newly | (~self.success & higher)
        else:
            better = newly | ((success == self.success) & higher)
        self.steps = torch.where(newly, step, self.steps)
        self.success = self.success | success
        self.score = torch.where(better, score, self.score)
        self.adv = torch.where(better[:, None, None, None], x, self.adv)
        kept = logits if self.logits is None else self.logits
        self.logits = torch.where(better[:, None], logits, kept)

    @property
    def untouched(self) -> Tensor:
        """(B,) bool: rows of which no iterate could be kept; `adv` is the clean image there."""
        return self.score == -torch.inf
