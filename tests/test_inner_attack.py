"""The attack inside of a training step: closed forms, rows, and what it leaves behind."""

import pytest
import torch
from models_for_tests import Linear
from torch import nn
from torch.nn.functional import kl_div, log_softmax
from training_for_tests import micro, network

from deitsec.training.inner_attack import InnerAttack

EPS = 0.1


def batch(rows=6, side=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(rows, 1, side, side, generator=generator)
    return images, torch.arange(rows) % 10, torch.arange(rows) * 7


def attack(**changes):
    return InnerAttack(**{"eps": EPS, "alpha": EPS / 4, "steps": 10, **changes})


@pytest.mark.parametrize("start", ["clean", "uniform", "noise"])
def test_on_a_linear_model_it_ends_in_the_corner_of_the_ball(start):
    weight = torch.randn(1, 4, 4)
    images = torch.rand(5, 1, 4, 4)
    labels = torch.tensor([0, 1, 0, 1, 0])
    down = 1 - 2 * labels.float()  # label 0 wins by a positive margin
    expected = (images - EPS * down[:, None, None, None] * weight.sign()).clamp(0, 1)
    found = attack(start=start)(Linear(weight), images, labels, torch.arange(5))
    torch.testing.assert_close(found, expected, rtol=0, atol=1.2e-7)


def test_in_l2_it_ends_at_the_nearest_point_to_the_plane():
    weight, images = torch.randn(1, 4, 4) * 0.1, torch.full((3, 1, 4, 4), 0.5)
    labels = torch.tensor([0, 1, 1])
    down = 1 - 2 * labels.float()
    expected = images - EPS * down[:, None, None, None] * weight / weight.norm()
    # each step keeps 1 / 1.25 of what a random start has along the plane
    found = attack(norm="l2", steps=80)(Linear(weight), images, labels, torch.arange(3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("start", ["clean", "uniform", "noise"])
def test_images_stay_in_ball_and_box(norm, start):
    images, labels, rows = batch()
    found = attack(norm=norm, start=start, alpha=EPS)(network(), images, labels, rows)
    order = float("inf") if norm == "linf" else 2
    assert (found - images).flatten(1).norm(order, dim=1).max() <= EPS + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    assert not found.requires_grad


def test_steps_are_the_plain_ones_in_fp64():
    images, labels, rows = batch()
    model = network().double().train()
    found = attack(start="clean", steps=5)(model, images.double(), labels, rows)
    model.eval()
    x = images.double()
    for _ in range(5):
        x = x.detach().requires_grad_()
        nn.functional.cross_entropy(model(x), labels, reduction="sum").backward()
        x = x.detach() + EPS / 4 * x.grad.sign()
        x = (images.double() + (x - images).clamp(-EPS, EPS)).clamp(0, 1)
    assert torch.equal(found, x)


def test_the_divergence_is_climbed_as_autograd_climbs_it():
    images, labels, rows = batch()
    model = micro().double().eval()
    found = attack(start="noise", steps=1, loss="kl")(model, images.double(), labels, rows)
    start = attack(start="noise", steps=1, loss="kl", alpha=1e-30)(
        model, images.double(), labels, rows
    )
    x = start.clone().requires_grad_()
    answers = log_softmax(model(images.double()), 1).detach()
    kl_div(log_softmax(model(x), 1), answers, reduction="sum", log_target=True).backward()
    expected = (start + EPS / 4 * x.grad.sign()).clamp(images - EPS, images + EPS).clamp(0, 1)
    # answers 0.001 apart: the slope is taken from logits in fp32, and signs near 0 may turn
    assert ((found - expected).abs() < 1e-9).double().mean() > 0.99
    assert ((start - images).std() - 1e-3).abs() < 1e-4


def test_the_start_is_the_rows_own_and_the_updates():
    images, labels, rows = batch()
    model, one = network(), attack(steps=1, alpha=1e-6)
    whole = one(model, images, labels, rows, 3)
    order = torch.tensor([4, 0, 5])
    assert torch.equal(one(model, images[order], labels[order], rows[order], 3), whole[order])
    for other in (
        one(model, images, labels, rows, 4),
        one(model, images, labels, rows + 1, 3),
        attack(steps=1, alpha=1e-6, seed=1)(model, images, labels, rows, 3),
    ):
        assert ((other - whole).abs() > 1e-3).double().mean() > 0.9


@pytest.mark.parametrize("channels_last", [False, True])
def test_model_and_mode_are_left_as_found(channels_last):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(4 * 36, 10)).train()
    model[2].eval()
    model[0].bias.requires_grad_(False)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    seen = []
    model[0].register_forward_hook(
        lambda module, given, out: seen.append((module.weight.requires_grad, model[1].training))
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [weight.requires_grad for weight in model.parameters()]
    images = torch.rand(4, 3, 8, 8)
    found = attack(steps=2, channels_last=channels_last)(
        model, images, torch.arange(4), torch.arange(4)
    )
    assert seen == [(False, False)] * 2
    assert found.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert [part.training for part in model] == [True, True, False, True, True]
    assert all(weight.grad is None for weight in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_an_error_of_the_model_leaves_it_trainable():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 10)).train()
    with pytest.raises(RuntimeError):
        attack()(model, *batch())
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
