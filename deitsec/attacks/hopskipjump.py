"""HopSkipJump: the nearest misclassified image, by a model's decisions alone."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack
from deitsec.attacks.draws import normal, uniform
from deitsec.types import Plan, Problem, Query, State, Traits

# what a row asks about next
_START, _SEARCH, _PROBE, _MOVE = range(4)
# streams of draws
_NOISE, _DIRECTION = 2, 3
_FIRST_PROBE = 0.1  # radius of the first estimate, of the range of the images


@dataclass(frozen=True, kw_only=True, slots=True)
class HopState(State):
    """Where each row is in the program; rows need not be at the same place of it.

    Attributes:
        x: the nearest point of the present search that is known to reach the goal.
        far: (B, C, H, W) the point beyond the border that is brought back to it.
        total, signed: (B, C, H, W) sums of the probes, and of the probes by their decisions; in a
            move `signed` is the direction.
        phase: (B,) int64 what is asked next.
        clock: (B,) int64 queries so far.
        turn: (B,) int64 iteration t, from 1.
        count: (B,) int64 queries of the estimate so far.
        hits: (B,) sum of the decisions of the estimate, each 1 or -1.
        low, high: (B,) ends of the binary search, a share of the way or a radius.
        width: (B,) the search ends when they are as near.
        radius: (B,) of the probes, L2.
        size: (B,) length of the move.
    """

    far: Tensor
    total: Tensor
    signed: Tensor
    phase: Tensor
    clock: Tensor
    turn: Tensor
    count: Tensor
    hits: Tensor
    low: Tensor
    high: Tensor
    width: Tensor
    radius: Tensor
    size: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class HopSkipJumpBase(Attack):
    """HopSkipJump (Chen, Jordan, Wainwright, arXiv:1904.02144, algorithms 1 and 2).

    From a random image that reaches the goal: a binary search to the border, an estimate of the
    border's normal by B_t = B_0 sqrt(t) decisions around it, and a step along that, halved until it
    is beyond the border again. Each step of the program asks about one image of each row, whatever
    the row is at: none waits for another, and every row is asked exactly `max_queries` times.

    The paper starts a targeted attack at an image of the target class. Here nobody hands one in:
    each row tries random images, in patches from one pixel to the whole, alone and added to the
    image, and a row that finds none in `start_queries` is a failure. Radii and widths are kept
    above what the dtype of the images can tell apart.

    Attributes:
        max_queries: decisions that are asked for of each row.
        initial_evaluations: B_0, those of the first estimate.
        max_evaluations: most of an estimate.
        start_queries: random images to try for a start.
        eps: None looks for the nearest; else a row ends at its first success within this radius.
    """

    max_queries: int = 5000
    initial_evaluations: int = 100
    max_evaluations: int = 10_000
    start_queries: int = 300
    eps: float | None = None

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        for what in ("initial_evaluations", "max_evaluations", "start_queries"):
            if getattr(self, what) < 1:
                raise ValueError(f"{self.name}: {what} must be >= 1, got {getattr(self, what)}")
        if self.max_queries <= self.start_queries:
            raise ValueError(
                f"{self.name}: max_queries must be more than start_queries="
                f"{self.start_queries}, got {self.max_queries}"
            )
        if self.eps is not None and not 0 < self.eps < float("inf"):
            raise ValueError(f"{self.name}: eps must be > 0 and finite, or none, got {self.eps}")
        if self.confidence:
            raise ValueError(
                f"{self.name} sees decisions only, and no confidence; leave confidence out"
            )

    def init(self, p: Problem) -> HopState:
        """Stand on the image, with nothing known."""
        wide = torch.promote_types(p.x.dtype, torch.float32)
        image = torch.zeros_like(p.x, dtype=wide)
        scalar = torch.zeros(len(p.x), dtype=wide, device=p.x.device)
        number = torch.zeros_like(p.sample_ids)
        return HopState(
            x=p.x,
            done=torch.zeros_like(number, dtype=torch.bool),
            far=p.x,
            total=image,
            signed=image,
            phase=number + _START,
            clock=number,
            turn=number,
            count=number,
            hits=scalar,
            low=scalar,
            high=scalar,
            width=scalar,
            radius=scalar,
            size=scalar,
        )

    def plan(self) -> Plan:
        """Return the query, while rows look for a start and after."""
        rest = self.max_queries - self.start_queries
        return [(self.start, self.start_queries), (self.step, rest)]

    def start(self, p: Problem, s: HopState, query: Query) -> HopState:
        """Ask once, about a random image where the row has no start yet."""
        return self._ask(p, s, query, _random_image(p, s.clock))

    def step(self, p: Problem, s: HopState, query: Query) -> HopState:
        """Ask once; a row that has found no start by now is done."""
        return self._ask(p, s, query, None)

    @abstractmethod
    def distance(self, x: Tensor, clean: Tensor) -> Tensor:
        """(B,) distance in the norm of the attack, at least fp32."""

    @abstractmethod
    def interval(self, far: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) where `far` lies in the search, and the width at which the search ends."""

    @abstractmethod
    def between(self, clean: Tensor, far: Tensor, share: Tensor) -> Tensor:
        """The point of the search at `share`, 0 at the clean image."""

    @abstractmethod
    def drawn(self, p: Problem, clock: Tensor) -> Tensor:
        """Random directions, of any length."""

    @abstractmethod
    def steepest(self, normal: Tensor) -> Tensor:
        """The direction of a move, from the estimate of the border's normal."""

    def _ask(self, p: Problem, s: HopState, query: Query, noise: Tensor | None) -> HopState:
        asked = self._candidate(p, s, noise)
        predicted = query.predict(asked)
        hit = predicted == p.y if p.targeted else predicted != p.y
        at = s.phase
        clock = s.clock + 1
        s = s.replace(clock=clock, done=(at == _START) & (clock >= self.start_queries))
        s = self._searched(p, s, asked, hit, at == _SEARCH)
        s = self._probed(p, s, asked, hit, at == _PROBE)
        return self._moved(p, s, asked, hit, at)

    def _candidate(self, p: Problem, s: HopState, noise: Tensor | None) -> Tensor:
        """(B, C, H, W) what each row asks about, in the dtype of the images."""
        between = self.between(p.x, s.far, _image((s.low + s.high) / 2))
        drawn = self.drawn(p, s.clock)
        along = drawn / _length(drawn).clamp(min=torch.finfo(drawn.dtype).tiny)
        probing = _image(s.phase == _PROBE)
        away = torch.where(probing, _image(s.radius) * along, _image(s.size) * s.signed)
        asked = torch.where(_image(s.phase == _SEARCH), between, (s.x + away).clamp(0, 1))
        if noise is not None:
            asked = torch.where(_image(s.phase == _START), noise, asked)
        return asked.to(p.x.dtype)

    def _searched(
        self, p: Problem, s: HopState, asked: Tensor, hit: Tensor, here: Tensor
    ) -> HopState:
        """Halve the search where it is on, and begin an estimate where it is over."""
        middle = (s.low + s.high) / 2
        high = torch.where(here & hit, middle, s.high)
        low = torch.where(here & ~hit, middle, s.low)
        over = here & (high - low <= s.width)
        pixels = p.x[0].numel()
        finest = torch.finfo(p.x.dtype).eps * math.sqrt(pixels)
        radius = self.distance(s.far, p.x) / pixels  # sqrt(d) theta in L2, d theta in L-infinity
        radius = torch.where(s.turn == 1, _FIRST_PROBE, radius).clamp(min=finest)
        fresh = _image(over)
        return s.replace(
            x=torch.where(_image(here & hit), asked, s.x),
            high=high,
            low=low,
            phase=torch.where(over, _PROBE, s.phase),
            radius=torch.where(over, radius, s.radius),
            total=torch.where(fresh, 0.0, s.total),
            signed=torch.where(fresh, 0.0, s.signed),
            count=torch.where(over, 0, s.count),
            hits=torch.where(over, 0.0, s.hits),
        )

    def _probed(
        self, p: Problem, s: HopState, asked: Tensor, hit: Tensor, here: Tensor
    ) -> HopState:
        """Add a probe to the estimate, and make a direction of it where it is complete (eq. 15)."""
        decision = torch.where(hit, 1.0, -1.0).to(s.hits.dtype)
        here_ = _image(here)
        # the probe as it was asked: clipped, and rounded to the dtype of the images
        probe = torch.where(here_, (asked.to(s.total.dtype) - s.x) / _image(s.radius), 0.0)
        total, signed = s.total + probe, s.signed + _image(decision) * probe
        hits = torch.where(here, s.hits + decision, s.hits)
        count = torch.where(here, s.count + 1, s.count)
        wanted = self.initial_evaluations * s.turn.double().sqrt()
        over = here & (count >= wanted.floor().clamp(max=self.max_evaluations))
        mean = hits / count.clamp(min=1)
        # where all decisions are alike their mean says it all, and nothing is left without it
        baseline = torch.where(mean.abs() < 1, mean, 0.0)
        direction = self.steepest(signed - _image(baseline) * total)
        size = self.distance(s.x, p.x) / s.turn.clamp(min=1).to(s.size.dtype).sqrt()
        return s.replace(
            total=total,
            signed=torch.where(_image(over), direction, signed),
            hits=hits,
            count=count,
            phase=torch.where(over, _MOVE, s.phase),
            size=torch.where(over, size, s.size),
        )

    def _moved(self, p: Problem, s: HopState, asked: Tensor, hit: Tensor, at: Tensor) -> HopState:
        """Halve the step that fell short; search from a point beyond the border, also the first."""
        moving = at == _MOVE
        landed = hit & (moving | (at == _START))
        assert s.done is not None
        far = torch.where(_image(landed), asked, s.far)
        high, width = self.interval(far, p.x)
        return s.replace(
            x=torch.where(_image(landed), asked, s.x),
            far=far,
            done=s.done & ~landed,
            phase=torch.where(landed, _SEARCH, s.phase),
            turn=torch.where(landed, s.turn + 1, s.turn),
            low=torch.where(landed, 0.0, s.low),
            high=torch.where(landed, high, s.high),
            width=torch.where(landed, width, s.width),
            size=torch.where(moving & ~hit, s.size / 2, s.size),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HopSkipJump(HopSkipJumpBase):
    """HopSkipJump for the L2 norm (arXiv:1904.02144); see `HopSkipJumpBase` for the options."""

    name: ClassVar[str] = "hopskipjump"
    traits: ClassVar[Traits] = Traits(
        norm="l2", goal="minimum", needs="decision", deterministic=False
    )

    def distance(self, x: Tensor, clean: Tensor) -> Tensor:
        """(B,) L2 distance."""
        return _length(_wide(x) - _wide(clean))[:, 0, 0, 0]

    def interval(self, far: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """The whole way, and theta = d**(-3/2) of it."""
        whole = torch.ones_like(_wide(far[:, 0, 0, 0]))
        theta = max(far[0].numel() ** -1.5, torch.finfo(far.dtype).eps)
        return whole, theta * whole

    def between(self, clean: Tensor, far: Tensor, share: Tensor) -> Tensor:
        """The point at a share of the straight line."""
        return (1 - share) * clean + share * far

    def drawn(self, p: Problem, clock: Tensor) -> Tensor:
        """Normal draws: uniform on the sphere."""
        return normal(p, p.x, _DIRECTION, clock)

    def steepest(self, normal: Tensor) -> Tensor:
        """The normal, at length 1."""
        return normal / _length(normal).clamp(min=torch.finfo(normal.dtype).tiny)


@dataclass(frozen=True, kw_only=True, slots=True)
class HopSkipJumpLinf(HopSkipJumpBase):
    """HopSkipJump for the L-infinity norm (arXiv:1904.02144); options as in `HopSkipJumpBase`."""

    name: ClassVar[str] = "hopskipjump_linf"
    traits: ClassVar[Traits] = Traits(
        norm="linf", goal="minimum", needs="decision", deterministic=False
    )

    def distance(self, x: Tensor, clean: Tensor) -> Tensor:
        """(B,) L-infinity distance."""
        return (_wide(x) - _wide(clean)).abs().flatten(1).amax(1)

    def interval(self, far: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """The radius of the far point, and theta = d**-2, or that share of a radius below 1."""
        radius = self.distance(far, clean)
        theta = far[0].numel() ** -2.0
        return radius, (theta * radius.clamp(max=1)).clamp(min=torch.finfo(far.dtype).eps)

    def between(self, clean: Tensor, far: Tensor, share: Tensor) -> Tensor:
        """The far point, brought into the box of a radius around the clean image."""
        return torch.minimum(torch.maximum(_wide(far), clean - share), clean + share)

    def drawn(self, p: Problem, clock: Tensor) -> Tensor:
        """Uniform draws from the cube."""
        return 2 * uniform(p, p.x, _DIRECTION, clock) - 1

    def steepest(self, normal: Tensor) -> Tensor:
        """The signs of the normal."""
        return normal.sign()


def _random_image(p: Problem, clock: Tensor) -> Tensor:
    """Uniform noise in patches, of 1 pixel at the first try, then 2, 4, ...; then on the image.

    On MNIST 300 tries found a start in 71% of the pairs of image and class.
    """
    noise = uniform(p, p.x, _NOISE, clock)
    _, channels, height, width = noise.shape
    levels = max(height, width).bit_length()
    side = (1 << (clock % levels))[:, None]
    rows = torch.arange(height, device=noise.device) // side * side
    columns = torch.arange(width, device=noise.device) // side * side
    noise = noise.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
    noise = noise.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))
    added = (p.x + 2 * noise - 1).clamp(0, 1)
    return torch.where(_image(clock // levels % 2 == 1), added, noise)


def _length(x: Tensor) -> Tensor:
    """(B, 1, 1, 1) L2 norm of each row."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)


def _image(values: Tensor) -> Tensor:
    """Values of the rows (B,), as they go with images."""
    return values[:, None, None, None]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
