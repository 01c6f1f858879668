"""The translation-invariant iterative fast gradient sign method."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from deitsec.attacks.difgsm import DIFGSM
from deitsec.attacks.separable import along_axes, correlated
from deitsec.types import Problem, Query, Traits

KERNELS = ("gaussian", "linear", "uniform")


@dataclass(frozen=True, kw_only=True, slots=True)
class TIFGSM(DIFGSM):
    """Translation-invariant iterative FGSM (Dong et al., arXiv:1904.02884, section 3.2).

    The gradient is convolved with a kernel, which stands for an attack on all translations of the
    image, then normalised: TI-BIM, with `decay=1` TI-MI-FGSM, and with `diversity_prob=0.7` and
    that TI-DIM, the paper's strongest. torchattacks changes inputs with probability 0.5 by default
    and takes steps of 2/255. It draws no random number unless `diversity_prob` is above 0.

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        alpha: step size; None takes eps / steps.
        steps: number of steps.
        decay: factor of the earlier momentum.
        resize_rate, diversity_prob: input diversity, as in DIFGSM.
        kernel: `gaussian`, `linear` (1 - |i| / (k + 1)) or `uniform`.
        kernel_size: 2k + 1 pixels, odd; the paper's 15 is for 299 x 299.
        sigma: of the gaussian, in pixels; None takes k / 3, as the authors' code does.
    """

    name: ClassVar[str] = "tifgsm"
    traits: ClassVar[Traits] = Traits(norm="linf")

    diversity_prob: float = 0.0
    kernel: str = "gaussian"
    kernel_size: int = 15
    sigma: float | None = None

    def __post_init__(self) -> None:
        """Validate the configuration."""
        DIFGSM.__post_init__(self)
        if self.kernel not in KERNELS:
            raise ValueError(
                f"{self.name}: kernel must be one of {', '.join(KERNELS)}, got {self.kernel!r}"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(
                f"{self.name}: kernel_size must be odd and at least 1, got {self.kernel_size}"
            )
        if self.sigma is not None and not 0 < self.sigma < math.inf:
            raise ValueError(f"{self.name}: sigma must be > 0 and finite, got {self.sigma}")

    def step(self, p: Problem, s: Any, query: Query) -> Any:
        """Step along the momentum with the convolved gradient."""
        grad = self.gradient(p, s, query)
        # as large as 1: the smallest gradients would lose their digits to the kernel's tail
        grad = grad / grad.abs().flatten(1).amax(1)[:, None, None, None]
        weights = self.weights(grad)
        axes = (correlated(length, weights) for length in grad.shape[2:])
        return self.advance(p, s, along_axes(grad, *axes)).replace(turn=s.turn + 1)

    def weights(self, like: Tensor) -> Tensor:
        """(2k + 1,) the kernel along one axis, of sum 1: all are products of one for each axis."""
        reach = self.kernel_size // 2
        # made on the device: a captured step copies nothing to it
        dtype = torch.promote_types(like.dtype, torch.float32)
        away = torch.arange(-reach, reach + 1, device=like.device).to(dtype)
        if self.kernel == "gaussian":
            weights = (-0.5 * (away / (self.sigma or max(reach, 1) / 3)) ** 2).exp()
        elif self.kernel == "linear":
            weights = 1 - away.abs() / (reach + 1)
        else:
            weights = torch.ones_like(away)
        return weights / weights.sum()
