"""Each method trains on what its paper says, and a run is judged as an attacker would."""

import dataclasses
import json

import pytest
import torch
from torch.nn.functional import cross_entropy, softmax
from training_for_tests import QUICK, assert_same_weights, few_digits, network, relabelled, weights

from deitsec.attacks import parse_spec
from deitsec.data import load_data, to_float
from deitsec.engine import run
from deitsec.models import build_own
from deitsec.training import (
    AdversarialConfig,
    Augmentation,
    FitConfig,
    adversarial_fit,
    adversarial_recipe,
    fit,
    new_model,
    recipe,
)
from deitsec.training import watch as watching
from deitsec.training.loop import split_rows
from deitsec.verification.suite import suite_eps

EPS = 0.1
# One step of all rows, unmoved: its loss is that of the weights at the start.
STEP = FitConfig(epochs=1, batch_size=200, validation=0.0)
PLAIN = dataclasses.replace(QUICK, augmentation=None)


@pytest.fixture(scope="module")
def data():
    return few_digits()


@pytest.fixture(scope="module")
def whole():
    """The few digits with a test split that can be read."""
    few = few_digits()
    return dataclasses.replace(few, test=few.train)


def linear(seed=0):
    torch.manual_seed(seed)
    return build_own("logistic_regression", in_chans=1, image_size=8)


def against(method="pgd", **changes):
    return AdversarialConfig(
        **{"method": method, "eps": EPS, "fit": PLAIN, "curve_every": None, **changes}
    )


def climb(model, images, labels, start, alpha, steps):
    """Madry et al., eq. 2.1, a line at a time."""
    x = start
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(model(x), labels, reduction="sum"), x)
        x = (x.detach() + alpha * grad.sign()).clamp(images - EPS, images + EPS).clamp(0, 1)
    return x


def first_loss(model, data, config):
    return adversarial_fit(model, data, config).history[0].train_loss


def test_mixture_is_goodfellows_loss(data):
    model = linear()
    images, labels = to_float(data.train.pixels), data.train.labels
    adv = climb(model, images, labels, images, EPS, 1)
    clean, attacked = cross_entropy(model(images), labels), cross_entropy(model(adv), labels)
    expected = 0.3 * clean + 0.7 * attacked
    assert attacked > clean + 0.05
    found = first_loss(model, data, against("mixture", clean_weight=0.3, fit=STEP))
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_pgd_trains_on_attacked_images_alone(data):
    # enough steps end in the corner of a linear model's ball, or nearly, whatever the start
    model = linear()
    images, labels = to_float(data.train.pixels), data.train.labels
    adv = climb(model, images, labels, images, EPS / 4, 40)
    expected = cross_entropy(model(adv), labels).item()
    found = first_loss(model, data, against("pgd", steps=40, alpha=EPS / 4, fit=STEP))
    assert found == pytest.approx(expected, rel=1e-3)


def test_trades_weighs_the_divergence_by_beta(data):
    images, labels = to_float(data.train.pixels), data.train.labels
    model = linear()
    losses = [
        first_loss(linear(), data, against("trades", beta=beta, fit=STEP)) for beta in (1.0, 3.0)
    ]
    clean = cross_entropy(model(images), labels).item()
    divergence = (losses[1] - losses[0]) / 2
    assert losses[0] - divergence == pytest.approx(clean, rel=1e-5)
    # the divergence is what a plain ascent from near the clean image finds
    x, p = (images + 1e-3 * torch.randn_like(images)).clamp(0, 1), softmax(model(images), 1)
    for _ in range(10):
        x = x.detach().requires_grad_()
        moved = (p.detach() * (p.detach().log() - model(x).log_softmax(1))).sum()
        (grad,) = torch.autograd.grad(moved, x)
        x = (x.detach() + EPS / 4 * grad.sign()).clamp(images - EPS, images + EPS).clamp(0, 1)
    expected = (p * (p.log() - model(x).log_softmax(1))).sum(1).mean().item()
    assert divergence == pytest.approx(expected, rel=2e-2)


def test_both_sides_of_the_divergence_learn_in_trades(data):
    # with a huge beta and the answers of the clean side held, the weights would go elsewhere
    model, config = linear(), against("trades", beta=1e6, fit=STEP)
    adversarial_fit(model, data, config)
    with torch.no_grad():
        before, after = (m(to_float(data.train.pixels)).softmax(1) for m in (linear(), model))
    uniform = torch.full_like(before, 0.1)
    assert (after - uniform).abs().mean() < (before - uniform).abs().mean()


def test_fast_takes_one_step_from_a_random_start(data):
    # on a linear model the step of 1.25 eps ends in the corner from four starts of five
    model = linear()
    images, labels = to_float(data.train.pixels), data.train.labels
    corner = climb(model, images, labels, images, EPS, 1)
    bounds = [cross_entropy(model(x), labels).item() for x in (images, corner)]
    found = first_loss(model, data, against("fast", fit=STEP, overfit_gap=None))
    assert bounds[0] < found < bounds[1]
    longer = first_loss(linear(), data, against("fast", alpha=2 * EPS, fit=STEP, overfit_gap=None))
    assert longer == pytest.approx(bounds[1], rel=1e-4)


def test_free_is_the_papers_algorithm(data):
    """Algorithm 1 of arXiv:1904.12843, written out: m updates a batch, delta goes on."""
    plain = FitConfig(
        epochs=2, batch_size=100, optimizer="momentum", lr=0.1, momentum=0.0, weight_decay=0.0,
        schedule="constant", clip_grad=None, validation=0.0,
    )  # fmt: skip
    model = linear()
    adversarial_fit(model, data, against("free", replays=3, fit=plain))
    expected, delta = linear(), torch.zeros(100, 1, 8, 8)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(plain.seed + 1)
    for _ in range(plain.epochs):
        order = torch.randperm(200, generator=generator)
        for rows in order.split(100):
            images, labels = to_float(data.train.images(rows)), data.train.labels[rows]
            for _ in range(3):
                x = (images + delta).clamp(0, 1).requires_grad_()
                optimizer.zero_grad()
                cross_entropy(expected(x), labels).backward()
                optimizer.step()
                moved = (x.detach() + EPS * x.grad.sign() - images).clamp(-EPS, EPS)
                delta = (images + moved).clamp(0, 1) - images
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=2e-6)


def test_clean_weight_one_is_training_on_labels(data):
    plain, mixture = linear(), linear()
    fit(plain, data, PLAIN)
    adversarial_fit(mixture, data, against("mixture", clean_weight=1.0))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(mixture.state_dict()[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["mixture", "pgd", "trades", "fast", "free"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_method_learns_in_both_norms_and_does_not_read_the_test_split(data, method, norm):
    config = against(method, norm=norm, eps=EPS if norm == "linf" else 1.0, overfit_gap=None)
    result = adversarial_fit(network(), data, config)
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert json.loads(json.dumps(result.config)) == result.config
    assert result.config["attack"]["method"] == method


def test_the_epoch_is_picked_by_the_accuracy_under_attack(data):
    model = network()
    config = against(fit=dataclasses.replace(PLAIN, epochs=5, lr=3e-2))
    result = adversarial_fit(model, data, config)
    _, rows = split_rows(data.train.labels, config.fit)
    pgd = watching.Watch(config, rows, data.train)._pgd
    found = watching.score(model, data.train, rows, pgd)
    assert found.accuracy == result.best.validation_accuracy
    assert found.accuracy == max(record.validation_accuracy for record in result.history)
    assert found.accuracy < watching.score(model, data.train, rows).accuracy


def test_curves_are_measured_and_decide_nothing(whole):
    other = dataclasses.replace(whole, test=relabelled(whole, whole.train.labels.flip(0)).train)
    runs = []
    for source in (whole, other):
        model = network()
        result = adversarial_fit(model, source, against(curve_every=2, curve_rows=30))
        runs.append((weights(model), [record.measured for record in result.history]))
    assert_same_weights(runs[0][0], runs[1][0])
    names = {f"{s}_{kind}" for s in ("train", "test") for kind in ("accuracy", "robust_accuracy")}
    for _, measured in runs:
        assert [set(point) for point in measured] == [set(), names, names]  # 2, and the last
    assert runs[0][1][1]["train_accuracy"] == runs[1][1][1]["train_accuracy"]
    assert runs[0][1][1]["test_accuracy"] != runs[1][1][1]["test_accuracy"]


def overfitted(monkeypatch, pgd, fgsm):
    """Let the watch find these accuracies, epoch after epoch."""
    found = {"uniform": iter(pgd), "clean": iter(fgsm)}

    def score(model, images, rows, attack):
        return watching.Score(accuracy=next(found[attack.start]), loss=1.0)

    monkeypatch.setattr(watching, "score", score)


@pytest.mark.parametrize(
    ("pgd", "fgsm", "ends", "best"),
    [
        ((0.4, 0.5, 0.1, 0.6), (0.5, 0.6, 0.7, 0.7), 3, 2),  # collapsed under PGD alone
        ((0.4, 0.5, 0.1, 0.6), (0.5, 0.6, 0.2, 0.7), 4, 4),  # a bad epoch under both
        ((0.4, 0.5, 0.6, 0.7), (0.7, 0.8, 0.9, 0.9), 4, 4),  # a gap, but still learning
        ((0.4, 0.4, 0.3, 0.3), (0.7, 0.7, 0.7, 0.7), 4, 1),  # an ordinary gap that stays
        ((0.4, 0.5, 0.2, 0.6), (0.5, 0.6, 0.7, 0.7), 3, 2),  # fell by more than the gap
    ],
)
def test_catastrophic_overfitting_ends_the_run(monkeypatch, data, pgd, fgsm, ends, best):
    overfitted(monkeypatch, pgd, fgsm)
    config = against("fast", fit=dataclasses.replace(PLAIN, epochs=4, schedule="constant"))
    model, shorter = network(), network()
    result = adversarial_fit(model, data, config)
    assert (len(result.history), result.stopped_early) == (ends, ends < 4)
    notes = [record.note for record in result.history]
    assert notes[:-1] == [None] * (ends - 1)
    if ends == 4:
        assert notes[-1] is None
        return
    assert "catastrophic overfitting" in notes[-1]
    assert f"{fgsm[ends - 1]:.1%} under FGSM on 40 held-out" in notes[-1]
    kept = dataclasses.replace(config.fit, epochs=ends - 1)
    monkeypatch.undo()
    unwatched = against("fast", fit=kept, overfit_gap=None)
    overfitted(monkeypatch, pgd, fgsm)
    adversarial_fit(shorter, data, unwatched)
    assert result.best_epoch == best
    assert_same_weights(weights(shorter), weights(model))


NOISY = FitConfig(augmentation=Augmentation(noise=0.1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "tradez"}, "got 'tradez': the nearest name is 'trades'"),
        ({"eps": 0.0}, "eps must be > 0"),
        ({"eps": -0.1}, "eps must be > 0"),
        ({"eps": float("nan")}, "eps must be > 0"),
        ({"eps": 8.0}, r"eps must be in \(0, 1\] on images in \[0, 1\], got 8.0"),
        ({"alpha": 0.0}, "alpha must be > 0"),
        ({"steps": 0}, "steps must be >= 1"),
        ({"method": "fast", "steps": 7}, "steps must be 1 for fast"),
        ({"method": "free", "replays": 0}, "replays must be >= 1, got 0"),
        ({"method": "mixture", "clean_weight": 1.5}, r"clean_weight must be in \[0, 1\], got 1.5"),
        ({"method": "mixture", "clean_weight": -0.1}, r"clean_weight must be in \[0, 1\]"),
        ({"method": "trades", "beta": 0.0}, "beta must be > 0"),
        ({"norm": "l1"}, "norm must be linf or l2, got 'l1'"),
        ({"curve_every": 0}, "curve_every must be >= 1"),
        ({"curve_rows": 0}, "curve_rows must be >= 1"),
        ({"watch_steps": 0}, "watch_steps must be >= 1"),
        ({"fit": NOISY}, r"noise must be 0 in training against attacks, .* got 0.1"),
        ({"overfit_gap": 0.0}, r"overfit_gap must be in \(0, 1\]"),
        ({"method": "fast", "fit": STEP}, r"fast watches itself on validation rows"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        against(**changes)


def test_an_l2_radius_may_be_larger_than_one():
    assert against(norm="l2", eps=3.0).step_size == pytest.approx(3.0 * 2.5 / 7)


@pytest.mark.parametrize(
    ("method", "steps", "alpha"),
    [
        ("mixture", 1, 1),
        ("pgd", 7, 2.5 / 7),
        ("trades", 10, 0.25),
        ("fast", 1, 1.25),
        ("free", 1, 1),
    ],
)
def test_the_papers_attacks_are_the_defaults(method, steps, alpha):
    config = against(method)
    assert config.num_steps == steps
    assert config.step_size == pytest.approx(alpha * EPS)


@pytest.mark.parametrize("method", ["mixture", "pgd", "trades", "fast", "free"])
@pytest.mark.parametrize("where", ["digits", "mnist", "cifar10", (3, 224, 224)])
@pytest.mark.parametrize("pretrained", [False, True])
def test_every_method_has_a_recipe(method, where, pretrained):
    plan = adversarial_recipe(
        where, "small_cnn", method=method, eps=0.1, pretrained=pretrained, seed=7
    )
    assert (plan.method, plan.eps, plan.fit.seed, plan.fit.label_smoothing) == (method, 0.1, 7, 0.0)


def test_a_recipe_of_no_method_names_the_nearest():
    with pytest.raises(ValueError, match="nearest name is 'free'"):
        adversarial_recipe("digits", "small_cnn", method="frei", eps=0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_digits_withstand_what_undefended_ones_fall_to():
    source = load_data("digits")
    eps = suite_eps(source)
    rows = torch.arange(0, 1000, 4)
    images, labels = to_float(source.test.images(rows)), source.test.labels[rows]
    robust = {}
    for name in ("undefended", "pgd"):
        model = new_model("small_cnn", source)
        if name == "undefended":
            fit(model, source, recipe(source, "small_cnn").fit)
        else:
            plan = adversarial_recipe(source, "small_cnn", eps=eps)
            adversarial_fit(model, source, dataclasses.replace(plan, curve_every=None))
        attacked = run(parse_spec("pgd:steps=20", eps=eps), model, images, labels)
        robust[name] = attacked.robust_accuracy
        assert attacked.clean_correct.double().mean() > 0.9
    assert robust["undefended"] < 0.1
    assert robust["pgd"] >= 0.6
