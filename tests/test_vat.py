"""The virtual adversarial perturbation against eigenvectors, and its divergence against digits."""

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

from deitsec.attacks import VAT
from deitsec.attacks.smoothness import divergence, unit
from deitsec.engine import Engine, run

PIXELS, CLASSES = 12, 4


def _linear(seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(PIXELS, CLASSES).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(CLASSES, PIXELS, generator=generator, dtype=torch.float64))
    return nn.Sequential(nn.Flatten(), layer).eval()


def _images(rows: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return 0.4 + 0.2 * torch.rand(rows, 1, 3, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_direction_is_the_dominant_eigenvector_of_the_hessian(seed):
    """Of a linear softmax model the Hessian of the divergence is W^T (diag p - p p^T) W."""
    model, images, eps = _linear(seed), _images(), 1e-3
    labels = model(images).argmax(1)
    result = run(VAT(eps=eps, steps=200, xi=1e-5), model, images, labels, stop="never")
    change = (result.adv - images).flatten(1).numpy() / eps
    weight = model[1].weight.detach().numpy()
    for row, p in zip(change, model(images).softmax(1).detach().numpy(), strict=True):
        values, vectors = np.linalg.eigh(weight.T @ (np.diag(p) - np.outer(p, p)) @ weight)
        assert values[-1] > 1.05 * values[-2]
        assert abs(row @ vectors[:, -1]) == pytest.approx(1, abs=1e-6)


def test_better_end_of_the_direction_is_kept():
    """Both ends move the prediction alike in the second order, and the loss oppositely."""
    model, images = _linear(0), _images()
    labels = model(images).argmax(1)
    result = run(VAT(eps=0.05), model, images, labels, stop="never")
    mirrored = 2 * images - result.adv
    loss, other = (
        nn.functional.cross_entropy(model(x), labels, reduction="none")
        for x in (result.adv, mirrored)
    )
    assert (loss > other).all()


def test_labels_are_not_looked_at():
    model, images = _linear(1), _images()
    attack = VAT(eps=0.05, steps=3)
    found = [
        (run(attack, model, images, torch.full((8,), k), stop="never").adv - images).abs()
        for k in range(2)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


def test_beats_a_random_direction_of_the_same_length():
    model, images = _linear(2), _images(64)
    with torch.no_grad():
        clean = model(images)
        adv = run(VAT(eps=0.1), model, images, clean.argmax(1), stop="never").adv
        noise = unit(torch.randn(images.shape, dtype=images.dtype)) * 0.1
        moved, drifted = divergence(model(adv), clean), divergence(model(images + noise), clean)
    assert (moved > drifted).float().mean() > 0.95
    assert moved.mean() > 4 * drifted.mean()


def test_the_image_is_asked_about_once_and_each_step_once():
    model, images = _linear(0), _images()
    result = Engine(model).run(VAT(eps=1e-6, steps=3), images, model(images).argmax(1))
    assert result.queries.backward.tolist() == [3] * 8
    assert result.queries.forward.tolist() == [1 + 3 + 2] * 8


def _exact(logits, reference):
    with mpmath.workdps(60):
        z, r = ([mpmath.mpf(float(v)) for v in row] for row in (logits, reference))
        q, p = ([mpmath.exp(v) for v in row] for row in (z, r))
        q, p = [v / sum(q) for v in q], [v / sum(p) for v in p]
        value = sum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True))
        return float(value), [float(b - a) for a, b in zip(p, q, strict=True)]


@pytest.mark.parametrize("spread", [1.0, 20.0])
@pytest.mark.parametrize("change", [1e-4, 1e-1, 5.0, 60.0])
def test_gradient_of_the_divergence_in_extended_precision(spread, change):
    """Of a sure model in fp32, q - p of the winner is 0 as a difference, and its sign is lost."""
    generator = torch.Generator().manual_seed(4)
    reference = spread * torch.randn(6, 5, generator=generator)
    logits = (reference + change * torch.randn(6, 5, generator=generator)).requires_grad_()
    value = divergence(logits, reference)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    value = value.detach()
    for row in range(6):
        exact, slope = _exact(logits[row].detach(), reference[row])
        rounding = 1.2e-7 * float(logits[row].detach().abs().max() + reference[row].abs().max())
        assert float(value[row]) == pytest.approx(exact, rel=2e-5, abs=rounding)
        size = max(map(abs, slope))
        # the change itself is a difference of fp32 logits: exact, and the rest has a few roundings
        assert grad[row].tolist() == pytest.approx(slope, rel=1e-4, abs=4e-6 * size)


def test_unit_of_any_scale():
    rows = torch.tensor([[3e-30, 4e-30], [3e30, 4e30], [0.0, 0.0], [float("nan"), 1.0]])
    instead = torch.tensor([[1.0, 0.0]] * 4)
    expected = torch.tensor([[0.6, 0.8]] * 2 + [[1.0, 0.0]] * 2)
    torch.testing.assert_close(unit(rows, instead), expected)
    assert unit(rows)[2].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"xi": 0.0}, "vat: xi must be > 0"), ({"steps": 0}, "vat: steps"), ({"eps": -1.0}, "eps")],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        VAT(**options)
