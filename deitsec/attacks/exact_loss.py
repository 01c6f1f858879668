"""The fused losses as a formula, for attacks that add something to them."""

import torch
from torch import Tensor

from deitsec import ops


def exact_loss(logits: Tensor, y: Tensor, loss: str = "ce") -> Tensor:
    """(B,) loss of each row, at least fp32, with the fused loss's own gradient.

    Autograd's cross-entropy loses its digits where the model is sure (see
    `deitsec.ops.cross_entropy_loss`).

    Args:
        logits: (B, K), in a graph.
        y: (B,) class of the loss.
        loss: see `deitsec.ops.classification_loss`.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    values, gradient, _ = ops.classification_loss(wide.detach(), y, loss)
    return values + ((wide - wide.detach()) * gradient).sum(1)  # the sum is 0, its gradient is not
