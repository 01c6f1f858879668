"""The gradient sign and transfer family, held to the recursions of the papers."""

import dataclasses

import pytest
import torch
from models_for_tests import images_and_labels, mlp, problem
from torch import Tensor, nn
from torch.nn import functional

from deitsec.attacks import create_attack
from deitsec.attacks.registry import ATTACKS
from deitsec.attacks.separable import along_axes, correlated, placed
from deitsec.engine import Engine, run
from deitsec.types import Answer

FAMILY = ("rfgsm", "nifgsm", "sinifgsm", "difgsm", "tifgsm", "vmifgsm")
EPS, ALPHA, STEPS = 0.06, 0.02, 4


class Autograd:
    """Answers an attack by plain autograd, and remembers what it was asked."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.asked: list[Tensor] = []
        self.offered: list[bool] = []

    def ask(self, x, y, loss="ce", *, targets=None, through=None, offer=True):
        leaf = x.detach().clone().requires_grad_()
        logits = self.model(leaf if through is None else through(leaf))
        values = functional.cross_entropy(logits, y, reduction="none")
        (grad,) = torch.autograd.grad(values.sum(), leaf)
        self.asked.append(x)
        self.offered.append(offer and through is None)
        return Answer(grad=grad, loss=values.detach(), logits=logits.detach())

    def grad(self, x, y, loss="ce"):
        return self.ask(x, y, loss).grad


def _walk(attack, p, query):
    """The states of an attack, from the first on."""
    state = attack.init(p)
    states = [state]
    for step, times in attack.plan():
        for _ in range(times):
            state = step(p, state, query)
            states.append(state)
    return states


def _slope(model, x, y, change=lambda images: images):
    leaf = x.clone().requires_grad_()
    loss = functional.cross_entropy(model(change(leaf)), y, reduction="sum")
    return torch.autograd.grad(loss, leaf)[0]


def _unit(grad):
    return grad / grad.abs().mean((1, 2, 3), keepdim=True)


def _stepped(x, direction, clean):
    moved = (x + ALPHA * direction.sign()).clamp(clean - EPS, clean + EPS)
    return moved.clamp(0, 1)


def _setting(targeted):
    """A model, its problem, and the sign of the step."""
    model = mlp()
    images, labels = images_and_labels(model)
    y = (labels + 1) % 5 if targeted else labels
    return model, problem(images, y, targeted=targeted, seed=3), -1.0 if targeted else 1.0


def _configured(name, **more):
    return create_attack(name, eps=EPS, alpha=ALPHA, steps=STEPS, **more)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("name", "copies"), [("nifgsm", 1), ("sinifgsm", 3)])
def test_nesterov_is_its_algorithm(name, copies, targeted):
    model, p, way = _setting(targeted)
    x, momentum = p.x.clone(), torch.zeros_like(p.x)
    expected = [x]
    for _ in range(STEPS):
        ahead = x + ALPHA * 0.9 * momentum
        grads = (_slope(model, ahead, p.y, lambda z, i=i: z / 2**i) for i in range(copies))
        momentum = 0.9 * momentum + _unit(way * sum(grads) / copies)
        x = _stepped(x, momentum, p.x)
        expected.append(x)
    more = {"scales": copies} if name == "sinifgsm" else {}
    query = Autograd(model)
    states = _walk(_configured(name, decay=0.9, **more), p, query)
    for state, image in zip(states, expected, strict=True):
        torch.testing.assert_close(state.x, image, rtol=0, atol=1e-12)
    assert not any(query.offered)
    outside = [((ahead - p.x).abs() > EPS * 1.01).any() for ahead in query.asked]
    assert any(outside)  # the point ahead is a real one: the momentum is not divided by n


@pytest.mark.parametrize("targeted", [False, True])
def test_variance_tuning_is_its_algorithm(targeted):
    model, p, way = _setting(targeted)
    number = 3
    query = Autograd(model)
    states = _walk(_configured("vmifgsm", decay=0.9, neighbours=number, beta=1.5), p, query)
    x, momentum, variance = p.x.clone(), torch.zeros_like(p.x), torch.zeros_like(p.x)
    for k in range(STEPS):
        asked = query.asked[k * (number + 1) : (k + 1) * (number + 1)]
        torch.testing.assert_close(asked[0], x, rtol=0, atol=1e-12)
        grad = _slope(model, x, p.y)
        momentum = 0.9 * momentum + _unit(way * (grad + variance))
        variance = sum(_slope(model, near, p.y) for near in asked[1:]) / number - grad
        for near in asked[1:]:
            away = (near - x) / (1.5 * EPS)
            assert away.abs().max() <= 1
            assert away.abs().mean() == pytest.approx(0.5, abs=0.04)
            assert away.mean() == pytest.approx(0, abs=0.06)
        assert not torch.equal(asked[1] - x, asked[2] - x)
        x = _stepped(x, momentum, p.x)
        torch.testing.assert_close(states[k + 1].x, x, rtol=0, atol=1e-12)
    assert query.offered == ([True] + [False] * number) * STEPS


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (1, 4), (17, 17)])
def test_placing_is_interpolation_and_padding(size):
    generator = torch.Generator().manual_seed(0)
    rows = 40
    images = torch.rand(rows, 3, *size, dtype=torch.float64, generator=generator)
    matrices, boxes = [], []
    for length in size:
        new = torch.randint(1, length + 1, (rows,), generator=generator)
        offset = (torch.rand(rows, generator=generator) * (length - new + 1)).long()
        matrices.append(placed(length, new, offset, torch.float64))
        boxes.append((new.tolist(), offset.tolist()))
    changed = along_axes(images, *matrices)
    for row in range(rows):
        (height, width), (top, left) = ([axis[i][row] for axis in boxes] for i in (0, 1))
        small = functional.interpolate(
            images[row : row + 1], (height, width), mode="bilinear", align_corners=False
        )
        pads = (left, size[1] - width - left, top, size[0] - height - top)
        expected = functional.pad(small, pads)[0]
        torch.testing.assert_close(changed[row], expected, rtol=0, atol=1e-12)


def test_diverse_inputs_are_drawn_by_row_and_step():
    attack = create_attack("difgsm", resize_rate=0.8, diversity_prob=0.5)
    images = torch.ones(4000, 1, 20, 20)
    p = problem(images, torch.zeros(4000, dtype=torch.int64))
    turns = [torch.full((4000,), turn) for turn in (0, 1)]
    first, again, other = (attack.diversity(p, turns[i])(images) for i in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    part = problem(images[:7], p.y[:7], sample_ids=torch.arange(50, 57))
    torch.testing.assert_close(
        attack.diversity(part, turns[0][:7])(images[:7]), first[50:57], rtol=0, atol=0
    )
    changed = (first == 0).flatten(1).any(1)
    assert changed.float().mean() == pytest.approx(0.5, abs=0.03)
    side = (first[:, 0] > 0).any(1).sum(1)[changed]
    counts = torch.bincount(side, minlength=20)
    assert counts[:16].sum() == 0
    assert (counts[16:20] > 400).all()  # 16 to 19, as likely; never 20
    left = (first[:, 0] > 0).any(1).float().argmax(1)[changed][side == 16]
    assert set(left.tolist()) == {0, 1, 2, 3}


def test_without_diversity_difgsm_is_bim():
    model, p, _ = _setting(False)
    still = _walk(_configured("difgsm", diversity_prob=0.0), p, Autograd(model))[-1].x
    plain = _walk(_configured("bim"), p, Autograd(model))[-1].x
    assert torch.equal(still, plain)


def test_diverse_inputs_step_along_the_gradient_through_the_change():
    model, p, way = _setting(True)
    attack = _configured("difgsm", decay=0.7, diversity_prob=0.8)
    query = Autograd(model)
    states = _walk(attack, p, query)
    x, momentum = p.x.clone(), torch.zeros_like(p.x)
    for turn in range(STEPS):
        change = attack.diversity(p, torch.full_like(p.sample_ids, turn))
        momentum = 0.7 * momentum + _unit(way * _slope(model, x, p.y, change))
        x = _stepped(x, momentum, p.x)
        torch.testing.assert_close(states[turn + 1].x, x, rtol=0, atol=1e-12)
    assert not any(query.offered)


def _kernel(kind, size, sigma):
    k = size // 2
    away = torch.arange(-k, k + 1, dtype=torch.float64)
    i, j = away[:, None], away
    full = {
        "gaussian": torch.exp(-(i**2 + j**2) / (2 * sigma**2)),
        "linear": (1 - i.abs() / (k + 1)) * (1 - j.abs() / (k + 1)),
        "uniform": torch.ones(size, size, dtype=torch.float64),
    }[kind]
    return full / full.sum()


@pytest.mark.parametrize("kind", ["gaussian", "linear", "uniform"])
@pytest.mark.parametrize("size", [1, 5, 15])
def test_translation_invariance_convolves_the_gradient(kind, size):
    model, p, way = _setting(False)
    attack = _configured("tifgsm", decay=0.7, kernel=kind, kernel_size=size, sigma=1.3)
    states = _walk(attack, p, Autograd(model))
    weight = _kernel(kind, size, 1.3)[None, None]
    x, momentum = p.x.clone(), torch.zeros_like(p.x)
    for turn in range(STEPS):
        grad = functional.conv2d(way * _slope(model, x, p.y), weight, padding=size // 2)
        momentum = 0.7 * momentum + _unit(grad)
        x = _stepped(x, momentum, p.x)
        torch.testing.assert_close(states[turn + 1].x, x, rtol=0, atol=1e-12)


def test_the_kernel_may_be_larger_than_the_image():
    kernel = torch.arange(1.0, 8.0)
    line = torch.rand(1, 1, 1, 3)
    expected = functional.conv1d(line[0], kernel[None, None], padding=3)
    changed = along_axes(line, torch.ones(1, 1, 1), correlated(3, kernel))
    torch.testing.assert_close(changed[0], expected)


def test_gaussian_reaches_three_sigma_by_default():
    weights = create_attack("tifgsm").weights(torch.zeros(1))
    torch.testing.assert_close(
        torch.outer(weights, weights), _kernel("gaussian", 15, 7 / 3).float()
    )


@pytest.mark.parametrize("noise", [None, 0.05])
def test_rfgsm_starts_at_a_corner_and_takes_the_rest_by_the_gradient(noise):
    model, p, way = _setting(True)
    attack = create_attack("rfgsm", eps=EPS, noise=noise)
    size = EPS / 2 if noise is None else noise
    first, last = _walk(attack, p, Autograd(model))
    inner = (p.x > size) & (p.x < 1 - size)
    moved = (first.x - p.x)[inner]
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, size))
    assert moved.sign().mean() == pytest.approx(0, abs=0.1)
    expected = first.x + (EPS - size) * way * _slope(model, first.x, p.y).sign()
    torch.testing.assert_close(last.x, expected.clamp(0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 7), (3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_shape_two_classes_and_half_precision(name, shape, dtype):
    torch.manual_seed(0)
    pixels = shape[0] * shape[1] * shape[2]
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2)).to(dtype)
    images = torch.rand(12, *shape).to(dtype)
    labels = torch.arange(12) % 2
    eps = 0.25
    for targets in (None, 1 - labels):
        result = Engine(model).run(create_attack(name, eps=eps), images, labels, targets)
        assert result.adv.dtype == dtype
        assert result.finite.all()
        slack = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        assert (result.distance("linf") <= eps * (1 + 1e-6) + slack).all()
        assert ((result.adv >= 0) & (result.adv <= 1)).all()
        assert not torch.equal(result.adv, images)


class Slopes:
    """Answers with given gradients in turn, whatever it is asked."""

    def __init__(self, slopes: Tensor) -> None:
        self.slopes = slopes
        self.asked: list[Tensor] = []

    def ask(self, x, y, loss="ce", *, targets=None, through=None, offer=True):
        self.asked.append(x)
        grad = self.slopes[len(self.asked) % len(self.slopes)].to(x.dtype)
        return Answer(grad=grad, loss=torch.zeros(len(x)), logits=torch.zeros(len(x), 2))

    def grad(self, x, y, loss="ce"):
        return self.ask(x, y, loss).grad


@pytest.mark.parametrize("name", ["mifgsm", *(name for name in FAMILY if name != "rfgsm")])
def test_momentum_in_half_precision_is_that_of_fp32(name):
    """Of gradients over 150,528 values scaled to sum 1, fp16 has few bits or none."""
    generator = torch.Generator().manual_seed(0)
    shape, kernel = (1, 3, 224, 224), {"kernel_size": 1} if name == "tifgsm" else {}
    size = 10 ** (-3 * torch.rand(2, *shape, generator=generator))
    slopes = (size * torch.randn(2, *shape, generator=generator)).half()
    clean = torch.full(shape, 0.5)
    half, full = Slopes(slopes), Slopes(slopes)
    found, expected = (
        _walk(_configured(name, decay=1.0, **kernel), problem(x, torch.zeros(1).long()), query)
        for x, query in ((clean.half(), half), (clean, full))
    )
    assert found[-1].x.dtype == torch.float16
    iterates = zip((s.x for s in found), (s.x for s in expected), strict=True)
    # these round the gradient, which may nearly cancel, before they hand it on
    few = 1e-3 if name in ("tifgsm", "vmifgsm") else 0
    for ours, theirs in (*iterates, *zip(half.asked, full.asked, strict=True)):
        apart = (ours.float() - theirs).abs() > ALPHA / 4 + 2e-3 * theirs.abs()
        assert apart.float().mean() <= few


@pytest.mark.parametrize("name", FAMILY)
def test_a_row_without_a_gradient_stays_and_one_with_nan_is_told(name):
    class Odd(nn.Module):
        def forward(self, x):
            flat = x.flatten(1).sum(1)
            flat = torch.where(x[:, 0, 0, 0] > 0.75, flat / 0.0 - flat / 0.0, flat)
            flat = torch.where(x[:, 0, 0, 0] < 0.25, flat.detach(), flat)
            return torch.stack([flat, -flat], 1)

    images = torch.full((3, 1, 4, 4), 0.5)
    images[1, 0, 0, 0] = 0.0
    model = nn.Sequential(nn.Identity(), Odd())
    attack = create_attack(name, eps=0.1)
    p = problem(images[:2], torch.zeros(2, dtype=torch.int64))
    final = _walk(attack, p, Autograd(model))[-1].x
    assert final.isfinite().all()
    if name != "rfgsm":
        assert torch.equal(final[1], images[1])
    images[2, 0, 0, 0] = 1.0
    p = problem(images, torch.zeros(3, dtype=torch.int64))
    assert _walk(attack, p, Autograd(model))[-1].x.isfinite().all()


@pytest.mark.parametrize("name", FAMILY)
def test_clean_logits_are_those_of_the_clean_image(name):
    model = mlp()
    images, labels = images_and_labels(model)
    result = run(create_attack(name, eps=0.1), model, images, labels)
    with torch.no_grad():
        torch.testing.assert_close(result.clean_logits, model(images), rtol=0, atol=1e-12)
        torch.testing.assert_close(result.logits, model(result.adv), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("rfgsm", "noise", 0.0),
        ("rfgsm", "noise", 0.2),
        ("nifgsm", "decay", -1.0),
        ("sinifgsm", "scales", 0),
        ("difgsm", "resize_rate", 1.1),
        ("difgsm", "diversity_prob", -0.1),
        ("tifgsm", "kernel", "box"),
        ("tifgsm", "kernel_size", 4),
        ("tifgsm", "sigma", 0.0),
        ("vmifgsm", "neighbours", 0),
        ("vmifgsm", "beta", float("inf")),
    ],
)
def test_a_bad_option_is_named(name, option, value):
    with pytest.raises(ValueError, match=f"{name}: {option} must be .*got.*{value}") as caught:
        create_attack(name, eps=0.1, **{option: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FAMILY)
def test_every_option_is_documented(name):
    text = ATTACKS[name].__doc__
    own = {field.name for field in dataclasses.fields(ATTACKS[name])}
    for option in own - {"target", "confidence", "num_targets"}:
        assert option in text
