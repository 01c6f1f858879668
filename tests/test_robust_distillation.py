"""Robust distillation: the loss of a step, and who is attacked."""

import dataclasses
import json

import pytest
import torch
from torch.nn.functional import cross_entropy
from training_for_tests import few_digits, micro, network

from deitsec import ops
from deitsec.cli import main
from deitsec.data import to_float
from deitsec.models import build_own, model_sha256
from deitsec.training import Augmentation, FitConfig, RobustDistillConfig, robust_distill
from deitsec.training.inner_attack import InnerAttack

STEP = FitConfig(epochs=1, batch_size=200, validation=0.0)


@pytest.fixture(scope="module")
def data():
    return few_digits()


@pytest.mark.parametrize(
    "student", [micro, lambda: build_own("logistic_regression", in_chans=1, image_size=8)]
)
def test_the_loss_of_a_step_is_that_of_the_formula(data, student):
    """The teacher answers clean images, the student attacked ones; labels are for clean ones."""
    teacher, model = network(1).eval(), student()
    config = RobustDistillConfig(fit=STEP, temperature=3.0, alpha=0.7, eps=0.1, steps=2)
    order = torch.arange(200)  # one batch of all rows: its order does not show in a mean
    images, labels = to_float(data.train.pixels), data.train.labels
    attack = InnerAttack(eps=0.1, alpha=0.1, steps=2, seed=STEP.seed)
    adv = attack(model, images, labels, order)
    assert ((adv - images).abs() <= 0.1 + 1e-6).all()
    learnt = ops.distillation_loss(model(adv), teacher(images).detach(), None, 3.0, 1.0)
    expected = 0.7 * learnt + 0.3 * cross_entropy(model(images), labels)
    found = robust_distill(model, teacher, data, config)
    assert found.history[0].train_loss == pytest.approx(expected.item(), rel=1e-4)


def test_teacher_and_flags_are_left_as_found(data):
    teacher, model = network(1), micro()
    before = model_sha256(teacher)
    config = RobustDistillConfig(fit=dataclasses.replace(STEP, batch_size=50), eps=0.1, steps=1)
    robust_distill(model, teacher, data, config)
    assert model_sha256(teacher) == before
    assert teacher.training
    assert all(p.requires_grad for p in [*teacher.parameters(), *model.parameters()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be > 0 and finite, got 0"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"eps": 0.0}, r"eps must be in \(0, 1\] on images in \[0, 1\], got 0.0"),
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"step_size": -1.0}, "step_size must be > 0 and finite, got -1.0"),
        ({"fit": FitConfig(augmentation=Augmentation(noise=0.1))}, "noise must be 0 in training"),
        ({"fit": FitConfig(label_smoothing=0.1)}, r"label_smoothing must be 0 .* got 0\.1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RobustDistillConfig(**options)


def test_the_command_attacks_the_student_as_it_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--image-size", "8", "--model", "logistic_regression", "--epochs", "1"]
    assert main(["train", *small, "--out", "teacher.safetensors"]) == 0
    attack = ["--eps", "8/255", "--attack-steps", "2", "--attack-alpha", "6/255", "--alpha", "0.8"]
    words = ["--teacher", "teacher.safetensors", "--method", "robust", *attack]
    assert main(["distill", *small, *words]) == 0
    found = json.loads((tmp_path / "student.card.json").read_text())["training"]
    given = {"method": "robust", "eps": 8 / 255, "steps": 2, "step_size": 6 / 255, "alpha": 0.8}
    assert {name: found[name] for name in given} == given
