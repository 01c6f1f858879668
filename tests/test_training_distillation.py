"""Who teaches whom, and by how much."""

import dataclasses

import pytest
import torch
from torch import nn
from training_for_tests import (
    QUICK,
    few_digits,
    micro,
    network,
    relabelled,
)

from deitsec import ops
from deitsec.data import to_float
from deitsec.models import build_own, model_sha256
from deitsec.training import (
    DistillConfig,
    FitConfig,
    distill,
    fit,
)


@pytest.fixture(scope="module")
def data():
    return few_digits()


def distilled(data, student, teacher, **changes):
    config = dataclasses.replace(QUICK, validation=0.0, weight_decay=0.0)
    return distill(student, teacher, data, DistillConfig(**{"fit": config, **changes}))


@pytest.fixture(scope="module")
def teacher(data):
    model = network()
    fit(model, data, QUICK)
    return model


@pytest.mark.parametrize("method", ["study", "soft", "hard"])
@pytest.mark.parametrize("student", [network, micro])
def test_the_teacher_is_followed_and_left_as_found(data, teacher, student, method):
    before, model = model_sha256(teacher), student(1)
    teacher.train()
    config = dataclasses.replace(QUICK, epochs=8, validation=0.0, augmentation=None)
    result = distilled(data, model, teacher, method=method, alpha=1.0, teacher_share=1, fit=config)
    assert teacher.training
    teacher.eval()
    assert model_sha256(teacher) == before
    assert result.history[-1].train_loss < 0.95 * result.history[0].train_loss


@pytest.mark.parametrize("student", [network, micro])
@pytest.mark.parametrize(
    ("changes", "by_labels", "by_teacher"),
    [
        ({"method": "soft", "alpha": 1.0}, False, True),
        ({"method": "soft", "alpha": 0.0}, True, False),
        ({"method": "soft", "alpha": 0.5}, True, True),
        ({"method": "hard", "alpha": 1.0}, False, True),
        ({"method": "hard", "alpha": 0.0}, True, False),
        ({"method": "study", "teacher_share": 1.0}, False, True),
        ({"method": "study", "teacher_share": 0.0}, True, False),
        ({"method": "study", "teacher_share": 0.5}, True, True),
    ],
)
def test_each_weight_decides_who_teaches(data, teacher, student, changes, by_labels, by_teacher):
    other_labels = relabelled(data, (data.train.labels + 1) % 10)
    models = [student() for _ in range(3)]
    distilled(data, models[0], teacher, **changes)
    distilled(other_labels, models[1], teacher, **changes)
    distilled(data, models[2], network(5), **changes)
    # A weight of 0 may still round the last bit of the loss; a teacher changes far more.
    plain, relabel, retaught = (nn.utils.parameters_to_vector(m.parameters()) for m in models)
    moved = [(plain - other).abs().max().item() for other in (relabel, retaught)]
    assert [distance > 1e-3 for distance in moved] == [by_labels, by_teacher]
    assert all(distance < 1e-6 or distance > 1e-3 for distance in moved)


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_each_head_of_a_deit_has_its_own_teacher(data, teacher, mode):
    kept, taught = micro(), micro()
    distilled(data, taught, teacher, method=mode, alpha=1.0)
    assert torch.equal(kept.module.head.weight, taught.module.head.weight)
    assert not torch.equal(kept.module.head_dist.weight, taught.module.head_dist.weight)
    taught = micro()
    distilled(data, taught, teacher, method=mode, alpha=0.0)
    assert torch.equal(kept.module.head_dist.weight, taught.module.head_dist.weight)
    assert not torch.equal(kept.module.head.weight, taught.module.head.weight)


def test_the_loss_of_a_step_is_that_of_the_op(data, teacher):
    # One step of all rows, unmoved: its loss is that of the weights at the start.
    step = FitConfig(epochs=1, batch_size=200, validation=0.0)
    images, labels = to_float(data.train.pixels), data.train.labels
    answers = teacher(images).detach()
    two, one = micro(), build_own("logistic_regression", in_chans=1, image_size=8)
    by_label, by_teacher = two.train().forward_heads(images)
    expected = 0.7 * ops.distillation_loss(by_teacher, answers, None, 4.0, 1.0)
    expected = expected + 0.3 * nn.functional.cross_entropy(by_label, labels)
    result = distilled(data, two, teacher, temperature=4.0, alpha=0.7, fit=step)
    assert result.history[0].train_loss == pytest.approx(expected.item(), rel=1e-5)
    expected = ops.distillation_loss(one(images), answers, labels, 4.0, 0.7)
    result = distilled(data, one, teacher, temperature=4.0, alpha=0.7, fit=step)
    assert result.history[0].train_loss == pytest.approx(expected.item(), rel=1e-5)
