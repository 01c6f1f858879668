"""The best plain PyTorch for the same contract: the smallest number of passes over memory."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def linf_step_(
    x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float, room: Tensor
) -> Tensor:
    """Six passes; changes nothing but x and the room that the caller lends."""
    torch.sign(grad, out=room)
    return x.add_(room, alpha=alpha).sub_(x0).clamp_(-eps, eps).add_(x0).clamp_(0, 1)


def linf_step(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> Tensor:
    """Six passes and one new tensor."""
    out = torch.sign(grad)
    torch.add(x, out, alpha=alpha, out=out)
    return out.sub_(x0).clamp_(-eps, eps).add_(x0).clamp_(0, 1)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values, shaped to be broadcast over the rows of a tensor."""
    return values.view(-1, *[1] * (like.ndim - 1))


def l2_step(x: Tensor, grad: Tensor, x0: Tensor, alpha: float, eps: float) -> Tensor:
    """Eight passes and one new tensor."""
    norm = torch.linalg.vector_norm(grad.flatten(1), dim=1)
    out = grad * _per_row(alpha / norm, grad)
    out.add_(x).sub_(x0)
    norm = torch.linalg.vector_norm(out.flatten(1), dim=1)
    return out.mul_(_per_row((eps / norm).clamp_(max=1), out)).add_(x0).clamp_(0, 1)


def momentum_step(
    x: Tensor,
    grad: Tensor,
    momentum: Tensor,
    x0: Tensor,
    decay: float,
    alpha: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Nine passes and two new tensors."""
    norm = torch.linalg.vector_norm(grad.flatten(1), ord=1, dim=1)
    total = (momentum * decay).addcdiv_(grad, _per_row(norm, grad))
    return linf_step(x, total, x0, alpha, eps), total


def l1_step(x: Tensor, grad: Tensor, x0: Tensor, k: Tensor, alpha: float, eps: float) -> Tensor:
    """The threshold by topk, lambda by sorting the breakpoints, as APGD-L1 does."""
    size = grad.abs().flatten(1)
    largest = size.topk(int(k.max()), dim=1).values
    move = grad.sign().flatten(1).mul_(size >= largest.gather(1, k[:, None] - 1))
    move.mul_(alpha / move.abs().sum(1, keepdim=True))
    clean = x0.flatten(1)
    move.add_(x.flatten(1)).sub_(clean)
    return _l1_projection(move, clean, eps).view(x.shape)


def _l1_projection(delta: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Projected images; both are (B, N)."""
    size = delta.abs()
    room = torch.where(delta > 0, 1 - clean, clean)
    breaks, order = torch.cat([size, (size - room).clamp_min_(0)], 1).sort(1, descending=True)
    weights = torch.where(order < size.shape[1], 1.0, -1.0)
    active, total = weights.cumsum(1), (weights * breaks).cumsum(1)
    last = ((total - breaks * active < eps).sum(1, keepdim=True) - 1).clamp_min_(0)
    shrink = (total.gather(1, last) - eps) / active.gather(1, last).clamp_min_(1)
    inside = torch.minimum(size, room).sum(1, keepdim=True) <= eps
    size.sub_(shrink.masked_fill_(inside, 0)).clamp_min_(0)
    return torch.minimum(size, room, out=size).mul_(delta.sign_()).add_(clean).clamp_(0, 1)


def random_start(x0: Tensor, eps: float) -> Tensor:
    """What PGD does in PyTorch; its draws depend on the batch, so the numbers are others."""
    return torch.empty_like(x0).uniform_(-eps, eps).add_(x0).clamp_(0, 1)


def quantize_uint8(adv: Tensor, clean: Tensor, levels: int) -> Tensor:
    """Rounds, then clips to the ball in levels; a NaN becomes the clean level."""
    base = clean.to(torch.float32)
    nearest = (adv.to(torch.float32) * 255).round_()
    nearest = torch.where(nearest.isnan(), base, nearest)
    return nearest.clamp_(base - levels, base + levels).clamp_(0, 255).to(torch.uint8)


def row_norms(x: Tensor, x0: Tensor) -> tuple[Tensor, ...]:
    """Seven passes over one difference; `vector_norm` of order 0, 1 or inf is slower."""
    delta = (x - x0).flatten(1).to(torch.float32)
    l2 = torch.linalg.vector_norm(delta, dim=1)
    size = delta.abs_()
    return size.amax(1), l2, size.sum(1), size.sign_().sum(1)


def track_best_(
    best: Tensor,
    best_success: Tensor,
    best_score: Tensor,
    x: Tensor,
    success: Tensor,
    score: Tensor,
    keep_first: bool,
) -> tuple[Tensor, ...]:
    """Copies the better rows by their index; on a GPU, where that waits for it, all of them."""
    higher = score > best_score
    if keep_first:
        higher &= ~success
    better = (success & ~best_success) | ((success == best_success) & higher)
    better &= ~score.isnan()
    if x.is_cuda:
        torch.where(better.view(-1, *(1,) * (x.ndim - 1)), x, best, out=best)
    else:
        rows = better.nonzero()[:, 0]
        best.index_copy_(0, rows, x.index_select(0, rows))
    return best, best_success | (success & better), torch.where(better, score, best_score), better


def margin_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two largest logits, and the gradient written down."""
    label, (z, top) = labels[:, None], logits.topk(2, 1)
    wrong = top[:, :1] != label
    loss = torch.where(wrong, z[:, :1], z[:, 1:]) - logits.gather(1, label)
    other = torch.where(wrong, top[:, :1], top[:, 1:])
    gradient = torch.zeros_like(logits).scatter_(1, other, 1.0).scatter_(1, label, -1.0)
    return loss[:, 0], gradient, top[:, 0]


def dlr_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three largest logits, and the gradient written down."""
    label, (z, top) = labels[:, None], logits.topk(3, 1)
    wrong = top[:, :1] != label
    inverse = 1 / (z[:, :1] - z[:, 2:] + 1e-12)
    rise = torch.where(wrong, z[:, :1], z[:, 1:2])
    loss = (rise - logits.gather(1, label)) * inverse
    other = torch.where(wrong, top[:, :1], top[:, 1:2])
    entries = torch.cat([inverse, -inverse, -loss * inverse, loss * inverse], 1)
    places = torch.cat([other, label, top[:, :1], top[:, 2:]], 1)
    gradient = torch.zeros_like(logits).scatter_add_(1, places, entries)
    return loss[:, 0], gradient, top[:, 0]


def cross_entropy_value(leaf: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each row and the predicted class."""
    return F.cross_entropy(leaf, labels, reduction="none"), leaf.argmax(1)


def cross_entropy_loss(
    logits: Tensor, labels: Tensor, value: Callable[..., Any] = cross_entropy_value
) -> tuple[Tensor, Tensor, Tensor]:
    """PyTorch's loss, its gradient by autograd, and the predicted class."""
    leaf = logits.detach().requires_grad_()
    loss, predicted = value(leaf, labels)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), gradient, predicted


def distillation_value(
    leaf: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    """The loss from PyTorch's own."""
    log_q = F.log_softmax(leaf / temperature, 1)
    log_p = F.log_softmax(teacher / temperature, 1)
    soft = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(leaf, labels)


def distillation_loss(
    student: Tensor, *rest: Any, value: Callable[..., Any] = distillation_value
) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient by autograd."""
    leaf = student.detach().requires_grad_()
    loss = value(leaf, *rest)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient
