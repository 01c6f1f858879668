"""DDN and FMN against their recursions told again, and the known optima of a linear model."""

import math

import pytest
import torch
from models_for_tests import Linear, images_and_labels, mlp, problem

from deitsec.attacks import create_attack
from deitsec.attacks.fmn_l1 import FMNL1
from deitsec.engine import Engine
from deitsec.types import Answer

MODEL = mlp()
IMAGES, LABELS = images_and_labels(MODEL, rows=12)


class Asked:
    """Answers as an engine does, and keeps nothing."""

    def ask(self, x, y, loss="ce", **_):
        leaf = x.detach().requires_grad_()
        logits = MODEL(leaf)
        if loss == "ce":
            values = torch.nn.functional.cross_entropy(logits, y, reduction="none")
        else:
            own = logits.gather(1, y[:, None])[:, 0]
            values = logits.scatter(1, y[:, None], -math.inf).amax(1) - own
        (grad,) = torch.autograd.grad(values.sum(), leaf)
        return Answer(grad=grad, loss=values.detach(), logits=logits.detach())


def trajectory(attack, targeted):
    y = (LABELS + 1) % 5 if targeted else LABELS
    p = problem(IMAGES, y, targeted=targeted)
    ((step, times),) = attack.plan()
    states = [attack.init(p)]
    for _ in range(times):
        states.append(step(p, states[-1], Asked()))
    return [s.x for s in states]


def cosine(i, steps, first, last):
    return last + (first - last) * (1 + math.cos(math.pi * i / steps)) / 2


def ddn_told_again(x0, y, targeted, steps):
    delta, norm, xs = torch.zeros_like(x0), 1.0, [x0]
    for i in range(steps):
        answer = Asked().ask((x0 + delta)[None], y[None])
        won = (int(answer.logits.argmax()) == int(y)) == targeted
        g = answer.grad[0] / answer.grad.norm()
        delta = delta + (-1 if targeted else 1) * cosine(i, steps, 1.0, 0.01) * g
        norm *= 0.95 if won else 1.05
        delta = delta * norm / delta.norm()
        delta = (x0 + delta).clamp(0, 1) - x0
        xs.append(x0 + delta)
    return xs


def onto_l1(delta, eps):
    """By bisection of the common reduction."""
    low, high = 0.0, float(delta.abs().max())
    if float(delta.abs().sum()) <= eps:
        return delta
    for _ in range(200):
        middle = (low + high) / 2
        if float((delta.abs() - middle).clamp_min(0).sum()) > eps:
            low = middle
        else:
            high = middle
    return delta.sign() * (delta.abs() - high).clamp_min(0)


def onto_l0(delta, eps):
    kept = torch.zeros_like(delta).flatten()
    order = delta.abs().flatten().argsort(descending=True)[: int(eps)]
    kept[order] = delta.flatten()[order]
    return kept.view_as(delta)


NORMS = {
    "fmn": (2, 2, lambda d, e: d * min(1.0, e / float(d.norm()))),
    "fmn_linf": (math.inf, 1, lambda d, e: d.clamp(-e, e)),
    "fmn_l1": (1, math.inf, onto_l1),
    "fmn_l0": (0, None, onto_l0),
}


def fmn_told_again(name, x0, y, targeted, steps):
    order, dual, project = NORMS[name]
    eps, best, xs = 1.0, math.inf, [x0]
    worst = float(torch.maximum(x0, 1 - x0).flatten().norm(order))
    for i in range(steps):
        x = xs[-1]
        answer = Asked().ask(x[None], y[None], "margin")
        won = (int(answer.logits.argmax()) == int(y)) == targeted
        ascent = (-1 if targeted else 1) * answer.grad[0]
        if order != 0:
            ascent[((ascent > 0) & (x == 1)) | ((ascent < 0) & (x == 0))] = 0  # not out of the box
        norm = float((x - x0).flatten().norm(order))
        alpha, gamma = cosine(i, steps, 1.0, 0.01), cosine(i, steps, 0.05, 0.001)
        if won:
            best = min(best, norm)
        if order == 0:
            eps = (
                min(eps - 1, math.floor(eps * (1 - gamma)), best)
                if won
                else max(eps + 1, math.floor(eps * (1 + gamma)))
            )
            eps = max(eps, 1)
        elif won:
            eps = min(eps * (1 - gamma), best)
        elif best < math.inf:
            eps = eps * (1 + gamma)
        else:
            eps = norm + abs(float(answer.loss)) / float(ascent.flatten().norm(dual))
            eps *= 1.03
        eps = min(eps, worst)
        step = alpha * ascent / ascent.norm()
        xs.append((x0 + project(x - x0 + step, eps)).clamp(0, 1))
    return xs


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["ddn", *NORMS])
def test_it_is_its_recursion(name, targeted):
    found = trajectory(create_attack(name, steps=30), targeted)
    y = (LABELS + 1) % 5 if targeted else LABELS
    for row in range(len(IMAGES)):
        if name == "ddn":
            expected = ddn_told_again(IMAGES[row], y[row], targeted, 30)
        else:
            expected = fmn_told_again(name, IMAGES[row], y[row], targeted, 30)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours[row], theirs, rtol=0, atol=1e-9)


def test_without_overshoot_a_linear_boundary_is_not_crossed_and_no_success_is_claimed():
    weight = torch.ones(1, 6, 6, dtype=torch.float64)
    images = torch.full((4, 1, 6, 6), 0.6, dtype=torch.float64)
    images += torch.arange(4).view(-1, 1, 1, 1) / 40
    model, labels = Linear(weight, bias=-18.0), torch.zeros(4, dtype=torch.int64)
    result = Engine(model).run(create_attack("fmn", overshoot=0.0), images, labels)
    with torch.no_grad():
        assert torch.equal(result.success, model(result.adv).argmax(1) != labels)
    assert Engine(model).run(create_attack("fmn"), images, labels).success.all()


def test_l1_projection_of_rows_within_and_without():
    delta = torch.randn(6, 40, dtype=torch.float64)
    radius = torch.tensor([1e-3, 0.5, 3.0, 10.0, 100.0, 1e9], dtype=torch.float64)
    found = FMNL1().project(delta, radius)
    for row in range(6):
        expected = onto_l1(delta[row], float(radius[row]))
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-9)


DUAL = {"l2": 2, "linf": 1, "l1": math.inf}


@pytest.mark.parametrize("name", ["ddn", "fmn", "fmn_linf", "fmn_l1"])
def test_on_a_linear_model_it_comes_to_the_boundary(name):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 6, 6, dtype=torch.float64, generator=generator)
    images = 0.3 + 0.4 * torch.rand(48, 1, 6, 6, dtype=torch.float64, generator=generator)
    model = Linear(weight, bias=-float((weight * 0.5).sum()))
    attack = create_attack(name)
    result = Engine(model).run(attack, images, model(images).argmax(1))
    reach = weight.flatten().norm(DUAL[attack.traits.norm])
    ratio = (result.distance(attack.traits.norm) * reach / model.margin(images).abs()).detach()
    assert result.success.all()
    assert (ratio >= 1 - 1e-9).all()
    assert ratio.median() < 1.02
    # DDN's norm falls from 1 by a factor of 0.95 a step: to 0.006 in 100 steps
    far = model.margin(images).abs().detach() / reach > (0.02 if name == "ddn" else 0)
    assert ratio[far].max() < 1.25


def test_l0_changes_few_values():
    model, side = mlp(pixels=100), 10
    images, labels = images_and_labels(model, rows=12, side=side)
    result = Engine(model).run(create_attack("fmn_l0"), images, labels)
    assert result.success.all()
    assert result.distance("l0").max() < 40
    assert result.distance("l0").min() >= 1


def test_grey_levels_round_the_perturbation():
    result = Engine(MODEL).run(create_attack("ddn", levels=256), IMAGES, LABELS)
    change = (result.adv - IMAGES) * 255
    whole = (change - change.round()).abs() < 1e-9
    clipped = (result.adv == 0) | (result.adv == 1)
    assert (whole | clipped).all()
    assert result.success.any()


@pytest.mark.parametrize("name", ["ddn", *NORMS])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_images_keep_their_dtype(name, dtype):
    p = problem(IMAGES.to(dtype), LABELS)
    attack = create_attack(name, steps=3)
    state = attack.init(p)

    class Half(Asked):
        def ask(self, x, y, loss="ce", **_):
            answer = super().ask(x.double(), y, loss)
            return Answer(grad=answer.grad.to(dtype), loss=answer.loss, logits=answer.logits)

    for _ in range(3):
        state = attack.step(p, state, Half())
    assert state.x.dtype == dtype
    assert state.radius.dtype == torch.float32
    assert ((state.x >= 0) & (state.x <= 1)).all()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ddn", {"gamma": 0.0}, r"ddn: gamma must be in \(0, 1\], got 0"),
        ("ddn", {"levels": 1}, "ddn: levels must be at least 2, got 1"),
        ("fmn_l1", {"steps": 0}, "fmn_l1: steps must be at least 1, got 0"),
        ("fmn", {"lr": -1.0}, "fmn: lr must be > 0 and finite, got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        create_attack(name, **options)
