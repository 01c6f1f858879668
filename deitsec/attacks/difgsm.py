"""The diverse inputs iterative fast gradient sign method."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from deitsec.attacks.attack import check_share
from deitsec.attacks.draws import uniform
from deitsec.attacks.momentum_iterative import DrawingState, MomentumIterative, at_rest
from deitsec.attacks.separable import along_axes, placed
from deitsec.types import Change, Problem, Query, Traits

_DIVERSITY = 2  # stream of the draws


@dataclass(frozen=True, kw_only=True, slots=True)
class DIFGSM(MomentumIterative):
    """Diverse inputs iterative FGSM, DI2-FGSM (Xie et al., arXiv:1803.06978, algorithm 1).

    In each step an image is resized and padded with zeros at random, with some probability, before
    the model sees it; each row by draws of its own, not one for the batch. With `decay=1` it is the
    paper's M-DI2-FGSM. The paper enlarges 299 pixels to at most 330; here images keep their size,
    as most networks need it, and shrink by as much. Bilinear, as in torchattacks, whose steps are
    2/255; the authors' code takes the nearest pixel.

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        alpha: step size; None takes eps / steps.
        steps: number of steps.
        decay: factor of the earlier momentum; 0 is DI2-FGSM.
        resize_rate: least size of a resized image, as a share of the image's.
        diversity_prob: how likely an image is changed in a step.
    """

    name: ClassVar[str] = "difgsm"
    traits: ClassVar[Traits] = Traits(norm="linf", deterministic=False)

    decay: float = 0.0
    resize_rate: float = 0.9
    diversity_prob: float = 0.5

    def __post_init__(self) -> None:
        """Validate the configuration."""
        MomentumIterative.__post_init__(self)
        check_share(self.name, "resize_rate", self.resize_rate)
        if not 0 <= self.diversity_prob <= 1:
            raise ValueError(
                f"{self.name}: diversity_prob must be in [0, 1], got {self.diversity_prob}"
            )

    def init(self, p: Problem) -> DrawingState:
        """Start at the image, at rest."""
        turn = torch.zeros_like(p.sample_ids)
        return DrawingState(x=p.x, momentum=at_rest(p.x), turn=turn)

    def step(self, p: Problem, s: Any, query: Query) -> Any:
        """Step along the momentum with the gradient through a random change."""
        return self.advance(p, s, self.gradient(p, s, query)).replace(turn=s.turn + 1)

    def gradient(self, p: Problem, s: DrawingState, query: Query) -> Tensor:
        """(B, C, H, W) gradient of the loss at the changed iterate, in the iterate."""
        diverse = self.diversity(p, s.turn) if self.diversity_prob > 0 else None
        return query.ask(s.x, p.y, through=diverse).grad

    def diversity(self, p: Problem, turn: Tensor) -> Change:
        """The change of every row in this step."""
        wide = torch.promote_types(p.x.dtype, torch.float32)
        drawn = uniform(p, p.x.new_empty(len(p.x), 4), _DIVERSITY, turn).to(wide)
        shrink, down, right, choice = drawn.unbind(1)
        changed = choice < self.diversity_prob
        matrices = [
            self._placement(length, shrink, shift, changed)
            for length, shift in zip(p.x.shape[2:], (down, right), strict=True)
        ]
        return lambda images: along_axes(images, *matrices)

    def _placement(self, length: int, shrink: Tensor, shift: Tensor, changed: Tensor) -> Tensor:
        """The change along an axis: sizes from the least to length - 1, every place as likely."""
        least = max(1, int(length * self.resize_rate))
        size = least + (shrink * (length - least)).long()
        size = torch.where(changed, size, length)
        offset = (shift * (length - size)).long()
        return placed(length, size, offset, shrink.dtype)
