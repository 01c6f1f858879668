"""How far a prediction moves from another, and where it moves fastest: no label is needed."""

import torch
from torch import Tensor


def divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(logits)) of each row, precise where the two are close.

    With p = softmax(reference), q = softmax(logits) and change = logits - reference less its mean
    under p, it is m = log sum p exp(change), and its gradient q - p is p expm1(change - m): no
    difference of probabilities that round to the same number. The largest entry of the gradient is
    the sum of the others, in which p near 1 would drown.

    Args:
        logits: (B, K), in a graph or not.
        reference: (B, K) logits, taken as constant.

    Returns:
        (B,) at least fp32, >= 0; differentiable once in `logits`.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    live, fixed = logits.to(wide), reference.detach().to(wide)
    moved, p = live.detach(), fixed.softmax(1)
    change = moved - fixed
    mean = (p * change).sum(1, keepdim=True)
    change = change - mean
    near = torch.log1p((p * torch.expm1(change.clamp(max=1))).sum(1, keepdim=True))
    far = moved.logsumexp(1, keepdim=True) - fixed.logsumexp(1, keepdim=True) - mean
    m = torch.where(change.abs().amax(1, keepdim=True) < 1, near, far)
    shifted = change - m
    # where a probability has grown e-fold the difference loses nothing, and expm1 may overflow
    grown = moved.softmax(1) - p
    gradient = torch.where(shifted < 1, p * torch.expm1(shifted.clamp(max=1)), grown)
    winner = p.argmax(1, keepdim=True)
    others = gradient.scatter(1, winner, 0.0)
    gradient = others.scatter(1, winner, -others.sum(1, keepdim=True))
    # the product is 0, and its gradient is not
    return m[:, 0].clamp(min=0) + ((live - moved) * gradient).sum(1)


def unit(direction: Tensor, otherwise: Tensor | None = None) -> Tensor:
    """Each row of (B, ...) at Euclidean length 1, whatever its scale.

    Args:
        direction: what is brought to length 1.
        otherwise: of the same shape: taken in the place of a row that is 0 or not finite; None
            leaves such a row at 0.
    """
    wide = torch.promote_types(direction.dtype, torch.float32)
    flat = direction.flatten(1).to(wide)
    largest = flat.abs().amax(1, keepdim=True)
    usable = (largest > 0) & (largest < float("inf"))
    scaled = flat / torch.where(usable, largest, 1)  # squares of 1e-30 are no fp32 numbers
    found = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    instead = torch.zeros_like(flat) if otherwise is None else otherwise.flatten(1).to(wide)
    return torch.where(usable, found, instead).to(direction.dtype).reshape(direction.shape)
