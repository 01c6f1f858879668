"""Small models whose optimum is known, or that misbehave in one way."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from deitsec import ops
from deitsec.attacks.attack import Attack
from deitsec.types import SHARED, Goal, Plan, Problem, Query, State, Traits


class Linear(nn.Module):
    """Two classes, logits ±(w . x + b) / 2, so that the margin is w . x + b."""

    def __init__(self, weight: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.bias = bias

    def margin(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.flatten() + self.bias

    def forward(self, images: Tensor) -> Tensor:
        margin = self.margin(images)
        return torch.stack([margin / 2, -margin / 2], 1)


def mlp(classes: int = 5, pixels: int = 36, seed: int = 0) -> nn.Module:
    """A float64 network with batch norm and dropout: rows and modes would show if they mixed."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, 24),
        nn.BatchNorm1d(24),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Linear(24, classes),
    ).double()
    with torch.no_grad():
        model[-1].weight.mul_(6)  # confident answers
    return model.eval()


def images_and_labels(
    model: nn.Module, rows: int = 24, side: int = 6, seed: int = 1
) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], some on its border, and the labels that the model itself gives them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(rows, 1, side, side, dtype=torch.float64, generator=generator)
    images = (images * 1.2 - 0.1).clamp(0, 1)
    with torch.no_grad():
        return images, model(images).argmax(1)


def conv(classes: int = 4, seed: int = 0) -> nn.Module:
    """An fp32 network with convolutions, whose answers a small change of the image turns."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, classes),
    )
    with torch.no_grad():
        model[-1].weight.mul_(4)
    return model.eval()


class Counting(nn.Module):
    """Counts the rows that a model sees, with and without a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.sizes: list[int] = []
        self.differentiated = 0

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if images.requires_grad:
            self.differentiated += len(images)
        return self.model(images)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyState(State):
    """Row fields of several shapes, and a counter that belongs to no row."""

    momentum: Tensor
    turns: Tensor
    clock: Tensor = field(metadata=SHARED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Toy(Attack):
    """Momentum whose steps shrink by a clock, and whose sign of decay hangs on a row's counter.

    At the step `look` the clean image is asked about once more.
    """

    name = "toy"
    traits = Traits(norm="linf", deterministic=False)

    eps: float = 0.15
    steps: int = 12
    look: int = -1

    def init(self, p: Problem) -> ToyState:
        return ToyState(
            x=ops.random_start(p.x, p.sample_ids, self.eps, p.seed),
            momentum=torch.zeros_like(p.x),
            turns=torch.zeros_like(p.sample_ids),
            clock=torch.zeros((), dtype=torch.int64, device=p.x.device),
        )

    def plan(self) -> Plan:
        if self.look < 0:
            return [(self.step, self.steps)]
        return [(self.step, self.look), (self.glance, 1), (self.step, self.steps - self.look)]

    def glance(self, p: Problem, s: ToyState, query: Query) -> ToyState:
        query.grad(p.x, p.y)
        return s

    def step(self, p: Problem, s: ToyState, query: Query) -> ToyState:
        grad = query.grad(s.x, p.y)
        kept = torch.where(s.turns % 3 == 2, 0.0, 0.5)[:, None, None, None].to(grad.dtype)
        momentum = s.momentum * kept + grad.sign()
        size = p.direction * self.eps / (4 + s.clock)
        x = (s.x + size * momentum.sign()).clamp(p.x - self.eps, p.x + self.eps).clamp(0, 1)
        turned = (momentum.sign() != s.momentum.sign()).flatten(1).any(1)
        s.clock.add_(1)
        return s.replace(x=x, momentum=momentum, turns=s.turns + turned.long())


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoPlaceState(State):
    earlier: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class HeavyBall(Attack):
    """Remembers the iterate before: the fields of its state move from one to the other."""

    name = "heavy_ball"
    traits = Traits(norm="linf")
    eps: float = 0.1

    def init(self, p):
        return TwoPlaceState(x=p.x, earlier=p.x)

    def plan(self):
        return [(self.step, 12)]

    def step(self, p, s, query):
        grad = query.grad(s.x, p.y)
        ahead = (s.x + 0.5 * (s.x - s.earlier)).clamp(0, 1)
        return s.replace(x=ops.linf_step(ahead, grad, p.x, 0.02, self.eps), earlier=s.x)


def problem(x: Tensor, y: Tensor, *, targeted: bool = False, **more) -> Problem:
    """What an attack sees of images `x` and the classes `y` that it is about."""
    ids = torch.arange(len(x), device=x.device)
    goal = Goal(y=y, targeted=targeted, confidence=more.pop("confidence", 0.0))
    given = {"sample_ids": ids, "labels": y, "goal": goal} | more
    return Problem(x=x, y=y, targeted=targeted, **given)
