"""Plain PyTorch with few passes for the ops that single attacks are made of.

The projections are the form with a sort, as the code of their authors has them.
"""

import math

import torch
from torch import Tensor


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _keep(into: Tensor, rows: Tensor, values: Tensor) -> None:
    """Copy some rows; on a GPU, where their number would be waited for, all of them."""
    if into.is_cuda:
        torch.where(_per_row(rows, into), values, into, out=into)
    else:
        index = rows.nonzero()[:, 0]
        into.index_copy_(0, index, values.index_select(0, index))


def apgd_step_(
    x_old: Tensor,
    x: Tensor,
    x_best: Tensor,
    grad_best: Tensor,
    grad: Tensor,
    x0: Tensor,
    better: Tensor,
    restart: Tensor,
    step: Tensor,
    share: float,
    eps: float,
) -> tuple[Tensor, ...]:
    """Fourteen passes and two new tensors, rows copied by their index."""
    _keep(x_best, better, x)
    _keep(grad_best, better, grad)
    slope = torch.sign(grad)
    if grad.is_cuda:
        slope = torch.where(_per_row(restart, grad), grad_best.sign(), slope)
    else:
        index = restart.nonzero()[:, 0]
        slope.index_copy_(0, index, grad_best.index_select(0, index).sign_())
    _keep(x, restart, x_best)
    z = slope.mul_(_per_row(step, slope)).add_(x).sub_(x0).clamp_(-eps, eps).add_(x0).clamp_(0, 1)
    z.sub_(x).mul_(share).add_(x)
    z.add_(x - x_old, alpha=1 - share).sub_(x0).clamp_(-eps, eps).add_(x0).clamp_(0, 1)
    return z, x, x_best, grad_best


def adam_tanh_step_(
    w: Tensor,
    m: Tensor,
    v: Tensor,
    grad: Tensor,
    x0: Tensor,
    scale: Tensor,
    step: Tensor,
    lr: float,
    pull: float,
) -> tuple[Tensor, ...]:
    """The image as a logistic function, whose slope is 2 x (1 - x)."""
    shrink, rows = 1e-6, _per_row(step == 0, w)
    anchor = torch.lerp(x0, torch.full_like(x0, 0.5), shrink)
    x = torch.sigmoid(2 * w)
    g = (x - anchor).mul_(2 * pull).addcmul_(grad, _per_row(scale, grad))
    g.mul_(x.mul_(2).addcmul_(x, x, value=-0.5))
    m.mul_(0.9).add_(g, alpha=0.1)
    v.mul_(0.999).addcmul_(g, g, value=0.001)
    t = step.clamp_min(1).double()
    root = torch.sqrt(1 - 0.999**t)
    rate, floor = lr * root / (1 - 0.9**t), 1e-8 * root
    w.sub_(_per_row(rate.float(), w) * m / v.sqrt().add_(_per_row(floor.float(), w)))
    w.copy_(torch.where(rows, torch.logit(anchor) / 2, w))
    m.masked_fill_(rows, 0)
    v.masked_fill_(rows, 0)
    x = torch.sigmoid(2 * w)
    return w, m, v, x, (x - anchor).square_().flatten(1).sum(1)


def fab_projection(x: Tensor, slope: Tensor, value: Tensor, p: float) -> Tensor:
    """A sort of each row by where its entries meet the box, and sums along it."""
    at, along = x.flatten(1), slope.flatten(1)
    sign = -torch.sign(along) * torch.sign(value)[:, None]
    size, need = along.abs(), value.abs()[:, None]
    room = torch.where(sign > 0, 1 - at, at)
    if p == 1:
        return _l1_move(size, room, need).mul_(sign).view_as(x)
    # an entry moves by least(lambda * weight, room)
    weight = torch.ones_like(size) if math.isinf(p) else size
    breaks, order = (room / weight.clamp_min(1e-30)).sort(1)
    gives = (size * room).gather(1, order).cumsum(1)
    slack = (size * weight).gather(1, order)
    mass = slack.sum(1, keepdim=True) - slack.cumsum(1)
    last = (gives + breaks * mass < need).sum(1, keepdim=True)
    before = (last - 1).clamp_min(0)
    given = torch.where(last > 0, gives.gather(1, before), 0)
    left = torch.where(last > 0, mass.gather(1, before), slack.sum(1, keepdim=True))
    reach = ((need - given) / left).masked_fill_(last == size.shape[1], torch.inf)
    move = torch.minimum(reach * weight, room)
    return torch.where(size > 0, move, 0).mul_(sign).view_as(x)


def _l1_move(size: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """The entries of largest slope all the way, the last of them in part."""
    order = size.argsort(1, descending=True)
    gives = (size * room).gather(1, order)
    before = gives.cumsum(1) - gives
    part = ((need - before) / gives.clamp_min(1e-30)).clamp_(0, 1)
    return torch.zeros_like(size).scatter_(1, order, room.gather(1, order).mul_(part))


def fab_step(
    x: Tensor, x0: Tensor, slope: Tensor, value: Tensor, eta: float, alpha_max: float, p: float
) -> Tensor:
    """Two projections, their norms, and the point between them."""
    value0 = value + (slope * (x0 - x)).flatten(1).sum(1)
    near, far = fab_projection(x, slope, value, p), fab_projection(x0, slope, value0, p)
    norm, norm0 = (
        torch.linalg.vector_norm(d.flatten(1), p, dim=1).clamp_min_(1e-8) for d in (near, far)
    )
    alpha = _per_row((norm / (norm + norm0)).clamp_max_(alpha_max), x)
    start, goal = near.mul_(eta).add_(x), far.mul_(eta).add_(x0)
    return torch.lerp(start, goal, alpha).clamp_(0, 1)


def deepfool_step(
    total: Tensor,
    x0: Tensor,
    slopes: Tensor,
    values: Tensor,
    held: Tensor,
    overshoot: float,
    p: float,
) -> tuple[Tensor, Tensor]:
    """Norms of all slopes, the nearest plane's by its index."""
    norm = torch.linalg.vector_norm(slopes.flatten(2), 1 if math.isinf(p) else 2, dim=2)
    least, nearest = (values.abs() / norm).min(1)
    rows = torch.arange(len(total), device=total.device)
    unit = slopes[rows, nearest]
    if math.isinf(p):
        unit.sign_()
    else:
        unit.div_(_per_row(norm[rows, nearest], unit))
    unit.mul_(_per_row((least + 1e-4).masked_fill_(held, 0), unit)).add_(total)
    return unit, torch.add(x0, unit, alpha=1 + overshoot).clamp_(0, 1)


def square_window(
    x: Tensor,
    x0: Tensor,
    sample_ids: Tensor,
    step: Tensor,
    size: int,
    eps: float,
    seed: int,
    stream: int,
) -> Tensor:
    """Windows by comparing coordinates; its draws are others, since they belong to the batch."""
    rows, channels, height, width = x.shape
    within = []
    for length in (height, width):
        first = torch.randint(0, length - size + 1, (rows, 1), device=x.device)
        place = torch.arange(length, device=x.device)
        within.append((place >= first) & (place < first + size))
    window = within[0][:, None, :, None] & within[1][:, None, None, :]
    change = torch.randint(0, 2, (rows, channels, 1, 1), device=x.device).mul_(2).sub_(1) * eps
    return torch.where(window, (x0 + change).clamp_(0, 1), x)
