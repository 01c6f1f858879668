"""The scale-invariant Nesterov iterative fast gradient sign method."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from deitsec.attacks.momentum_iterative import MomentumIterative
from deitsec.types import Problem, Query, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class SINIFGSM(MomentumIterative):
    """Scale-invariant Nesterov iterative FGSM (Lin et al., arXiv:1908.06281, algorithm 2).

    NI-FGSM on the mean over copies of the image, scaled by 1, 1/2, 1/4 and so on; gradients are in
    the image, as in the authors' code, so that a copy's is scaled as the copy is. torchattacks
    names the same number `m`, and takes steps of 2/255.

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        alpha: step size; None takes the paper's eps / steps.
        steps: number of steps.
        decay: factor of the earlier momentum, mu in the paper.
        scales: number of copies, m in the paper.
    """

    name: ClassVar[str] = "sinifgsm"
    traits: ClassVar[Traits] = Traits(norm="linf")

    scales: int = 5

    def __post_init__(self) -> None:
        """Validate the configuration."""
        MomentumIterative.__post_init__(self)
        if self.scales < 1:
            raise ValueError(f"{self.name}: scales must be at least 1, got {self.scales}")

    def step(self, p: Problem, s: Any, query: Query) -> Any:
        """Step along the momentum with the gradient of all copies of the image ahead."""
        ahead = self.lookahead(p, s)
        total = torch.zeros_like(p.x, dtype=torch.promote_types(p.x.dtype, torch.float32))
        for copy in range(self.scales):
            scale = partial(torch.mul, other=2.0**-copy)
            total = total + query.ask(ahead, p.y, through=scale, offer=False).grad
        return self.advance(p, s, (total / self.scales).to(p.x.dtype))
