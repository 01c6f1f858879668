"""The substitute attack: its augmentation against closed forms, its budget, and what it learns."""

import re

import pytest
import torch
from models_for_tests import Counting
from torch import nn
from training_for_tests import digits

from deitsec.data import balanced_rows, to_float
from deitsec.defenses.substitute import (
    SubstituteAttack,
    label_direction,
    reservoir_rows,
    train_substitute,
)
from deitsec.models import LabelsOnly, ScoresOnly, build_own
from deitsec.training import FitConfig, fit
from deitsec.training.recipes import new_model

FIT = FitConfig(epochs=2, batch_size=32, lr=5e-3, weight_decay=0.0, validation=0.0, threads=1)
ONE = FitConfig(epochs=1, batch_size=32, lr=1e-6, weight_decay=0.0, validation=0.0, threads=1)


def _logistic(seed=0):
    return new_model("logistic_regression", digits(), seed=seed).eval()


def _first(count=2):
    data = digits()
    return data.test.images(balanced_rows(data.test.labels, count, 10))


def _exact_direction(model, pixels, labels):
    """In fp64: the sign of dF_y / dx = F_y (W_y - sum_k F_k W_k) / std."""
    layer = model.module[1]
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    x = (pixels.double() / 255).flatten(1)
    probability = ((x - 0.5) / 0.5 @ weight.T + bias).softmax(1)
    slope = weight[labels] - probability @ weight
    return slope.reshape(pixels.shape).sign(), slope.abs().min()


def test_the_direction_is_the_exact_sign_of_a_linear_models_gradient():
    model, pixels = _logistic(), _first()
    labels = torch.randint(0, 10, (len(pixels),))
    expected, smallest = _exact_direction(model, pixels, labels)
    assert smallest > 1e-7  # no sign hangs on rounding
    found = label_direction(model, to_float(pixels), labels)
    assert torch.equal(found.double(), expected)


def test_a_sure_label_still_has_a_direction():
    """The probability is 1 in fp32 and its derivative underflows: that is 0 as computed."""
    model, pixels = _logistic(), _first()
    with torch.no_grad():
        model.module[1].weight.mul_(300)
        labels = model(to_float(pixels)).argmax(1)
    layer = model.module[1]
    logits = model(to_float(pixels)).detach().double()
    others = logits.scatter(1, labels[:, None], -torch.inf).softmax(1)
    slope = layer.weight.detach().double()[labels] - others @ layer.weight.detach().double()
    expected = slope.reshape(pixels.shape).sign()
    probability = model(to_float(pixels)).softmax(1).gather(1, labels[:, None])
    assert (probability > 1 - 1e-6).any()
    found = label_direction(model, to_float(pixels), labels)
    assert (found != 0).all()
    assert (found.double() == expected).double().mean() > 0.995  # fp32 logits of thousands


def test_the_model_is_left_as_it_was():
    model = new_model("small_cnn", digits()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    label_direction(model, to_float(_first()), torch.zeros(20, dtype=torch.int64))
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class _Frozen(nn.Module):
    """An oracle by a fixed rule: the class is read off the brightness."""

    def forward(self, images):
        return (images.flatten(1).mean(1) * 25).long().clamp(0, 9)


def test_each_round_adds_the_image_moved_along_the_sign_and_asks_about_it_alone():
    """With a substitute that hardly learns, every round can be computed beforehand."""
    pixels, substitute = _first(), _logistic()
    inside = Counting(_Frozen())
    oracle = LabelsOnly(inside, num_classes=10)
    attack = SubstituteAttack(rounds=3, step=10 / 255, period=2, fit=ONE)
    found = train_substitute(oracle, substitute, pixels, attack)
    assert found.queries == oracle.queries == sum(inside.sizes) == 20 * 2**3
    assert [r.images for r in found.rounds] == [20, 40, 80, 160]
    assert [r.queries for r in found.rounds] == [20, 40, 80, 160]
    assert [attack.levels(number) for number in range(5)] == [10, 10, -10, -10, 10]
    assert torch.equal(found.labels, _Frozen()(to_float(found.pixels)))
    for number, sign in enumerate((1, 1, -1)):
        size = 20 * 2**number
        old, new = found.pixels[:size], found.pixels[size : 2 * size]
        direction, _ = _exact_direction(substitute, old, found.labels[:size])
        expected = (old.double() + sign * 10 * direction).clamp(0, 255)
        assert (new == expected).double().mean() > 0.999  # the weights moved by 1e-6 since
    assert not found.stopped


def test_a_reservoir_holds_the_growth_and_each_row_is_equally_likely():
    attack = SubstituteAttack(rounds=4, reservoir=7, full_rounds=1, fit=ONE)
    oracle = LabelsOnly(_Frozen(), num_classes=10)
    found = train_substitute(oracle, _logistic(), _first(), attack)
    # n 2^sigma + kappa (rho - sigma), section 5.3 of the paper
    assert found.queries == 20 * 2 + 7 * 3 == len(found.labels)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(12)
    for _ in range(3000):
        rows = reservoir_rows(12, 4, generator)
        assert len(set(rows.tolist())) == 4
        counts[rows] += 1
    # each row 1000 times: a standard deviation is 26
    assert (counts - 1000).abs().max() < 4 * 26
    assert reservoir_rows(3, 9, generator).tolist() == [0, 1, 2]


@pytest.mark.parametrize("budget", [20, 33, 40, 100])
def test_the_budget_is_kept_to_the_row(budget):
    inside = Counting(_Frozen())
    oracle = LabelsOnly(inside, num_classes=10, budget=budget)
    attack = SubstituteAttack(rounds=9, fit=ONE)
    found = train_substitute(oracle, _logistic(), _first(), attack)
    assert found.queries == sum(inside.sizes) == budget
    assert found.stopped
    assert len(found.pixels) == budget


@pytest.mark.parametrize(("budget", "stopped"), [(39, True), (40, False)])
def test_a_budget_that_fits_exactly_stops_nothing(budget, stopped):
    oracle = LabelsOnly(_Frozen(), num_classes=10, budget=budget)
    attack = SubstituteAttack(rounds=1, fit=ONE)
    assert train_substitute(oracle, _logistic(), _first(), attack).stopped is stopped


def test_what_others_asked_before_is_not_counted_as_the_attacks():
    oracle = ScoresOnly(_logistic(), num_classes=10, budget=100)
    oracle(to_float(_first()))
    found = train_substitute(oracle, _logistic(1), _first(), SubstituteAttack(rounds=1, fit=ONE))
    assert (found.queries, oracle.queries) == (40, 60)


def test_a_substitute_comes_to_answer_as_the_oracle_does_and_the_seed_decides():
    data = digits()
    model = new_model("mnist_dense", data, seed=0)
    recipe = FitConfig(epochs=12, batch_size=32, lr=4e-3, validation=0.0, threads=1)
    fit(model, data, recipe)
    held = to_float(data.test.images(torch.arange(500, 1000)))
    with torch.no_grad():
        answers = model.eval()(held).argmax(1)

    def watch(number, substitute):
        with torch.no_grad():
            return (substitute.eval()(held).argmax(1) == answers).double().mean().item()

    rows = balanced_rows(data.test.labels[:500], 6, 10)
    results = []
    for _ in range(2):
        substitute = new_model("mnist_dense", data, seed=1)
        oracle = LabelsOnly(model, num_classes=10)
        attack = SubstituteAttack(rounds=2, fit=FitConfig(**_fields(FIT, epochs=6)))
        found = train_substitute(oracle, substitute, data.test.images(rows), attack, watch=watch)
        results.append((found, substitute))
    (one, first), (two, second) = results
    assert one.rounds[0].watched < one.rounds[-1].watched
    assert one.rounds[-1].watched > 0.7
    assert one.rounds == two.rounds
    assert torch.equal(one.pixels, two.pixels)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def _fields(config, **changes):
    return {name: getattr(config, name) for name in config.__dataclass_fields__} | changes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SubstituteAttack(rounds=-1), "rounds must be >= 0, got -1"),
        (lambda: SubstituteAttack(period=0), "period must be >= 1, got 0"),
        (lambda: SubstituteAttack(step=0.0), "step must be a level of 8 bits up to 1, got 0"),
        (lambda: SubstituteAttack(step=1.2), "step must be a level of 8 bits up to 1, got 1.2"),
        (lambda: SubstituteAttack(reservoir=0), "reservoir must be >= 1, got 0"),
        (
            lambda: train_substitute(_logistic(), _logistic(), _first(), SubstituteAttack()),
            "oracle must be LabelsOnly(...) or ScoresOnly(...)",
        ),
        (
            lambda: train_substitute(
                LabelsOnly(_Frozen(), num_classes=5), _logistic(), _first(), SubstituteAttack()
            ),
            "same classes, got 5 and 10",
        ),
        (
            lambda: train_substitute(
                LabelsOnly(_Frozen(), num_classes=10, budget=19),
                _logistic(),
                _first(),
                SubstituteAttack(),
            ),
            "has 19 queries left, fewer than the 20 first images",
        ),
        (
            lambda: train_substitute(
                LabelsOnly(_Frozen(), num_classes=10),
                _logistic(),
                _first()[:0],
                SubstituteAttack(),
            ),
            "N >= 1, got (0, 1, 8, 8)",
        ),
        (
            lambda: train_substitute(
                LabelsOnly(_Frozen(), num_classes=10),
                build_own("logistic_regression", in_chans=1, image_size=8),
                torch.rand(3, 1, 8, 8),
                SubstituteAttack(),
            ),
            "pixels must be torch.uint8",
        ),
    ],
)
def test_bad_requests_are_refused_before_anything_is_asked(make, words):
    with pytest.raises((ValueError, TypeError), match=re.escape(words)) as caught:
        make()
    assert "\n" not in str(caught.value)
