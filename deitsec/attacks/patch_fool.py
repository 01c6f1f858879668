"""Patch-Fool: patches that draw a vision transformer's attention to themselves."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from deitsec.attacks.exact_loss import exact_loss
from deitsec.attacks.patch_attack import PatchAttack, PatchState, gradient_scores
from deitsec.attacks.tokens import of_tokens, on_image, received
from deitsec.types import Part, Parts, Plan, Problem, Query, Traits

_BETAS = (0.9, 0.999)
_LEAST = 1e-20  # Adam's usual 1e-8 is larger than the gradients of a row that the model is sure of
_DECAY_EVERY = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchFoolState(PatchState):
    """State of Adam on the patches.

    Attributes:
        mean: (B, C, H, W) first moment, at least fp32.
        square: (B, C, H, W) second moment.
        taken: (B,) int64 steps.
    """

    mean: Tensor
    square: Tensor
    taken: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchFool(PatchAttack):
    """Patch-Fool (Fu et al., arXiv:2203.08392, section 3).

    The patches are those that get the most attention in a block (section 3.3). Adam climbs the
    cross-entropy, and with it in each block the attention that all tokens pay to the patches,
    summed over heads and queries (section 3.4); where the gradient of an attention opposes that of
    the cross-entropy, the opposing part is taken out (PCGrad, arXiv:2001.06782). A step takes one
    forward pass, and one gradient more than there are blocks.

    Attributes:
        patch_size: side of a patch in pixels, a divisor of both sides of the image; None takes the
            patches of the model's own tokens.
        num_patches: how many patches of a row are changed.
        pick: `attention`, `gradient` (largest at the clean image) or `random`.
        layer: the block whose attention picks, from 1; None takes the fifth of twelve, and of
            another depth the one as far on.
        attention_weight: factor of the attention's gradients; 0 climbs the cross-entropy alone,
            and then any model will do whose patches are not picked by attention.
        alpha: step size at first, of images in [0, 1]; the authors' 0.2 is of normalised ones.
        decay: factor of the step size every 10 steps.
        steps: number of steps.
        random_start: whether the patches start as uniform noise instead of the image.
        restarts: how often a row is tried, each time from another noise.
    """

    name: ClassVar[str] = "patch_fool"
    traits: ClassVar[Traits] = Traits(norm="l0", part="attention", deterministic=False)
    picks: ClassVar[tuple[str, ...]] = ("attention", "gradient", "random")

    pick: str = "attention"
    layer: int | None = None
    attention_weight: float = 0.002
    alpha: float = 0.05
    decay: float = 0.95
    steps: int = 250

    def __post_init__(self) -> None:
        """Validate the configuration."""
        PatchAttack.__post_init__(self)
        if self.layer is not None and self.layer < 1:
            raise ValueError(f"{self.name}: layer must be at least 1, got {self.layer}")
        if not 0 <= self.attention_weight < float("inf"):
            raise ValueError(
                f"{self.name}: attention_weight must be >= 0 and finite, "
                f"got {self.attention_weight}"
            )
        if not 0 < self.decay <= 1:
            raise ValueError(f"{self.name}: decay must be in (0, 1], got {self.decay}")

    def init(self, p: Problem) -> PatchFoolState:
        """Start at the image, with no patch."""
        if self.patch_size is not None:
            self.grid(p.x.shape[1:])
        rest = torch.zeros_like(p.x, dtype=torch.promote_types(p.x.dtype, torch.float32))
        return PatchFoolState(
            x=p.x,
            mask=torch.zeros_like(p.x[:, :1]),
            mean=rest,
            square=rest.clone(),
            taken=torch.zeros_like(p.sample_ids),
        )

    def plan(self) -> Plan:
        """Choose the patches, then take the same step, repeated."""
        return [(self.choose, 1), (self.step, self.steps)]

    def choose(self, p: Problem, s: PatchFoolState, query: Query) -> PatchFoolState:
        """Choose the patches at the clean image."""
        seen: list[Tensor] = []

        def look(parts: Parts) -> Tensor:
            if parts.attention:
                scores = received(parts.attention[self._block(len(parts.attention))])
                seen.append(on_image(scores.detach(), *p.x.shape[2:]))
            return exact_loss(parts.logits, p.y)

        attends = self.pick == "attention" or self.attention_weight > 0
        part: Part = "attention" if attends else "logits"
        grad = query.objective(p.x, look, part=part).grad
        down, across = self.grid(p.x.shape[1:]) if self.patch_size or not seen else _sides(seen[0])
        if self.pick == "attention":
            scores = functional.adaptive_avg_pool2d(seen[0], (down, across))
        elif self.pick == "gradient":
            scores = gradient_scores(grad, down, across)
        else:
            scores = self.at_random(p, down, across)
        mask = self.chosen(p, scores)
        return s.replace(x=self.start(p, mask), mask=mask)

    def step(self, p: Problem, s: PatchFoolState, query: Query) -> PatchFoolState:
        """Take a step of Adam within the patches and the box."""
        grad = self._gradient(p, s, query).to(s.mean.dtype)
        first, second = _BETAS
        mean = first * s.mean + (1 - first) * grad
        square = second * s.square + (1 - second) * grad.square()
        taken = s.taken + 1
        rate = self.alpha * self.decay ** (s.taken // _DECAY_EVERY).to(mean.dtype)
        rate, times = (value.to(mean.dtype)[:, None, None, None] for value in (rate, taken))
        towards = mean / (1 - first**times)
        length = (square / (1 - second**times)).sqrt() + _LEAST
        moved = (s.x + rate * towards / length).clamp(0, 1).to(p.x.dtype)
        x = torch.where(s.mask > 0, moved, p.x)
        return s.replace(x=x, mean=mean, square=square, taken=taken)

    def _gradient(self, p: Problem, s: PatchFoolState, query: Query) -> Tensor:
        """What the patches climb along."""
        if self.attention_weight == 0:
            return p.direction * query.grad(s.x, p.y) * s.mask

        def objectives(parts: Parts) -> Tensor:
            loss = p.direction * exact_loss(parts.logits, p.y)
            drawn = [_drawn(attention, s.mask).to(loss.dtype) for attention in parts.attention]
            return torch.stack([loss, *drawn], 1)

        grads = query.objective(s.x, objectives, part="attention").grad * s.mask[:, None]
        loss, drawn = grads[:, :1], grads[:, 1:]
        return (loss + self.attention_weight * _unopposed(drawn, loss).sum(1, keepdim=True))[:, 0]

    def _block(self, depth: int) -> int:
        """The block that picks, from 0."""
        if self.layer is None:
            return -(-5 * depth // 12) - 1
        if self.layer > depth:
            raise ValueError(
                f"{self.name}: layer must be at most {depth}, as many as the model has blocks, "
                f"got {self.layer}"
            )
        return self.layer - 1


def _sides(scores: Tensor) -> tuple[int, int]:
    return scores.shape[2], scores.shape[3]


def _drawn(attention: Tensor, mask: Tensor) -> Tensor:
    """(B,) attention (B, heads, T, T) that is paid to the patches, over heads and queries."""
    weights = of_tokens(mask, attention.shape[-1]).to(attention.dtype)
    return (attention.sum((1, 2)) * weights).sum(1)


def _unopposed(grads: Tensor, leading: Tensor) -> Tensor:
    """Gradients (B, J, C, H, W) less what opposes the leading one (B, 1, C, H, W)."""
    axes = (2, 3, 4)
    largest = leading.abs().amax(axes, keepdim=True)
    unit = leading / torch.where(largest > 0, largest, 1.0)  # or its square is too small for fp32
    square = unit.square().sum(axes, keepdim=True)
    along = (grads * unit).sum(axes, keepdim=True) / torch.where(square > 0, square, 1.0)
    return grads - along.clamp(max=0) * unit
