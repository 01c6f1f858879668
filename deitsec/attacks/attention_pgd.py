"""Projected gradient descent that also turns a transformer's attention away."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from deitsec import ops
from deitsec.attacks.exact_loss import exact_loss
from deitsec.attacks.pgd import PGD
from deitsec.attacks.tokens import of_tokens, on_image, received
from deitsec.types import Parts, Plan, Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class LookedState(State):
    """State with what the model looked at.

    Attributes:
        looked: (B, 1, H, W) attention that each pixel's patch got on the clean image, scaled so
            that the clean image's own attention to it is 1.
    """

    looked: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionPGD(PGD):
    """PGD on the cross-entropy less the attention that stays where it was on the clean image.

    `CE(x, y) - weight * <a(clean), a(x)> / <a(clean), a(clean)>`, where a is the attention that
    each patch gets, over blocks, heads and queries: the attention-aware loss of Fu et al.
    (arXiv:2203.08392, section 3.4) for a change of the whole image, which has no patch to draw
    attention to and turns it away from what the model relied on.

    Attributes:
        attention_weight: factor of the attention, 0 or more.
    """

    name: ClassVar[str] = "attention_pgd"
    traits: ClassVar[Traits] = Traits(norm="linf", part="attention", deterministic=False)

    attention_weight: float = 1.0

    def __post_init__(self) -> None:
        """Validate the configuration."""
        PGD.__post_init__(self)
        if not 0 <= self.attention_weight < float("inf"):
            raise ValueError(
                f"{self.name}: attention_weight must be >= 0 and finite, "
                f"got {self.attention_weight}"
            )

    def init(self, p: Problem) -> LookedState:
        """Start at the image, or at a random point of its ball."""
        start = self.random_point(p) if self.random_start else p.x
        wide = torch.promote_types(p.x.dtype, torch.float32)
        return LookedState(x=start, looked=torch.zeros_like(p.x[:, :1], dtype=wide))

    def plan(self) -> Plan:
        """Look at the clean image, then take the same step, repeated."""
        return [(self.look, 1), (self.step, self.steps)]

    def look(self, p: Problem, s: LookedState, query: Query) -> LookedState:
        """Note what the model looks at on the clean image."""
        seen: list[Tensor] = []

        def loss(parts: Parts) -> Tensor:
            seen.extend(received(attention.detach()) for attention in parts.attention)
            return exact_loss(parts.logits, p.y)

        query.objective(p.x, loss, part="attention")
        height, width = p.x.shape[2:]
        shown = [
            functional.interpolate(on_image(got.to(s.looked.dtype), height, width), (height, width))
            for got in seen
        ]
        looked = torch.stack(shown).mean(0)
        own = torch.stack([(of_tokens(looked, got.shape[1]) * got).sum(1) for got in seen]).mean(0)
        return s.replace(looked=looked / own[:, None, None, None])

    def step(self, p: Problem, s: State, query: Query) -> State:
        """Take a signed step, projected on the ball and the box."""
        assert isinstance(s, LookedState)
        looked = s.looked

        def objective(parts: Parts) -> Tensor:
            stays = [
                (received(attention) * of_tokens(looked, attention.shape[-1])).sum(1)
                for attention in parts.attention
            ]
            loss = p.direction * exact_loss(parts.logits, p.y)
            return loss - self.attention_weight * torch.stack(stays).mean(0)

        grad = query.objective(s.x, objective, part="attention").grad
        return s.replace(x=ops.linf_step(s.x, grad, p.x, self.step_size, self.eps))
