"""APGD step by step against its algorithm, written plainly in float64."""

import pytest
import torch
from models_for_tests import images_and_labels, mlp
from torch import nn

from deitsec.attacks import create_attack
from deitsec.attacks.apgd import APGD
from deitsec.attacks.apgd_l2 import APGDL2
from deitsec.engine import Engine, run

MODEL = mlp()
IMAGES, LABELS = images_and_labels(MODEL, rows=16)
TARGETS = (LABELS + 1) % 5


def heights(logits, labels, targets, loss):
    """What is climbed: cross-entropy, DLR (eq. 6) and targeted DLR (eq. 7) of the paper."""
    rows = torch.arange(len(labels))
    ordered = logits.sort(1, descending=True).values
    if loss == "ce":
        return nn.functional.cross_entropy(logits, labels, reduction="none")
    if loss == "targeted_dlr":
        gap = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
        return -(logits[rows, labels] - logits[rows, targets]) / (gap + 1e-12)
    others = logits.clone()
    others[rows, labels] = -torch.inf
    gap = ordered[:, 0] - ordered[:, 2]
    return -(logits[rows, labels] - others.amax(1)) / (gap + 1e-12)


def climbed(x, loss):
    leaf = x.clone().requires_grad_()
    height = heights(MODEL(leaf), LABELS, TARGETS, loss)
    return torch.autograd.grad(height.sum(), leaf)[0], height.detach()


def boxes_l2(x, eps):
    delta = x - IMAGES
    norm = delta.flatten(1).norm(dim=1)[:, None, None, None]
    return (IMAGES + delta * (eps / norm.clamp_min(eps))).clamp(0, 1)


def boxes_linf(x, eps):
    return x.clamp(IMAGES - eps, IMAGES + eps).clamp(0, 1)


def unit(grad):
    return grad / grad.flatten(1).norm(dim=1)[:, None, None, None]


WAYS = {"linf": (boxes_linf, torch.sign), "l2": (boxes_l2, unit)}


def trajectory(x, eps, steps, loss, norm):
    """Every point of algorithm 1 from `x` on, row by row at the checkpoints."""
    project, along = WAYS[norm]
    # the reference implementation rounds the intervals and not the places
    interval, checkpoints = max(1, int(0.22 * steps)), [0]
    while checkpoints[-1] < steps:
        checkpoints.append(checkpoints[-1] + interval)
        interval = max(interval - max(1, int(0.03 * steps)), max(1, int(0.06 * steps)))
    grad, height = climbed(x, loss)
    best, best_height, best_grad = x.clone(), height.clone(), grad.clone()
    eta = torch.full_like(height, 2 * eps)
    before, seen, rose = x.clone(), [x.clone()], []
    last, last_best, halved = torch.zeros_like(height), height.clone(), [True] * len(x)
    for k in range(1, steps + 1):
        a = 1.0 if k == 1 else 0.75
        z = project(x + eta[:, None, None, None] * along(grad), eps)
        x, before = project(x + a * (z - x) + (1 - a) * (x - before), eps), x
        seen.append(x.clone())
        grad, height = climbed(x, loss)
        rose.append(height > last)
        last = height.clone()
        for row in range(len(x)):
            if height[row] > best_height[row]:
                best[row], best_height[row], best_grad[row] = x[row], height[row], grad[row]
        if k not in checkpoints:
            continue
        since = rose[checkpoints[checkpoints.index(k) - 1] : k]
        for row in range(len(x)):
            few = sum(bool(r[row]) for r in since) <= 0.75 * len(since)
            still = not halved[row] and best_height[row] <= last_best[row]
            halved[row] = few or still
            if halved[row]:
                eta[row] /= 2
                x[row], grad[row] = best[row], best_grad[row]
        last_best = best_height.clone()
    return seen


def points(attack, steps, targets=None):
    """The points that the model is asked about, first to last."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return MODEL(x)

    engine = Engine(Spy(), stop="never", batch_size=len(IMAGES), deterministic=True)
    engine.run(attack, IMAGES, LABELS, targets)
    asked = [x for x in seen if not torch.equal(x, IMAGES)]
    assert len(asked) == steps + 1
    return asked


@pytest.mark.parametrize("steps", [1, 7, 30, 100])
@pytest.mark.parametrize("loss", ["ce", "dlr", "targeted_dlr"])
def test_apgd_is_its_algorithm(loss, steps):
    attack = APGD(eps=0.1, steps=steps, loss=loss)
    ours = points(attack, steps, TARGETS if loss == "targeted_dlr" else None)
    theirs = trajectory(ours[0], 0.1, steps, loss, "linf")
    assert len(ours) == len(theirs)
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9, msg=f"step {number}")


@pytest.mark.parametrize("steps", [1, 7, 30, 100])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_l2_is_its_algorithm(loss, steps):
    ours = points(APGDL2(eps=0.5, steps=steps, loss=loss), steps)
    theirs = trajectory(ours[0], 0.5, steps, loss, "l2")
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8, msg=f"step {number}")


class Noisy(nn.Module):
    """Draws its logits' noise, of mean 0, in the order of its calls."""

    stochastic = True

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x):
        self.asked.append(x.detach().clone())
        turn = len(self.asked) % 2 * 2 - 1
        shift = torch.tensor([1.0, -1.0, 0, 0, 0], dtype=x.dtype)
        return MODEL(x) + turn * 0.3 * shift


def test_a_random_model_is_asked_several_times_at_each_point():
    model = Noisy()
    engine = Engine(model, stop="never", batch_size=len(IMAGES), deterministic=True)
    engine.run(APGD(eps=0.1, steps=3, eot_iter=4), IMAGES, LABELS)
    points = [x for x in model.asked if not torch.equal(x, IMAGES)]
    for first in (0, 4, 8):
        assert all(torch.equal(points[first], points[first + i]) for i in range(4))
    assert not torch.equal(points[0], points[4])
    # the mean gradient over both draws gives the first step
    leaf = points[0].clone().requires_grad_()
    losses = [
        nn.functional.cross_entropy(MODEL(leaf) + sign * shift, LABELS)
        for shift in [0.3 * torch.tensor([1.0, -1.0, 0, 0, 0], dtype=leaf.dtype)]
        for sign in (1, -1)
    ]
    (grad,) = torch.autograd.grad(sum(losses), leaf)
    wanted = boxes_linf(points[0] + 0.2 * grad.sign(), 0.1)
    torch.testing.assert_close(points[4], wanted, rtol=0, atol=1e-12)


def test_the_start_is_uniform_and_on_the_surface_of_the_ball():
    start = points(APGD(eps=0.1, steps=1), 1)[0]
    moved = start - IMAGES
    free = (start > 0) & (start < 1)
    assert (moved.abs().flatten(1).amax(1) <= 0.1).all()
    assert (moved.abs()[free] < 0.05).double().mean() == pytest.approx(0.5, abs=0.1)
    inside = torch.full_like(IMAGES, 0.5)
    x = Engine(MODEL, stop="never").run(APGD(eps=0.1, steps=1), inside, LABELS)
    assert (x.distance("linf") <= 0.1 + 1e-9).all()


@pytest.mark.parametrize(("steps", "intervals"), [(100, [22, 19, 16, 13, 10, 7, 6, 6, 6])])
def test_checkpoints_are_the_papers(steps, intervals):
    assert APGD(steps=steps).intervals == intervals
    assert sum(times for _, times in APGD(steps=steps).plan()) == steps


@pytest.mark.parametrize("steps", range(1, 40))
def test_every_number_of_steps_is_taken(steps):
    assert sum(times for _, times in APGD(steps=steps).plan()) == steps


def test_targets_win_by_the_targeted_ratio():
    result = run(APGD(eps=0.5, loss="targeted_dlr", steps=20), MODEL, IMAGES, LABELS, TARGETS)
    with torch.no_grad():
        assert torch.equal(result.success, MODEL(result.adv).argmax(1) == TARGETS)
    assert result.success.sum() >= 0.9 * len(IMAGES)


def test_a_ratio_at_targets_needs_some():
    with pytest.raises(ValueError, match="aims at a class; give num_targets=9"):
        run(APGD(loss="targeted_dlr"), MODEL, IMAGES, LABELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "dlrr"}, "loss must be one of ce, margin, dlr, targeted_dlr, got 'dlrr'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"eot_iter": 0}, "eot_iter must be at least 1, got 0"),
        ({"rho": 0.0}, r"rho must be in \(0, 1\], got 0.0"),
        ({"momentum": 1.5}, r"momentum must be in \(0, 1\], got 1.5"),
        ({"eps": 2.0}, r"eps must be in \(0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create_attack("apgd", **options)
