"""The loop, its refusals, the optimizer and prediction."""

import dataclasses
import json

import pytest
import torch
from torch import nn
from training_for_tests import (
    QUICK,
    assert_same_weights,
    digits,
    few_digits,
    micro,
    network,
    relabelled,
    weights,
)

from deitsec.data import to_float
from deitsec.models import build_own
from deitsec.training import (
    Augmentation,
    DistillConfig,
    FitConfig,
    TrainingDiverged,
    distill,
    fit,
    predict,
    recipe,
)
from deitsec.training.loop import split_rows
from deitsec.training.optimizer import build_optimizer, build_scheduler


@pytest.fixture(scope="module")
def data():
    return few_digits()


def test_fit_learns_digits():
    source = digits()
    model = build_own("logistic_regression", in_chans=1, image_size=8)
    fit(model, source, FitConfig(epochs=15, batch_size=32, lr=2e-2, validation=0.0))
    accuracy = (predict(model, source.test).argmax(1) == source.test.labels).float().mean()
    assert accuracy > 0.9


def test_the_best_epoch_is_kept_and_validation_rows_are_held_out(data):
    model = network()
    result = fit(model, data, dataclasses.replace(QUICK, epochs=5, lr=3e-2))
    train_rows, rows = split_rows(data.train.labels, QUICK)
    assert (len(train_rows), len(rows)) == (result.num_train, result.num_validation) == (160, 40)
    assert torch.equal(torch.cat([train_rows, rows]).sort().values, torch.arange(200))
    accuracy = (predict(model, data.train, rows).argmax(1) == data.train.labels[rows]).float()
    assert accuracy.mean().item() == result.best.validation_accuracy
    assert result.best.validation_accuracy == max(r.validation_accuracy for r in result.history)


def test_rows_held_out_do_not_change_the_weights(data):
    config = dataclasses.replace(QUICK, epochs=1)
    _, rows = split_rows(data.train.labels, config)
    labels = data.train.labels.clone()
    labels[rows] = (labels[rows] + 1) % 10
    models = network(), network()
    fit(models[0], data, config)
    fit(models[1], relabelled(data, labels), config)
    assert_same_weights(weights(models[0]), weights(models[1]))


def test_without_validation_the_last_epoch_is_kept(data):
    result = fit(network(), data, dataclasses.replace(QUICK, validation=0.0))
    assert (result.best_epoch, result.num_validation, result.num_train) == (3, 0, 200)
    assert result.best.validation_accuracy is None


def test_patience_ends_a_run_that_no_longer_improves(data):
    # A rate this small changes no weight; without batch norm no validation result changes either.
    model = build_own("logistic_regression", in_chans=1, image_size=8)
    still = dataclasses.replace(QUICK, epochs=9, lr=1e-30, weight_decay=0.0, patience=2)
    result = fit(model, data, still)
    assert result.stopped_early
    assert (len(result.history), result.best_epoch) == (3, 1)


def test_a_seed_decides_the_weights(data):
    runs = []
    for seed in (0, 0, 1):
        model = network()
        torch.manual_seed(len(runs))  # the caller's stream must not matter
        fit(model, data, dataclasses.replace(QUICK, seed=seed))
        runs.append(weights(model))
    assert_same_weights(runs[0], runs[1])
    assert not torch.equal(runs[0]["module.6.weight"], runs[2]["module.6.weight"])


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_caller_is_left_as_found(data, channels_last):
    model = network()
    model.eval()
    model.module[5].train()
    model.module[0].weight.requires_grad_(False)
    frozen = model.module[0].weight.clone()
    modes = [part.training for part in model.modules()]
    stream = torch.get_rng_state()
    fit(model, data, dataclasses.replace(QUICK, epochs=1, channels_last=channels_last))
    assert torch.equal(torch.get_rng_state(), stream)
    assert [part.training for part in model.modules()] == modes
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    assert torch.equal(model.module[0].weight, frozen)
    assert not model.module[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_tells_every_epoch_to_its_end(data):
    events = []
    result = fit(network(), data, QUICK, progress=events.append)
    assert [(e.epoch, e.epochs, e.step, e.steps) for e in events] == [
        (epoch, 3, 5, 5) for epoch in (1, 2, 3)
    ]
    for event, record in zip(events, result.history, strict=True):
        assert event.metrics["loss"] == record.train_loss
        assert event.metrics["validation_accuracy"] == record.validation_accuracy


def test_result_config_survives_json(data):
    config = distill(network(), network(1), data, DistillConfig(fit=QUICK)).config
    assert json.loads(json.dumps(config)) == config


def test_bf16_keeps_fp32_weights(data):
    model = network()
    result = fit(model, data, dataclasses.replace(QUICK, precision="bf16"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert result.history[-1].train_loss < result.history[0].train_loss


class Spoilt(nn.Module):
    """A network whose output turns NaN in its `bad` call in train mode."""

    def __init__(self, module, bad):
        super().__init__()
        self.module, self.bad, self.calls = module, bad, 0

    def forward(self, images):
        self.calls += self.training
        return self.module(images) * (float("nan") if self.calls == self.bad else 1.0)


def test_divergence_restores_the_last_good_weights(data):
    constant = dataclasses.replace(QUICK, schedule="constant")
    one_epoch, spoilt = network(), network()
    fit(one_epoch, data, dataclasses.replace(constant, epochs=1))
    spoilt.module = Spoilt(spoilt.module, bad=5 + 3)  # the third step of the second epoch
    spoilt.train()
    with pytest.raises(TrainingDiverged, match="the loss is not finite in epoch 2") as caught:
        fit(spoilt, data, constant)
    assert caught.value.epoch == 2
    assert spoilt.training
    spoilt.module = spoilt.module.module
    assert_same_weights(weights(one_epoch), weights(spoilt))


def test_weights_that_overflow_in_the_last_step_are_seen(data):
    model = build_own("logistic_regression", in_chans=1, image_size=8)
    model.module[1].bias.register_hook(lambda grad: grad * float("inf"))
    before = weights(model)
    config = FitConfig(epochs=1, batch_size=200, optimizer="sgd", clip_grad=None, validation=0.0)
    with pytest.raises(TrainingDiverged, match="a weight is not finite in epoch 1"):
        fit(model, data, config)
    assert_same_weights(before, weights(model))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FitConfig(epochs=0), "epochs must be >= 1, got 0"),
        (lambda: FitConfig(lr=0.0), "lr must be > 0"),
        (lambda: FitConfig(lr=float("nan")), "lr must be > 0"),
        (lambda: FitConfig(weight_decay=-1.0), "weight_decay must be >= 0"),
        (lambda: FitConfig(label_smoothing=1.0), r"label_smoothing must be in \[0, 1\)"),
        (lambda: FitConfig(schedule="linear"), "schedule must be one of cosine"),
        (lambda: FitConfig(warmup_epochs=11), r"warmup_epochs must be in \[0, epochs=10\]"),
        (lambda: FitConfig(precision="fp8"), "precision must be fp32 or bf16"),
        (lambda: FitConfig(validation=0.6), r"validation must be in \[0, 0.5\]"),
        (lambda: FitConfig(validation=0.0, patience=1), "patience needs rows"),
        (lambda: DistillConfig(method="deit"), "method must be one of study, soft, hard"),
        (lambda: DistillConfig(temperature=0.0), "temperature must be > 0"),
        (lambda: DistillConfig(alpha=1.5), r"alpha must be in \[0, 1\], got 1.5"),
        (lambda: DistillConfig(teacher_share=-0.1), "teacher_share must be in"),
        (lambda: DistillConfig(fit=FitConfig(label_smoothing=0.1)), "label_smoothing must be 0"),
        (lambda: Augmentation(rotation=181), "rotation must be in"),
        (lambda: Augmentation(scale=1.0), "scale must be in"),
        (lambda: Augmentation(padding="wrap"), "padding must be zeros"),
        (lambda: recipe("imagenet", "small_cnn"), "data must be one of digits"),
    ],
)
def test_wrong_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_models_and_data_that_do_not_fit_are_refused(data):
    five = build_own("logistic_regression", in_chans=1, image_size=8, num_classes=5)
    with pytest.raises(ValueError, match="same classes, got 10 and 5"):
        distill(network(), five, data, DistillConfig(fit=QUICK))
    same = network()
    with pytest.raises(ValueError, match="two models"):
        distill(same, same, data, DistillConfig(fit=QUICK))
    with pytest.raises(ValueError, match="has 5 classes, and few has 10"):
        fit(five, data, QUICK)
    with pytest.raises(ValueError, match="few has no training split"):
        fit(network(), dataclasses.replace(data, train=None), QUICK)
    with pytest.raises(ValueError, match="no trainable weight"):
        fit(network().requires_grad_(False), data, QUICK)
    with pytest.raises(ValueError, match="unknown optimizer 'adamm': the nearest name is 'adam'"):
        fit(network(), data, dataclasses.replace(QUICK, optimizer="adamm"))
    with pytest.raises(ValueError, match="resuming needs out"):
        fit(network(), data, QUICK, resume=True)


def test_weight_decay_spares_norms_biases_and_tokens():
    model = micro()
    groups = build_optimizer(model, FitConfig(weight_decay=0.3)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert names == {
        name
        for name, p in model.named_parameters()
        if p.ndim > 1 and not name.endswith(("cls_token", "dist_token", "pos_embed"))
    }


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.5, 0.75, 0.75, 0.5, 0.25, 0.0669873]),
        ("step", [0.5, 0.75, 0.1, 0.1, 0.01, 0.01]),
        ("constant", [0.5, 0.75, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedule(schedule, expected):
    config = FitConfig(
        epochs=3, lr=1.0, schedule=schedule, warmup_epochs=1, decay_epochs=1, decay_rate=0.1
    )
    optimizer = build_optimizer(micro(), config)
    scheduler = build_scheduler(optimizer, config, steps_per_epoch=2)
    rates = []
    for update in range(1, 7):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step_update(update)
    assert rates == pytest.approx(expected, abs=1e-6)


def test_predict_reads_rows_in_order_and_puts_modes_back(data):
    model = network().train()
    model.module[1].eval()
    modes = [part.training for part in model.modules()]
    rows = torch.tensor([7, 3, 3, 150])
    logits = predict(model, data.train, rows, batch_size=3)
    assert [part.training for part in model.modules()] == modes
    expected = model.eval()(to_float(data.train.images(rows))).detach()
    torch.testing.assert_close(logits, expected)
    assert not logits.requires_grad
    assert predict(model, data.train).shape == (200, 10)
    assert predict(model, data.train, rows[:0]).shape == (0, 10)
    with pytest.raises(ValueError, match="batch_size must be >= 1"):
        predict(model, data.train, batch_size=0)
