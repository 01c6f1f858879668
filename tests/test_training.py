"""Training: the loop, resuming, distillation, augmentation and recipes."""

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn

from deitsec import ops
from deitsec.data import ArrayImageSet, DataSource, load_data, to_float
from deitsec.models import build_own, model_sha256, wrap
from deitsec.training import (
    Augmentation,
    DistillConfig,
    FitConfig,
    TrainingDiverged,
    augment,
    distill,
    fit,
    new_model,
    predict,
    recipe,
)
from deitsec.training.loop import STATE_FILE, split_rows
from deitsec.training.optimizer import build_optimizer, build_scheduler

MOVED = Augmentation(rotation=10, shift=0.1, scale=0.1, shear=0.1, flip=True)
QUICK = FitConfig(epochs=3, batch_size=32, lr=5e-3, validation=0.2, augmentation=MOVED)


class Unreadable:
    """A test split that nobody may read while training."""

    def __init__(self, images):
        self.labels = images.labels
        self.shape = images.shape

    def __len__(self):
        return len(self.labels)

    def images(self, rows):
        raise AssertionError("the test split was read")

    def feed(self, hasher):
        hasher.update(b"hashed without reading")


def subset(images, rows, labels=None):
    labels = images.labels[rows] if labels is None else labels
    return ArrayImageSet(pixels=images.images(rows), labels=labels)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", image_size=8)


@pytest.fixture(scope="module")
def data(digits):
    """200 digits of 8 x 8, and a test split that cannot be read."""
    train = subset(digits.train, torch.arange(200))
    return dataclasses.replace(digits, train=train, test=Unreadable(train), uri="few")


def relabelled(data, labels):
    train = subset(data.train, torch.arange(len(data.train)), labels)
    return dataclasses.replace(data, train=train)


def network(seed=0):
    """Convolution, batch norm and dropout: modes, layouts and random streams all show."""
    torch.manual_seed(seed)
    layers = (
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    module = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10))
    return wrap(module, mean=0.5, std=0.5, num_classes=10, in_chans=1)


def micro(seed=0):
    torch.manual_seed(seed)
    return build_own(
        "deit_micro", in_chans=1, image_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2
    )


def weights(model):
    return copy.deepcopy(model.state_dict())


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def without_seconds(result):
    return [dataclasses.replace(record, seconds=0.0) for record in result.history]


class InterruptError(KeyboardInterrupt):
    pass


def interrupt_at(epoch):
    def progress(event):
        if event.epoch == epoch:
            raise InterruptError

    return progress


# The loop


def test_fit_learns_digits(digits):
    model = build_own("logistic_regression", in_chans=1, image_size=8)
    fit(model, digits, FitConfig(epochs=15, batch_size=32, lr=2e-2, validation=0.0))
    accuracy = (predict(model, digits.test).argmax(1) == digits.test.labels).float().mean()
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


# Resuming


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"optimizer": "sgd", "schedule": "step", "decay_epochs": 1, "channels_last": True},
        {"validation": 0.0, "warmup_epochs": 1.5},
    ],
)
def test_resumed_equals_uninterrupted(data, tmp_path, changes):
    config = dataclasses.replace(QUICK, epochs=4, **changes)
    whole, parts = network(), network()
    expected = fit(whole, data, config)
    with pytest.raises(InterruptError):
        fit(parts, data, config, out=tmp_path, progress=interrupt_at(3))
    fresh = network(seed=9)
    result = fit(fresh, data, config, out=tmp_path, resume=True)
    assert_same_weights(weights(whole), weights(fresh))
    assert without_seconds(result) == without_seconds(expected)
    assert result.best_epoch == expected.best_epoch


def test_resuming_a_finished_run_takes_no_step(data, tmp_path):
    first, second = network(), network(seed=9)
    done = fit(first, data, QUICK, out=tmp_path)
    again = fit(second, data, QUICK, out=tmp_path, resume=True, progress=interrupt_at(1))
    assert again == done
    assert_same_weights(weights(first), weights(second))


def test_an_interrupted_write_leaves_the_last_state_whole(data, tmp_path, monkeypatch):
    with pytest.raises(InterruptError):
        fit(network(), data, QUICK, out=tmp_path, progress=interrupt_at(2))
    before = (tmp_path / STATE_FILE).read_bytes()

    def fsync(descriptor):
        raise InterruptError

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(InterruptError):
        fit(network(), data, QUICK, out=tmp_path, resume=True)
    assert [file.name for file in tmp_path.iterdir()] == [STATE_FILE]
    assert (tmp_path / STATE_FILE).read_bytes() == before


def test_another_recipe_is_refused_by_its_differences(data, tmp_path):
    fit(network(), data, QUICK, out=tmp_path)
    other = dataclasses.replace(QUICK, lr=0.25, augmentation=None)
    with pytest.raises(ValueError, match=r"lr was 0\.005 and is 0\.25") as caught:
        fit(network(), data, other, out=tmp_path, resume=True)
    assert "augmentation" in str(caught.value)


def test_other_data_or_another_teacher_is_refused(data, tmp_path):
    config = DistillConfig(fit=dataclasses.replace(QUICK, epochs=1))
    distill(network(), network(1), data, config, out=tmp_path)
    with pytest.raises(ValueError, match=r"teacher\.sha256 was"):
        distill(network(), network(2), data, config, out=tmp_path, resume=True)
    other = relabelled(data, data.train.labels.flip(0))
    with pytest.raises(ValueError, match=r"data\.sha256 was"):
        distill(network(), network(1), other, config, out=tmp_path, resume=True)


def test_a_state_file_is_not_overwritten_unasked(data, tmp_path):
    fit(network(), data, QUICK, out=tmp_path)
    with pytest.raises(ValueError, match="pass resume=True, or another folder"):
        fit(network(), data, QUICK, out=tmp_path)


def test_a_broken_state_file_is_one_clear_error(data, tmp_path):
    (tmp_path / STATE_FILE).write_bytes(b"not a state")
    with pytest.raises(ValueError, match="cannot be read as a training state"):
        fit(network(), data, QUICK, out=tmp_path, resume=True)


# Divergence


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


# Distillation


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


def test_distillation_resumes_too(data, teacher, tmp_path):
    config = DistillConfig(method="study", fit=dataclasses.replace(QUICK, epochs=4))
    whole, fresh = micro(), micro(3)
    distill(whole, teacher, data, config)
    with pytest.raises(InterruptError):
        distill(micro(), teacher, data, config, out=tmp_path, progress=interrupt_at(3))
    distill(fresh, teacher, data, config, out=tmp_path, resume=True)
    assert_same_weights(weights(whole), weights(fresh))


# Refusals


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
    with pytest.raises(ValueError, match="optimizer must be one of"):
        fit(network(), data, dataclasses.replace(QUICK, optimizer="adamm"))
    with pytest.raises(ValueError, match="needs out="):
        fit(network(), data, QUICK, resume=True)


# Optimizer and schedule


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


# Augmentation


def test_no_amount_moves_nothing():
    images = torch.rand(4, 3, 7, 9)
    torch.testing.assert_close(
        augment(images, Augmentation(), torch.Generator()), images, atol=1e-5, rtol=0
    )


def test_flip_mirrors_whole_images_and_about_half_of_them():
    images = torch.rand(400, 1, 5, 6)
    moved = augment(images, Augmentation(flip=True), torch.Generator().manual_seed(0))
    mirrored = ((moved - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-5).float()
    kept = ((moved - images).abs().amax((1, 2, 3)) < 1e-5).float()
    assert torch.equal(mirrored + kept, torch.ones(400))
    assert 0.4 < mirrored.mean().item() < 0.6


def mass(images):
    """Total, mean row, mean column and spread of rows and columns, in pixels."""
    rows, columns = torch.meshgrid(
        *(torch.arange(float(n)) for n in images.shape[-2:]), indexing="ij"
    )
    total = images.sum((1, 2, 3))
    moments = [(images[:, 0] * place).sum((1, 2)) / total for place in (rows, columns)]
    return total, *moments


def spot(rows=300, side=41):
    """A round spot in the middle: smooth, so that resampling is exact to a percent."""
    axis = torch.arange(float(side)) - side // 2
    square = axis[:, None] ** 2 + axis[None, :] ** 2
    return (-square / 18).exp().expand(rows, 1, side, side)


def test_shift_stays_within_its_share_and_reaches_it():
    moved = augment(spot(), Augmentation(shift=0.1), torch.Generator().manual_seed(0))
    _, row, column = mass(moved)
    for place in (row, column):
        distance = (place - 20).abs()
        assert distance.max() <= 4.1 + 0.02
        assert distance.max() > 3.8


def test_scale_changes_the_area_within_its_share():
    total, _, _ = mass(augment(spot(), Augmentation(scale=0.2), torch.Generator().manual_seed(0)))
    size = (total / mass(spot())[0]).sqrt()
    assert 0.79 < size.min() < 0.82
    assert 1.18 < size.max() < 1.21


@pytest.mark.parametrize(("height", "width"), [(41, 41), (31, 61)])
def test_rotation_turns_pixels_rigidly(height, width):
    # A spot 10 pixels right of the centre keeps its distance from it, whatever the aspect.
    rows = torch.arange(float(height)) - height // 2
    columns = torch.arange(float(width)) - width // 2 - 10
    images = (-(rows[:, None] ** 2 + columns[None, :] ** 2) / 4.5).exp()
    images = images.expand(200, 1, height, width)
    moved = augment(images, Augmentation(rotation=30), torch.Generator().manual_seed(0))
    _, row, column = mass(moved)
    row, column = row - height // 2, column - width // 2
    assert (row.hypot(column) - 10).abs().max() < 0.1
    angles = torch.atan2(row, column).rad2deg().abs()
    assert 28 < angles.max() < 30.5


def test_draws_belong_to_the_generator_alone():
    images = torch.rand(5, 1, 8, 8)
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    moved = augment(images, MOVED, first)
    assert torch.equal(moved, augment(images, MOVED, second))
    augment(images, Augmentation(), first)
    augment(images, MOVED, second)
    assert torch.equal(first.get_state(), second.get_state())


# Prediction


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


# Recipes


NAMES = (
    "small_cnn",
    "deit_micro",
    "mnist_dense",
    "logistic_regression",
    "papernot_mnist",
    "papernot_cifar10",
    "resnet18",
    "deit_tiny_distilled_patch16_224",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["digits", "mnist", "cifar10", (1, 28, 28), (3, 224, 224)])
@pytest.mark.parametrize("pretrained", [False, True])
def test_every_pair_has_a_recipe(name, where, pretrained):
    plan = recipe(where, name, pretrained=pretrained, seed=7)
    assert plan.fit.seed == 7
    assert (plan.distillation is not None) == (name == "deit_micro" or "distilled" in name)
    if plan.distillation is not None:
        assert plan.distillation.fit == plan.fit


@pytest.mark.parametrize(
    ("shape", "like"), [((1, 28, 28), "mnist"), ((1, 8, 8), "mnist"), ((3, 64, 64), "cifar10")]
)
def test_unknown_data_takes_the_recipe_of_data_alike(shape, like):
    assert recipe(shape, "small_cnn") == recipe(like, "small_cnn")


def test_a_source_is_known_by_its_name(digits):
    assert recipe(digits, "small_cnn") == recipe("digits", "small_cnn")


def test_new_model_fits_the_data_and_leaves_the_random_stream():
    source = DataSource(
        uri="few",
        name="few",
        train=None,
        test=ArrayImageSet(
            pixels=torch.zeros(3, 1, 28, 28, dtype=torch.uint8), labels=torch.arange(3)
        ),
        class_names=("a", "b", "c"),
    )
    stream = torch.get_rng_state()
    model = new_model("deit_micro", source, seed=4)
    assert torch.equal(torch.get_rng_state(), stream)
    assert (model.num_classes, model.in_chans, model.input_size) == (3, 1, (28, 28))
    assert model_sha256(model) == model_sha256(new_model("deit_micro", source, seed=4))
    assert model_sha256(model) != model_sha256(new_model("deit_micro", source, seed=5))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_default_recipe_teaches_digits():
    source = load_data("digits")
    accuracies = {}
    models = {name: new_model(name, source) for name in ("small_cnn", "deit_micro")}
    fit(models["small_cnn"], source, recipe(source, "small_cnn").fit)
    plan = recipe(source, "deit_micro").distillation
    distill(models["deit_micro"], models["small_cnn"], source, plan)
    for name, model in models.items():
        right = predict(model, source.test).argmax(1) == source.test.labels
        accuracies[name] = right.float().mean().item()
    assert accuracies["small_cnn"] >= 0.98
    assert accuracies["deit_micro"] >= 0.95
