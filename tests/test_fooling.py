"""Fooling images by gradient: the formula, and what the attacks reach with it."""

import itertools
import math

import pytest
import torch
from fooling_for_tests import digits, digits_network
from models_for_tests import mlp, problem
from torch import nn

from deitsec.attacks.fooling import Fooling, direction, noise
from deitsec.attacks.fooling_lookalike import FoolingLookalike
from deitsec.attacks.squared_error import (
    SquaredError,
    half_squared_error,
    tempered,
    unit_gradient,
)
from deitsec.engine import Engine, fooling_images, run
from deitsec.types import Answer, Parts


def _formula(logits, y):
    """The paper's formula and its gradient, by autograd in float64."""
    leaf = logits.double().requires_grad_()
    goal = nn.functional.one_hot(y, logits.shape[1])
    value = 0.5 * (goal - leaf.softmax(1)).square().sum(1)
    (grad,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), grad


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_gradient_is_that_of_the_formula_in_float64(spread, classes):
    generator = torch.Generator().manual_seed(classes)
    logits = spread * torch.randn(200, classes, generator=generator)
    y = torch.randint(classes, (200,), generator=generator)
    value, grad = _formula(logits, y)
    unit, size = unit_gradient(logits, y)
    scale = grad.abs().amax(1, keepdim=True)
    torch.testing.assert_close(half_squared_error(logits, y).double(), value, rtol=1e-5, atol=1e-7)
    # to the first digits a class's share of the row's largest entry: fp32 held to float64
    torch.testing.assert_close(unit.double(), grad / scale, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(size.exp().double(), scale[:, 0], rtol=1e-4, atol=0)


def test_a_sure_model_still_gives_a_gradient_where_fp32_autograd_gives_none():
    logits = torch.tensor([[200.0, 0.0, -3.0, 1.0], [0.0, 30.0, 10.0, 20.0]])
    y = torch.tensor([1, 3])
    leaf = logits.clone().requires_grad_()
    goal = nn.functional.one_hot(y, 4)
    (plain,) = torch.autograd.grad(0.5 * (goal - leaf.softmax(1)).square().sum(), leaf)
    assert (plain[0] == 0).all()
    unit, _ = unit_gradient(logits, y)
    _, grad = _formula(logits, y)
    exact = grad[1] / grad[1].abs().max()
    torch.testing.assert_close(unit[1].double(), exact, rtol=1e-4, atol=1e-5)
    assert unit[0].isfinite().all()
    assert unit[0, 1] < 0  # the goal rises on the way down
    assert unit[0, 0] == 1
    torch.testing.assert_close(unit.sum(1), torch.zeros(2), rtol=0, atol=1e-6)


def test_a_goal_that_is_reached_leaves_no_gradient_and_no_nan():
    logits = torch.tensor([[300.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    unit, size = unit_gradient(logits, torch.tensor([0, 1]))
    assert unit.isfinite().all()
    assert (size.exp()[0] == 0) & (unit[0].abs().max() <= 1)
    assert not size.isnan().any()


def test_the_temperature_is_one_where_the_goal_is_near():
    logits = torch.tensor([[0.0, 1.5, 1.0], [0.0, 80.0, 10.0]])
    near, far = tempered(logits, torch.tensor([0, 0]), 2.0)
    assert torch.equal(near, logits[0])
    assert far.max() - far[0] == pytest.approx(2.0)
    assert torch.equal(tempered(logits, torch.tensor([0, 0]), math.inf), logits)


def test_the_objective_gives_the_images_the_formulas_direction():
    model = mlp()
    x = torch.rand(8, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = torch.arange(8) % 5
    leaf = x.clone().requires_grad_()
    value = SquaredError(y)(Parts(logits=model(leaf)))
    (ours,) = torch.autograd.grad(value.sum(), leaf)
    goal = nn.functional.one_hot(y, 5)
    exact = 0.5 * (goal - model(leaf).softmax(1)).square().sum(1)
    (grad,) = torch.autograd.grad(exact.sum(), leaf)
    torch.testing.assert_close(value, exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(direction(ours), direction(grad), rtol=1e-8, atol=1e-10)


def test_directions_survive_tiny_gradients_and_zeros():
    grad = torch.randn(3, 1, 4, 4) * torch.tensor([1e-38, 0.0, 1e30])[:, None, None, None]
    size = direction(grad).square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(size, torch.tensor([1.0, 0.0, 1.0]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("start", ["normal", "uniform"])
def test_fooling_images_of_every_digit_are_more_than_99_percent_sure(start):
    model = digits_network()
    result = fooling_images(model, per_class=3, image_shape=(1, 8, 8), attack=Fooling(start=start))
    assert result.targets.tolist() == [digit for digit in range(10) for _ in range(3)]
    with torch.no_grad():
        sure = model(result.adv).softmax(1).gather(1, result.targets[:, None])[:, 0]
    assert (sure > 0.99).all()
    assert result.success.all()
    assert not torch.equal(result.adv[0], result.adv[1])


def test_the_letter_of_the_formula_gets_stuck_where_the_tempered_one_does_not():
    """Why `gap` is there: between two wrong classes the formula has no slope left."""
    model = digits_network()
    letter = fooling_images(
        model, per_class=5, image_shape=(1, 8, 8), attack=Fooling(gap=math.inf, steps=100)
    )
    ours = fooling_images(model, per_class=5, image_shape=(1, 8, 8), attack=Fooling(steps=100))
    assert ours.success.all()
    assert letter.success.sum() < ours.success.sum()


def test_fooling_does_not_look_at_the_clean_image():
    model = digits_network()
    labels = torch.arange(10)
    first, second = (
        run(Fooling(steps=20), model, images, labels).adv
        for images in (torch.zeros(10, 1, 8, 8), torch.rand(10, 1, 8, 8))
    )
    assert torch.equal(first, second)


def test_noise_has_the_moments_that_it_says():
    p = problem(torch.zeros(50, 3, 16, 16), torch.zeros(50, dtype=torch.int64))
    uniform, normal = noise(p, "uniform"), noise(p, "normal")
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    assert uniform.std() == pytest.approx(12**-0.5, abs=0.01)
    inside = (normal > 0) & (normal < 1)
    # a normal variable of deviation 0.3 around 0.5 is within half a unit 90.4 % of the time
    assert inside.float().mean() == pytest.approx(0.904, abs=0.01)


def test_helper_classes_bad_input_and_seed():
    model = digits_network()
    some = fooling_images(model, classes=[7, 2], image_shape=(1, 8, 8), seed=3)
    again = fooling_images(model, classes=[7, 2], image_shape=(1, 8, 8), seed=3)
    other = fooling_images(model, classes=[7, 2], image_shape=(1, 8, 8), seed=4)
    assert some.targets.tolist() == [7, 2]
    assert torch.equal(some.adv, again.adv)
    assert not torch.equal(some.adv, other.adv)
    assert (some.labels != some.targets).all()
    with pytest.raises(ValueError, match="0 to 9, got 10"):
        fooling_images(model, classes=[10], image_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="starts at an image"):
        fooling_images(model, image_shape=(1, 8, 8), attack=FoolingLookalike())
    with pytest.raises(ValueError, match="per_class"):
        fooling_images(model, per_class=0)
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        fooling_images(model, image_shape=(8, 8))


@pytest.mark.parametrize("confidence", [0.0, 0.95])
def test_lookalikes_are_taken_for_the_target_and_look_like_the_image(confidence):
    model = digits_network()
    images, labels = digits(60)
    targets = (labels + 1 + torch.arange(len(labels)) % 9) % 10
    attack = FoolingLookalike(confidence=confidence, steps=150)
    result = run(attack, model, images, labels, targets)
    assert result.success.all()
    with torch.no_grad():
        logits = model(result.adv)
    assert torch.equal(logits.argmax(1), targets)
    sure = logits.softmax(1).gather(1, targets[:, None])[:, 0]
    assert (sure >= confidence).all()
    far = run(Fooling(), model, images, labels, targets).distance("l2")
    assert (result.distance("l2") < 0.7 * far).float().mean() > 0.9


def test_lookalikes_come_nearer_the_more_the_distance_weighs():
    model = digits_network()
    images, labels = digits(20)
    near, far = (
        run(FoolingLookalike(weight=weight, steps=150), model, images, labels)
        for weight in (0.5, 0.01)
    )
    assert near.distance("l2").mean() < far.distance("l2").mean()
    sure = [r.logits.softmax(1).gather(1, r.targets[:, None]).mean() for r in (near, far)]
    assert sure[1] > sure[0]


class _NanLate(nn.Module):
    """Gives the first row of a batch a NaN gradient, the logits as ever, from some call on."""

    def __init__(self, model, calls):
        super().__init__()
        self.model, self.calls = model, calls

    def forward(self, x):
        self.calls -= 1
        logits = self.model(x)
        if self.calls >= 0:
            return logits
        first = torch.arange(len(x)) == 0
        zeros = x.flatten(1)[:, 0] * 0
        odd = torch.where(first, zeros, zeros + 1).sqrt() * 0  # infinite slope times 0
        return logits + odd[:, None]


def test_a_lookalike_that_was_found_survives_a_nan_gradient_late_in_the_run():
    model = digits_network()
    images, labels = digits(12)
    # at this confidence the descent leaves the goal again, and only the best image has reached it
    attack, engine = FoolingLookalike(steps=150, confidence=0.95), {"compaction": False}
    whole = Engine(model, **engine).run(attack, images, labels)
    late = Engine(_NanLate(model, 140), **engine).run(attack, images, labels)
    assert late.finite.tolist() == [False] + [True] * 11
    assert whole.success.all()
    assert late.success.all()
    assert late.distance("l2")[0] == pytest.approx(whole.distance("l2")[0].item(), rel=0.1)


def test_lookalike_descends_its_objective_as_written():
    """Once the model is sure of the target, steps are those of plain gradient descent."""
    model = digits_network().double()
    images, labels = digits(12)
    images = images.double()
    attack = FoolingLookalike(weight=0.2, steps=40, rate=0.05)
    targets = (labels + 1) % 10
    p = problem(images, targets, targeted=True, labels=labels)
    states = [attack.init(p)]

    class Query:
        def objective(self, x, objective, *, offer):
            assert not offer
            leaf = x.detach().requires_grad_()
            logits = model(leaf)
            value = objective(Parts(logits=logits))
            (grad,) = torch.autograd.grad(value.sum(), leaf)
            return Answer(grad=grad, loss=value.detach(), logits=logits.detach())

    for _ in range(attack.steps):
        states.append(attack.step(p, states[-1], Query()))
    compared = 0
    for before, after in itertools.pairwise(states):
        leaf = before.x.clone().requires_grad_()
        goal = nn.functional.one_hot(targets, 10)
        error = 0.5 * (goal - model(leaf).softmax(1)).square().sum(1)
        objective = error + 0.2 * (leaf - images).square().flatten(1).sum(1)
        (grad,) = torch.autograd.grad(objective.sum(), leaf)
        expected = (before.x - 0.05 * grad).clamp(0, 1)
        rows = after.there & before.there
        compared += int(rows.sum())
        torch.testing.assert_close(after.x[rows], expected[rows], rtol=0, atol=1e-10)
    assert compared > 100
    last = states[-1]
    found = last.least.isfinite()
    assert found.any()
    apart = (last.best - images).square().flatten(1).sum(1)
    objective = half_squared_error(model(last.best), targets) + 0.2 * apart
    torch.testing.assert_close(objective[found], last.least[found], rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "pink"}, "normal, uniform, got 'pink'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"alpha": 0.0}, "alpha must be > 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"gap": 0.0}, "gap must be > 0, got 0.0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        Fooling(**options)


def test_a_weight_that_throws_images_away_is_refused():
    with pytest.raises(ValueError, match=r"weight \* rate must be below 1"):
        FoolingLookalike(weight=10, rate=0.2)
    with pytest.raises(ValueError, match="weight must be > 0"):
        FoolingLookalike(weight=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_images_keep_their_dtype(dtype):
    model = digits_network().to(dtype)
    result = Engine(model).run(
        Fooling(steps=30, confidence=0.0), torch.zeros(10, 1, 8, 8, dtype=dtype), torch.arange(10)
    )
    assert result.adv.dtype == dtype
    assert result.success.float().mean() > 0.8
