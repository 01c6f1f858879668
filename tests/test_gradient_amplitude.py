"""Gradient amplitudes against many-digit arithmetic on models that are linear in the image."""

import math

import mpmath
import pytest
import torch
from torch import nn

from deitsec.metrics import (
    AMPLITUDE_EDGES,
    amplitude_shares,
    log10_gradient_amplitude,
    log10_loss_gradient,
)
from tests.models_for_tests import images_and_labels, mlp


class Affine(nn.Module):
    """logits = scale * (W x + b)."""

    def __init__(self, scale: float, classes: int = 4, pixels: int = 9, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        weight = torch.randn(classes, pixels, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter((scale * weight).to(dtype))

    def forward(self, images):
        return images.flatten(1) @ self.weight.T


def _images(dtype=torch.float64, rows: int = 6):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(rows, 1, 3, 3, generator=generator, dtype=torch.float64).to(dtype)


def _exact(model: Affine, images, what: str):
    """(rows, K) log10 of mean |d p_k / d x|, or of ||d loss_k / d x||, in 3000 digits."""
    with mpmath.workdps(3000):
        weight = [[mpmath.mpf(w) for w in row] for row in model.weight.tolist()]
        table = []
        for image in images.flatten(1).tolist():
            logits = [
                sum(w * mpmath.mpf(v) for w, v in zip(row, image, strict=True)) for row in weight
            ]
            top = max(logits)
            odds = [mpmath.exp(z - top) for z in logits]
            p = [o / sum(odds) for o in odds]
            mean_w = [sum(p[k] * weight[k][j] for k in range(len(p))) for j in range(len(image))]
            grads = [[row[j] - mean_w[j] for j in range(len(image))] for row in weight]
            if what == "probability":
                sizes = [p[k] * sum(abs(g) for g in grads[k]) / len(image) for k in range(len(p))]
            else:
                sizes = [mpmath.sqrt(sum(g * g for g in grads[k])) for k in range(len(p))]
            table.append([float(mpmath.log10(size)) for size in sizes])
    return torch.tensor(table, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1000.0])
def test_amplitude_of_every_class_in_extended_precision(scale):
    """At scale 1000 the gradients are around 1e-1000: fp64 itself would say 0."""
    model, images = Affine(scale), _images()
    exact = _exact(model, images, "probability")
    if scale == 1000:
        assert exact.min() < -400
    for label in range(4):
        labels = torch.full((len(images),), label)
        ours = log10_gradient_amplitude(model, images, labels)
        torch.testing.assert_close(ours, exact[:, label], rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_mean_over_classes_adds_the_gradients_not_their_logarithms(scale):
    model, images = Affine(scale), _images()
    exact = _exact(model, images, "probability")
    largest = exact.amax(1, keepdim=True)
    exact = (10 ** (exact - largest)).mean(1).log10() + largest[:, 0]
    ours = log10_gradient_amplitude(model, images)
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_gradient_of_the_loss_in_extended_precision(scale):
    model, images = Affine(scale), _images()
    exact = _exact(model, images, "loss")
    for label in range(4):
        labels = torch.full((len(images),), label)
        ours = log10_loss_gradient(model, images, labels)
        torch.testing.assert_close(ours, exact[:, label], rtol=1e-12, atol=1e-10)


def test_fp32_weights_do_not_underflow_either():
    """The autograd gradient of the probability is 0 in fp32 there; the logits' rounding is left."""
    model = Affine(300.0, dtype=torch.float32)
    images = _images(torch.float32)
    labels = model(images).argmax(1)
    leaf = images.clone().requires_grad_()
    (naive,) = torch.autograd.grad(model(leaf).softmax(1).gather(1, labels[:, None]).sum(), leaf)
    assert (naive == 0).flatten(1).all(1).any()
    exact = _exact(model, images, "probability").gather(1, labels[:, None])[:, 0]
    ours = log10_gradient_amplitude(model, images, labels)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-4)


def test_agrees_with_autograd_where_floats_suffice():
    model = mlp()
    images, labels = images_and_labels(model)
    leaf = images.clone().requires_grad_()
    p = model(leaf).softmax(1)
    grads = [torch.autograd.grad(p[:, k].sum(), leaf, retain_graph=True)[0] for k in range(5)]
    amplitude = torch.stack([grad.abs().flatten(1).mean(1) for grad in grads])
    torch.testing.assert_close(log10_gradient_amplitude(model, images), amplitude.mean(0).log10())
    own = amplitude.gather(0, labels[None])[0].log10()
    torch.testing.assert_close(log10_gradient_amplitude(model, images, labels, batch_size=5), own)


class Flat(nn.Module):
    """Looks at no pixel of images whose mean is below a half."""

    def forward(self, images):
        seen = (images.flatten(1).mean(1) - 0.5).relu()
        return torch.stack([seen, -seen], 1)


def test_gradient_that_is_exactly_zero_is_minus_infinity():
    images = torch.stack([torch.full((1, 2, 2), 0.2), torch.full((1, 2, 2), 0.8)])
    ours = log10_gradient_amplitude(Flat(), images, torch.tensor([0, 0]))
    assert ours[0] == -math.inf
    assert ours[1].isfinite()


def test_model_is_left_as_it_was_found():
    model = mlp().train()
    log10_gradient_amplitude(model, _images()[:, :, :1].expand(-1, 1, 12, 3))
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_shares_by_range():
    assert len(AMPLITUDE_EDGES) == 9
    values = torch.tensor([-math.inf, -300.0, -40.0, -36.0, -4.0, -3.0, 2.0, -12.0])
    shares = amplitude_shares(values)
    assert [round(8 * share) for share in shares] == [2, 2, 0, 0, 0, 0, 1, 0, 1, 2]
    with pytest.raises(ValueError, match="at least one number"):
        amplitude_shares(torch.empty(0))


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        (torch.zeros(5, dtype=torch.int64), {}, r"labels must be \(6,\) integers, got \(5,\)"),
        (torch.zeros(6), {}, "integers"),
        (torch.full((6,), -1), {}, "at least 0, got -1"),
        (torch.full((6,), 4), {}, "labels must be in 0 to 3"),
        (None, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_input(labels, more, message):
    with pytest.raises(ValueError, match=message):
        log10_gradient_amplitude(Affine(1.0), _images(), labels, **more)
