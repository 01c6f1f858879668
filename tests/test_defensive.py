"""Training at a temperature: the formula of the paper, and what it does to the logits."""

import pytest
import torch
from training_for_tests import QUICK, few_digits, network

from deitsec.data import to_float
from deitsec.models import build_own, model_sha256
from deitsec.training import (
    DefensiveConfig,
    FitConfig,
    distill_at_temperature,
    fit_at_temperature,
    predict,
)

ONE_STEP = FitConfig(
    epochs=1,
    batch_size=200,
    optimizer="momentum",
    lr=1.0,
    momentum=0.0,
    weight_decay=0.0,
    schedule="constant",
    clip_grad=None,
    validation=0.0,
)


@pytest.fixture(scope="module")
def data():
    return few_digits()


def linear(seed=0):
    torch.manual_seed(seed)
    return build_own("logistic_regression", in_chans=1, image_size=8).double()


def change_of(model, train):
    """What a step of plain gradient descent at rate 1 did to the weights: minus the gradient."""
    before = model.module[1].weight.detach().clone()
    train(model)
    return before - model.module[1].weight.detach()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0, 100.0])
def test_the_gradient_is_that_of_the_formula(data, temperature):
    """(q - p) / T in the logits, q = softmax(z / T), p the label or the teacher's softmax at T."""
    config = DefensiveConfig(fit=ONE_STEP, temperature=temperature)
    images = to_float(data.train.pixels).double()
    student, teacher = linear(0), linear(1)
    mean, std = (torch.tensor(part).double() for part in student.normalization)
    seen = ((images - mean[:, None, None]) / std[:, None, None]).flatten(1)

    def expected(targets):
        q = (linear(0)(images).detach() / temperature).softmax(1)
        return ((q - targets) / temperature).T @ seen / len(images)

    hard = torch.nn.functional.one_hot(data.train.labels, 10).double()
    found = change_of(student, lambda model: fit_at_temperature(model, data, config))
    torch.testing.assert_close(found, expected(hard), rtol=1e-4, atol=1e-7)
    soft = (teacher(images).detach() / temperature).softmax(1)
    found = change_of(linear(0), lambda model: distill_at_temperature(model, teacher, data, config))
    torch.testing.assert_close(found, expected(soft), rtol=1e-3, atol=1e-7)


def test_logits_grow_with_the_temperature(data):
    """Deployed at T = 1 they saturate the softmax: that is the whole defense."""
    config = FitConfig(
        epochs=60, optimizer="adam", lr=0.1, weight_decay=0.0, clip_grad=None, validation=0.0
    )
    leads = []
    for temperature in (1.0, 20.0):
        model = linear()
        fit_at_temperature(model, data, DefensiveConfig(fit=config, temperature=temperature))
        top = predict(model, data.train).topk(2, 1).values
        leads.append((top[:, 0] - top[:, 1]).mean().item())
    assert leads[1] > 4 * leads[0]


def test_the_teacher_is_left_as_found(data):
    teacher = network(1)
    before = model_sha256(teacher)
    distill_at_temperature(network(), teacher, data, DefensiveConfig(fit=QUICK, temperature=10.0))
    assert model_sha256(teacher) == before


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_temperatures_out_of_range_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be > 0 and finite"):
        DefensiveConfig(temperature=temperature)


def test_smoothed_labels_are_refused():
    with pytest.raises(ValueError, match=r"label_smoothing must be 0 in distillation, got 0\.1"):
        DefensiveConfig(fit=FitConfig(label_smoothing=0.1))


def test_other_classes_are_refused(data):
    teacher = build_own("logistic_regression", in_chans=1, image_size=8, num_classes=4)
    with pytest.raises(ValueError, match="the same classes, got 10 and 4"):
        distill_at_temperature(network(), teacher, data, DefensiveConfig(fit=QUICK))
