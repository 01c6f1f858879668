"""The schedule of APGD in L-infinity and L2: checkpoints, and steps that are halved there."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from deitsec.attacks.auto_pgd import AutoPGD
from deitsec.types import Plan, Problem, Query, State

# of all steps: those before the first checkpoint, how much shorter each interval is than the one
# before it, and the shortest (arXiv:2003.01690, section 3.1)
_FIRST, _SHORTER, _SHORTEST = 0.22, 0.03, 0.06


@dataclass(frozen=True, kw_only=True, slots=True)
class HalvingState(State):
    """Where APGD is, and what it judges its step sizes by.

    Attributes:
        x_old: (B, C, H, W) the iterate before.
        x_best: (B, C, H, W) the iterate of the best height.
        grad_best: (B, C, H, W) the gradient there.
        step: (B,) step sizes, at least fp32.
        height: (B,) what was climbed to at the iterate before.
        best: (B,) the best height.
        rises: (B,) int64 steps since the checkpoint that raised the height.
        taken: (B,) int64 steps since the checkpoint.
        best_before: (B,) the best height at the checkpoint before.
        halved: (B,) bool, the step was halved at the checkpoint before.
    """

    x_old: Tensor
    x_best: Tensor
    grad_best: Tensor
    step: Tensor
    height: Tensor
    best: Tensor
    rises: Tensor
    taken: Tensor
    best_before: Tensor
    halved: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class StepHalving(AutoPGD):
    """APGD whose steps carry momentum and are halved at checkpoints (algorithm 1).

    The first step is 2 eps long and goes without momentum. At a checkpoint a row's step is halved,
    and the row goes back to its best iterate, where fewer than rho of the steps since the last
    checkpoint raised the loss, or where neither its best loss nor its step has changed since.

    Attributes:
        momentum: weight of the gradient step against the step before, alpha in the paper.
    """

    momentum: float = 0.75

    def __post_init__(self) -> None:
        """Validate the configuration."""
        AutoPGD.__post_init__(self)
        if not 0 < self.momentum <= 1:
            raise ValueError(f"{self.name}: momentum must be in (0, 1], got {self.momentum}")

    @abstractmethod
    def random_point(self, p: Problem) -> Tensor:
        """(B, C, H, W) where a row starts, in ball and box."""

    @abstractmethod
    def advance(
        self,
        p: Problem,
        s: HalvingState,
        grad: Tensor,
        better: Tensor,
        restart: Tensor,
        share: float,
    ) -> HalvingState:
        """Keep the rows of `s.x` that are better, go back to the best where asked, and step.

        Args:
            p: what is attacked.
            s: with the step sizes to take.
            grad: (B, C, H, W) gradient of the loss at s.x.
            better: (B,) bool, s.x is the best iterate so far.
            restart: (B,) bool, the step is taken from the best iterate.
            share: weight of the gradient step against the step before.
        """

    def init(self, p: Problem) -> HalvingState:
        """Start at a random point."""
        self.check_aim(p)
        x = self.random_point(p)
        wide = torch.promote_types(x.dtype, torch.float32)
        height = torch.zeros(len(x), dtype=wide, device=x.device)
        count = torch.zeros_like(p.sample_ids)
        return HalvingState(
            x=x,
            x_old=x.clone(),
            x_best=x.clone(),
            grad_best=torch.zeros_like(x),
            step=torch.full_like(height, 2 * self.eps),
            height=height,
            best=torch.full_like(height, -torch.inf),
            rises=count,
            taken=count.clone(),
            best_before=height.clone(),
            halved=torch.ones_like(count, dtype=torch.bool),
        )

    def plan(self) -> Plan:
        """Return the first step, and the others with a checkpoint at the end of each interval."""
        plan: Plan = [(self.start, 1)]
        left = self.steps - 1
        for interval in self.intervals:
            plan += [(self.climb, min(interval - 1, left)), (self.judge, int(interval <= left))]
            left = max(0, left - interval)
        return [(step, times) for step, times in plan if times]

    @property
    def intervals(self) -> list[int]:
        """Steps from each checkpoint to the next, until the steps are used up."""
        interval, shorter, shortest = (
            max(1, int(share * self.steps)) for share in (_FIRST, _SHORTER, _SHORTEST)
        )
        intervals = [interval]
        while sum(intervals) < self.steps:
            intervals.append(max(intervals[-1] - shorter, shortest))
        return intervals

    def start(self, p: Problem, s: HalvingState, query: Query) -> HalvingState:
        """Take the first step."""
        grad, height = self.ask(p, s.x, query)
        every = torch.ones_like(s.halved)
        # `height` stays 0: the reference implementation counts the first rise from there
        s = s.replace(best=height, best_before=height)
        return self.advance(p, s, grad, every, ~every, 1.0)

    def climb(self, p: Problem, s: HalvingState, query: Query) -> HalvingState:
        """Take a step between two checkpoints."""
        grad, height = self.ask(p, s.x, query)
        better = height > s.best
        s = _noted(s, height)
        return self.advance(p, s, grad, better, torch.zeros_like(better), self.momentum)

    def judge(self, p: Problem, s: HalvingState, query: Query) -> HalvingState:
        """Take a step at a checkpoint, half as long where the last ones came to too little."""
        grad, height = self.ask(p, s.x, query)
        better = height > s.best
        s = _noted(s, height)
        halved = (s.rises <= self.rho * s.taken) | (~s.halved & (s.best_before >= s.best))
        none = torch.zeros_like(s.rises)
        s = s.replace(
            step=torch.where(halved, s.step / 2, s.step),
            rises=none,
            taken=none,
            best_before=s.best,
            halved=halved,
        )
        return self.advance(p, s, grad, better, halved, self.momentum)


def _noted(s: HalvingState, height: Tensor) -> HalvingState:
    """The state with the height of its iterate counted."""
    return s.replace(
        rises=s.rises + (height > s.height).long(),
        taken=s.taken + 1,
        height=height,
        best=torch.where(height > s.best, height, s.best),
    )
