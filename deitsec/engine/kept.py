"""What is kept of each row while an attack runs: the best image so far, and what became of it."""

from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor

from deitsec import ops
from deitsec.engine.preference import Preference
from deitsec.types import SHARED, Problem

Stop = Literal["first_success", "never"]


@dataclass(kw_only=True, slots=True)
class Kept:
    """Best iterate of each row, from the logits of the attack's own forward passes.

    Attributes:
        adv: (B, C, H, W); the clean image until an iterate was offered.
        logits: (B, K) fp32 at `adv`, zeros until the first offer; None until the model has said K.
        success: (B,) bool, the goal is reached at `adv` by these logits.
        confirmed: (B,) bool, and by the exact model too.
        score: (B,) loss at `adv`, negated where the loss is descended; -inf until the first offer.
        steps: (B,) int64 times that the model was asked before the first success; -1 where there
            was none.
        finite: (B,) bool, no gradient or loss was NaN or inf.
        driven: (B,) bool, some gradient was not 0.
        claims: (B,) int64 successes that the exact model was asked about.
        refuted: (B,) int64 those that it did not confirm.
        rechecks: (B,) int64 forward passes of the exact model beside the attack's own.
        clock: () int64 times that the model was asked.
    """

    adv: Tensor
    logits: Tensor | None
    success: Tensor
    confirmed: Tensor
    score: Tensor
    steps: Tensor
    finite: Tensor
    driven: Tensor
    claims: Tensor
    refuted: Tensor
    rechecks: Tensor
    clock: Tensor = field(metadata=SHARED)

    @classmethod
    def nothing(cls, x: Tensor) -> Self:
        """What is kept of the clean images `x` before the first step."""
        rows = x.shape[0]
        count = torch.zeros(rows, dtype=torch.int64, device=x.device)
        no = torch.zeros(rows, dtype=torch.bool, device=x.device)
        wide = torch.promote_types(x.dtype, torch.float32)
        return cls(
            adv=x.clone(),
            logits=None,
            success=no.clone(),
            confirmed=no.clone(),
            score=torch.full((rows,), -torch.inf, device=x.device, dtype=wide),
            steps=count - 1,
            finite=~no,
            driven=no,
            claims=count,
            refuted=count.clone(),
            rechecks=count.clone(),
            clock=torch.zeros((), dtype=torch.int64, device=x.device),
        )

    def offer(
        self,
        x: Tensor,
        logits: Tensor,
        loss: Tensor,
        predicted: Tensor,
        problem: Problem,
        preference: Preference,
    ) -> None:
        """Take over the rows of `x` that are better than what is kept, in place.

        What the exact model has confirmed stays: a later iterate has not stood up to it.

        Args:
            x: (B, C, H, W) the iterate.
            logits: (B, K) at x.
            loss: (B,) loss at the goal's class.
            predicted: (B,) int64.
            problem: what is aimed at, and from where.
            preference: which of two images is better.
        """
        goal = problem.goal
        sane = loss.isfinite().logical_and_(~self.confirmed)
        score = torch.where(sane, -loss if goal.targeted else loss, torch.nan)
        success = goal.reached(logits, predicted).logical_and_(sane)
        success, score = preference.of(success, score, x, problem.x)
        torch.where(success & (self.steps < 0), self.clock, self.steps, out=self.steps)
        better = ops.track_best_(
            self.adv,
            self.success,
            self.score,
            x,
            success,
            score.to(self.score.dtype),
            preference.first,
        )
        wide = logits.to(self.score.dtype)
        kept = self.make_room(wide)
        torch.where(better[:, None], wide, kept, out=kept)

    def make_room(self, logits: Tensor) -> Tensor:
        """`logits`, made where they were None: zeros of the shape of these (B, K)."""
        if self.logits is None:
            self.logits = torch.zeros_like(logits, dtype=self.score.dtype)
        return self.logits
