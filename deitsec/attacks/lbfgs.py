"""The first attack on neural networks: L-BFGS within the box of images."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack, check_least, check_positive
from deitsec.types import Plan, Problem, Query, State, Traits

_ARMIJO = 1e-4  # share of the linear decrease that a step has to bring
_MOST_HALVINGS = 20
_FLAT = 1e-5  # largest entry of the projected gradient at a minimum, as scipy's pgtol


@dataclass(frozen=True, kw_only=True, slots=True)
class LBFGSState(State):
    """Where each row is: `x` is the point that is tried; (B, n) and (B,) are at least fp32.

    Attributes:
        base: (B, n) the point that was reached.
        base_grad: (B, n) gradient there.
        base_value: (B,) objective there.
        won: (B,) bool, whether the goal is reached there.
        moves: (B, M, n) the last moves, in a ring.
        turns: (B, M, n) how the gradient changed by them.
        count: (B,) int64, how many there were.
        t: (B,) share of the direction that is tried.
        halvings: (B,) int64, how often that was halved.
        iteration: (B,) int64, of the search that goes on.
        search: (B,) int64, searches that are over.
        c: (B,) weight of the model's loss.
        lower: (B,) the largest c that failed.
        upper: (B,) the smallest c that succeeded.
    """

    base: Tensor
    base_grad: Tensor
    base_value: Tensor
    won: Tensor
    moves: Tensor
    turns: Tensor
    count: Tensor
    t: Tensor
    halvings: Tensor
    iteration: Tensor
    search: Tensor
    c: Tensor
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LBFGS(Attack):
    """Box-constrained L-BFGS (Szegedy et al., arXiv:1312.6199, section 4.1).

    Minimises `||r||_2^2 + c * CE(x + r, target)` for x + r in [0, 1], and searches for the least c
    whose minimiser is taken for the target: tenfold steps, then halving. (The paper weighs the
    distance instead, which is the same search from the other end.) Each row descends along its own
    quasi-Newton directions of the pixels that are free to move, projects on the box and halves its
    step until the objective falls, and goes on to its next c as soon as it is at a minimum.

    Attributes:
        eps: L2 radius within which a success counts, and then ends the row; None takes the nearest.
        steps: most evaluations of a search.
        search_steps: searches for c.
        initial_const: the first c.
        history: moves that the curvature is taken from.
    """

    name: ClassVar[str] = "lbfgs"
    traits: ClassVar[Traits] = Traits(norm="l2", goal="minimum", untargeted=False)

    target: str | int | None = "next"
    eps: float | None = None
    steps: int = 100
    search_steps: int = 12
    initial_const: float = 1e-2
    history: int = 10

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_least(self.name, 1, steps=self.steps, search_steps=self.search_steps)
        check_least(self.name, 1, history=self.history)
        check_positive(self.name, eps=self.eps, initial_const=self.initial_const)

    def init(self, p: Problem) -> LBFGSState:
        """Start the first search at the image."""
        clean = p.x.flatten(1).to(torch.promote_types(p.x.dtype, torch.float32))
        rows, elements = clean.shape
        nothing, count = torch.zeros_like(p.y, dtype=clean.dtype), torch.zeros_like(p.y)
        moves = clean.new_zeros(rows, self.history, elements)
        return LBFGSState(
            x=p.x,
            done=torch.zeros_like(p.y, dtype=torch.bool),
            base=clean,
            base_grad=torch.zeros_like(clean),
            base_value=nothing,
            won=torch.zeros_like(p.y, dtype=torch.bool),
            moves=moves,
            turns=moves.clone(),
            count=count,
            t=nothing + 1,
            halvings=count.clone(),
            iteration=count.clone(),
            search=count.clone(),
            c=nothing + self.initial_const,
            lower=nothing.clone(),
            upper=nothing + torch.inf,
        )

    def plan(self) -> Plan:
        """Return the same step, as often as the searches can last."""
        return [(self.step, self.search_steps * self.steps)]

    def step(self, p: Problem, s: LBFGSState, query: Query) -> LBFGSState:
        """Judge the point that was tried; try the next one of this search, or of the next."""
        answer = query.ask(s.x, p.y)
        clean = p.x.flatten(1).to(s.base.dtype)
        x = s.x.flatten(1).to(s.base.dtype)
        weight = -p.direction * s.c
        value = (x - clean).square().sum(1) + weight * answer.loss.to(weight.dtype)
        grad = 2 * (x - clean) + weight[:, None] * answer.grad.flatten(1).to(x.dtype)

        won = p.goal.reached(answer.logits)
        s, over = self._judged(s, x, value, grad, won)
        trial = (s.base + s.t[:, None] * self._direction(s)).clamp(0, 1)
        s = self._next_const(s, over & (s.search < self.search_steps))
        # a row that is done stays at the clean image
        anew = over | (s.search == self.search_steps)
        return s.replace(
            x=torch.where(anew[:, None], clean, trial).to(p.x.dtype).view(p.x.shape),
            done=s.search == self.search_steps,
            iteration=torch.where(anew, 0, s.iteration + 1),
        )

    def _judged(
        self, s: LBFGSState, x: Tensor, value: Tensor, grad: Tensor, won: Tensor
    ) -> tuple[LBFGSState, Tensor]:
        """Accept the point or halve the step; and (B,) whether the search is over."""
        fresh = s.iteration == 0
        move, turn = x - s.base, grad - s.base_grad
        enough = value <= s.base_value + _ARMIJO * (s.base_grad * move).sum(1)
        taken = fresh | enough
        fall = s.base_value - value
        rounding = 10 * torch.finfo(value.dtype).eps
        least = max(2.2e-9, rounding) * torch.maximum(s.base_value.abs(), value.abs()).clamp_min(1)
        halvings = torch.where(taken, 0, s.halvings + 1)

        curved = (move * turn).sum(1) > rounding * turn.square().sum(1)
        useful = enough & ~fresh & curved
        slot = torch.arange(self.history, device=x.device) == (s.count % self.history)[:, None]
        written = (slot & useful[:, None])[:, :, None]
        count = torch.where(fresh, 0, s.count + useful)

        base = torch.where(taken[:, None], x, s.base)
        base_grad = torch.where(taken[:, None], grad, s.base_grad)
        flat = ((base - base_grad).clamp(0, 1) - base).abs().amax(1) <= _FLAT
        settled = enough & ~fresh & (fall <= least)
        over = flat | settled | (halvings > _MOST_HALVINGS) | (s.iteration == self.steps - 1)
        first = torch.linalg.vector_norm(base_grad, dim=1).reciprocal().clamp_max(1)
        return s.replace(
            base=base,
            base_grad=base_grad,
            base_value=torch.where(taken, value, s.base_value),
            won=torch.where(taken, won, s.won),
            moves=torch.where(written, move[:, None], s.moves),
            turns=torch.where(written, turn[:, None], s.turns),
            count=count,
            t=torch.where(taken, torch.where(count == 0, first, 1.0), s.t / 2),
            halvings=halvings,
        ), over

    def _direction(self, s: LBFGSState) -> Tensor:
        """(B, n) minus the gradient times the inverse curvature, for the pixels that are free.

        The two loops of Nocedal (1980), on moves and turns of the free pixels only.
        """
        held = ((s.base <= 0) & (s.base_grad > 0)) | ((s.base >= 1) & (s.base_grad < 0))
        free = (~held).to(s.base.dtype)
        slope = s.base_grad * free
        q, scale = slope, torch.ones_like(s.t)
        pairs: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for age in range(self.history):
            slot = ((s.count - 1 - age) % self.history)[:, None, None]
            slot = slot.expand(-1, 1, s.base.shape[1])
            move, turn = (ring.gather(1, slot)[:, 0] * free for ring in (s.moves, s.turns))
            inner = (move * turn).sum(1)
            known = (age < s.count) & (inner > 0)
            rho = torch.where(known, 1 / torch.where(known, inner, 1), 0)
            alpha = rho * (move * q).sum(1)
            q = q - alpha[:, None] * turn
            pairs.append((move, turn, rho, alpha))
            if age == 0:
                square = turn.square().sum(1)
                scale = torch.where(known, inner / torch.where(known, square, 1), 1)
        q = q * scale[:, None]
        for move, turn, rho, alpha in reversed(pairs):
            beta = rho * (turn * q).sum(1)
            q = q + (alpha - beta)[:, None] * move
        q = q * free
        downhill = ((q * slope).sum(1) > 0) & q.isfinite().all(1)
        return -torch.where(downhill[:, None], q, slope)

    def _next_const(self, s: LBFGSState, over: Tensor) -> LBFGSState:
        """The searches that are over bound c, and the next ones take another."""
        upper = torch.where(over & s.won, torch.minimum(s.upper, s.c), s.upper)
        lower = torch.where(over & ~s.won, torch.maximum(s.lower, s.c), s.lower)
        following = torch.where(upper < torch.inf, (lower + upper) / 2, s.c * 10)
        return s.replace(
            c=torch.where(over, following, s.c), lower=lower, upper=upper, search=s.search + over
        )
