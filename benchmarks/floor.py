"""The floor under every attack at its precision, and PGD as good as plain PyTorch allows.

Everything here runs on a model in eval mode whose parameters are frozen, so that no gradient of a
weight is computed and nothing is kept for one.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from deitsec.engine.precision import full_fp32


def frozen(model: nn.Module) -> nn.Module:
    """A copy in eval mode without learnable parameters."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def in_bf16(model: nn.Module) -> nn.Module:
    """A frozen copy with weights in bf16 and, for convolutions, channels last: fastest in eager."""
    return frozen(model).to(torch.bfloat16).to(memory_format=torch.channels_last)


def model_floor(
    model: nn.Module, images: Tensor, forwards: int, backwards: int
) -> Callable[[], None]:
    """The model alone: `backwards` gradients of the images, and forward passes up to `forwards`.

    There is no loss: the gradient that enters the logits is made once.
    """
    with torch.no_grad():
        logits = model(images)
    into = torch.full_like(logits, 1 / logits.numel())

    def run() -> None:
        leaf = images.detach().requires_grad_()
        with full_fp32():
            for _ in range(backwards):
                torch.autograd.grad(model(leaf), leaf, into)
            with torch.no_grad():
                for _ in range(forwards - backwards):
                    model(images)

    return run


def tuned_pgd(
    model: nn.Module, eps: float, alpha: float, steps: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """PGD with the ball and the box as one clamp, in place, and no test of success.

    Args:
        model: in eval mode, frozen, in the precision that is wanted.
        eps: radius of the ball.
        alpha: step size.
        steps: number of gradients.

    Returns:
        (images, labels) -> the last iterate.
    """

    def run(images: Tensor, labels: Tensor) -> Tensor:
        low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
        x = torch.empty_like(images).uniform_(-eps, eps).add_(images).clamp_(0, 1)
        with full_fp32():
            for _ in range(steps):
                x.requires_grad_()
                loss = F.cross_entropy(model(x), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, x)
                x.requires_grad_(False)
                x.add_(gradient.sign_(), alpha=alpha).clamp_(low, high)
        return x

    return run
