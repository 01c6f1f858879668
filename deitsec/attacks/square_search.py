"""What Square is in every norm: a random window is tried, and kept where the loss improves."""

import functools
import itertools
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks.attack import Attack, check_budget, check_share
from deitsec.types import Plan, Problem, Query, State

# the share of the image that a window covers is halved after so many of 10,000 proposals
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_MOST_SERIES = 1000
_LOSSES = (None, "margin", "ce")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchState(State):
    """The best image so far.

    Attributes:
        score: (B,) its loss, with the sign that is to rise.
        turn: (B,) int64, proposals made, which number the draws.
    """

    score: Tensor
    turn: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SquareSearch(Attack):
    """Base of the Square attacks (Andriushchenko et al., arXiv:1912.00049).

    Attributes:
        eps: radius of the ball in the norm of the attack, on images in [0, 1].
        n_queries: forward passes that a row may take, that of the start included.
        p_init: share of the image that the first windows cover.
        rescale_schedule: whether the schedule of the paper, made for 10,000 queries, is stretched
            to n_queries; AutoAttack does not, and so ends with windows of p_init / 128.
        loss: what is to improve, `margin` or `ce`; None takes the paper's: the margin to make the
            label lose, cross-entropy to aim at a class.
        restarts: how often a row is tried, each time with other draws.
        series: which of the many series of draws it uses, so that two runs of Square on the same
            rows try different windows.
    """

    eps: float
    n_queries: int = 5000
    p_init: float = 0.8
    rescale_schedule: bool = False
    loss: str | None = None
    restarts: int = 1
    series: int = 0

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps, norm=self.traits.norm)
        check_share(self.name, "p_init", self.p_init)
        for what, value in (("n_queries", self.n_queries), ("restarts", self.restarts)):
            if value < 1:
                raise ValueError(f"{self.name}: {what} must be at least 1, got {value}")
        if not 0 <= self.series < _MOST_SERIES:
            raise ValueError(
                f"{self.name}: series must be 0 to {_MOST_SERIES - 1}, got {self.series}"
            )
        if self.loss not in _LOSSES:
            raise ValueError(f"{self.name}: loss must be margin, ce or none, got {self.loss!r}")

    @property
    def start_stream(self) -> int:
        """Stream of the draws of the start; 0 and 1 are taken, see `draws.uniform`."""
        return 2 + 2 * self.series

    @property
    def step_stream(self) -> int:
        """Stream of the draws of the proposals."""
        return 3 + 2 * self.series

    @property
    def num_restarts(self) -> int:
        """How often a row is tried at each of its targets."""
        return self.restarts

    @abstractmethod
    def random_start(self, p: Problem) -> Tensor:
        """(B, C, H, W) where a row starts, in the ball and the box."""

    @abstractmethod
    def propose(self, p: Problem, s: SearchState, share: float) -> Tensor:
        """(B, C, H, W) the best image with a random window of this share changed."""

    def init(self, p: Problem) -> SearchState:
        """Start at a random image, of which nothing is known yet."""
        score = torch.promote_types(p.x.dtype, torch.float32)
        return SearchState(
            x=self.random_start(p),
            score=torch.full_like(p.sample_ids, -torch.inf, dtype=score),
            turn=torch.zeros_like(p.sample_ids),
        )

    def plan(self) -> Plan:
        """Return the look at the start, and the proposals by the size of their windows."""
        phases = [
            (functools.partial(self.step, share=self.p_init / 2**halvings), times)
            for halvings, times in _phases(self.n_queries, self.rescale_schedule)
        ]
        return [(self.start, 1), *phases]

    def start(self, p: Problem, s: SearchState, query: Query) -> SearchState:
        """Ask about the start."""
        return s.replace(score=self._score(p, s, query.logits(s.x)))

    def step(self, p: Problem, s: SearchState, query: Query, *, share: float) -> SearchState:
        """Try a window, and keep it in the rows whose loss improves."""
        x = self.propose(p, s, share)
        score = self._score(p, s, query.logits(x))
        better = score > s.score
        return s.replace(
            x=torch.where(better[:, None, None, None], x, s.x),
            score=torch.where(better, score, s.score),
            turn=s.turn + 1,
        )

    def _score(self, p: Problem, s: SearchState, logits: Tensor) -> Tensor:
        loss = self.loss or ("ce" if p.targeted else "margin")
        values, _, _ = ops.classification_loss(logits, p.y, loss)
        return (p.direction * values).to(s.score.dtype)


def _halvings(number: int, n_queries: int, rescaled: bool) -> int:
    """How often the share has been halved by a proposal; they count from 0."""
    if rescaled:
        number = int(number / n_queries * 10_000)
    return sum(number > after for after in _HALVED_AFTER)


@functools.cache  # an engine asks for the plan on every wave
def _phases(n_queries: int, rescaled: bool) -> tuple[tuple[int, int], ...]:
    """Halvings, and how many proposals in a row have them."""
    halvings = (_halvings(number, n_queries, rescaled) for number in range(n_queries - 1))
    return tuple((times, len(list(same))) for times, same in itertools.groupby(halvings))
