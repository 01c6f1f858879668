"""Directions of gradients, and rates that fall by a cosine."""

import math

import torch
from torch import Tensor


def unit(grad: Tensor) -> Tensor:
    """Each row scaled to L2 norm 1, at least fp32; 0 where it is 0, NaN or infinite.

    By the largest magnitude first: the gradient of a confident row has squares that are no fp32
    numbers.
    """
    rows = grad.flatten(1).to(torch.promote_types(grad.dtype, torch.float32))
    largest = rows.abs().amax(1, keepdim=True)
    scaled = rows / largest
    direction = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    usable = (largest > 0) & (largest < float("inf"))
    return torch.where(usable, direction, 0).view(grad.shape)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values, shaped to be broadcast over the rows of a tensor."""
    return values.view(-1, *[1] * (like.ndim - 1))


def annealed(iteration: Tensor, steps: int, first: float, last: float) -> Tensor:
    """From `first` at iteration 0 towards `last` at `steps`, by half a cosine; fp64."""
    share = (1 + torch.cos(math.pi / steps * iteration.double())) / 2
    return last + (first - last) * share
