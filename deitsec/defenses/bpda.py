"""Backward pass differentiable approximation: past a preprocessing that hides the gradient."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class BPDA(nn.Module):
    """A preprocessing with a gradient that it does not have (Athalye et al., arXiv:1802.00420).

    Section 4.1. Forward it is the preprocessing, to the last bit; backward it is an approximation
    of it: the identity, for one that gives back nearly what it is given. Put in the place of the
    preprocessing it makes the model that an attacker who knows the defense drives the attack with
    (`Engine(defended, surrogate=nn.Sequential(BPDA(preprocessing), model))`).

    Args:
        preprocessing: images -> tensor; asked without a graph. One that draws random numbers keeps
            its attribute `stochastic`.
        approximation: differentiable, images -> tensor of the same shape; None is the identity,
            which keeps the shape.
    """

    def __init__(
        self,
        preprocessing: Callable[[Tensor], Tensor],
        approximation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.approximation = approximation
        if isinstance(preprocessing, nn.Module):
            self.training = preprocessing.training

    def forward(self, images: Tensor) -> Tensor:
        """Preprocess; the gradient is the approximation's.

        Raises:
            ValueError: preprocessing and approximation differ in shape.
        """
        with torch.no_grad():
            exact = self.preprocessing(images.detach())
        near = images if self.approximation is None else self.approximation(images)
        if near.shape != exact.shape:
            what = "the identity" if self.approximation is None else "the approximation"
            raise ValueError(
                f"BPDA: the preprocessing gave {tuple(exact.shape)} and {what} "
                f"{tuple(near.shape)}; they must have one shape"
            )
        return exact + (near - near.detach())  # exactly 0, but for its gradient
