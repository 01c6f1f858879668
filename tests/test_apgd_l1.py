"""APGD in L1 step by step against its algorithm, written plainly in float64."""

import math

import pytest
import torch
from models_for_tests import images_and_labels, mlp
from torch import nn

from deitsec import ops
from deitsec.attacks.apgd_l1 import APGDL1
from deitsec.engine import Engine, run

MODEL = mlp()
IMAGES, LABELS = images_and_labels(MODEL, rows=8)


def climbed(x, label):
    leaf = x.clone().requires_grad_()
    height = nn.functional.cross_entropy(MODEL(leaf[None]), label[None])
    return torch.autograd.grad(height, leaf)[0], float(height)


def one_ball(x, x0, label, radius, steps, *, dense):
    """Algorithm 1 of arXiv:2103.01208 on one row: the points asked about, and the best."""
    values = x0.numel()
    grad, height = climbed(x, label)
    seen, best, best_height, best_grad = [x], x, height, grad
    moved = values if dense else int((x != x0).sum())
    density = 0.2 if dense else moved / values / 1.5
    length, interval = radius, max(1, int(0.04 * steps))
    for step in range(1, steps + 1):
        place = int(min(max((1 - density) * values, 0), values - 1))
        least = grad.abs().flatten().sort().values[place]
        along = grad.sign() * (grad.abs() >= least)
        z = x + length * along / along.abs().sum()
        x = ops.l1_projection.reference(z[None], x0[None], radius)[0]
        seen.append(x)
        grad, height = climbed(x, label)
        if height > best_height:
            best, best_height, best_grad = x, height, grad
        if step % interval:
            continue
        now = int((best != x0).sum())
        sparser = now / moved < 0.95 if moved else False
        length = radius if sparser else min(max(length / 1.5, radius / 10), radius)
        density, moved = now / values / 1.5, now
        if sparser:
            x, grad = best, best_grad
    return seen, best


def points(attack):
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return MODEL(x)

    engine = Engine(Spy(), stop="never", batch_size=len(IMAGES), deterministic=True)
    engine.run(attack, IMAGES, LABELS)
    return torch.stack([x for x in seen if not torch.equal(x, IMAGES)])


@pytest.mark.parametrize("steps", [1, 12, 100])
def test_one_ball_is_the_algorithm(steps):
    ours = points(APGDL1(eps=2.0, steps=steps, wider=False))
    assert len(ours) == steps + 1
    for row in range(len(IMAGES)):
        theirs, _ = one_ball(ours[0, row], IMAGES[row], LABELS[row], 2.0, steps, dense=True)
        torch.testing.assert_close(ours[:, row], torch.stack(theirs), rtol=0, atol=1e-9)


def test_three_balls_follow_each_other():
    ours = points(APGDL1(eps=1.0, steps=20))
    assert len(ours) == 20 + 3  # each ball is entered at a point of its own
    for row in range(len(IMAGES)):
        x, x0, theirs = ours[0, row], IMAGES[row], []
        for radius, steps in ((3.0, 6), (2.0, 6), (1.0, 8)):
            x = ops.l1_projection.reference(x[None], x0[None], radius)[0]
            seen, x = one_ball(x, x0, LABELS[row], radius, steps, dense=False)
            theirs += seen
        torch.testing.assert_close(ours[:, row], torch.stack(theirs), rtol=0, atol=1e-9)


def test_what_is_found_outside_of_the_ball_does_not_count():
    """In a ball of three times the radius every row falls, in the ball none does."""
    attack = APGDL1(eps=0.02, steps=20)
    result = run(attack, MODEL, IMAGES, LABELS)
    assert (result.distance("l1") <= 0.02 * (1 + 1e-9)).all()
    wide = run(APGDL1(eps=0.06, steps=20, wider=False), MODEL, IMAGES, LABELS)
    assert result.success.sum() <= wide.success.sum()


def test_a_row_that_freezes_in_a_wider_ball_leaves_an_image_of_the_ball():
    class Breaks(nn.Module):
        """Gives NaN gradients beyond the ball."""

        def forward(self, x):
            far = (x - IMAGES[: len(x)]).abs().flatten(1).sum(1) > 1.05
            return MODEL(x) * torch.where(far, x.flatten(1).sum(1) * math.nan, 1)[:, None]

    engine = Engine(Breaks(), batch_size=len(IMAGES), compaction=False, deterministic=True)
    result = engine.run(APGDL1(eps=1.0, steps=10), IMAGES, LABELS)
    assert not result.finite.any()
    assert (result.distance("l1") <= 1.0 + 1e-9).all()


@pytest.mark.parametrize("steps", [*range(1, 12), 100, 101])
@pytest.mark.parametrize("wider", [True, False])
def test_every_number_of_steps_is_taken(steps, wider):
    attack = APGDL1(steps=steps, wider=wider)
    assert sum(times for _, times in attack.plan()) == steps
    assert [ball.steps for ball in APGDL1().balls] == [30, 30, 40]
