"""The detector, the classifier that rejects, and the attack on both, on models that are known."""

import math

import pytest
import torch
from models_for_tests import Linear, conv
from torch import nn

from deitsec.attacks import CW, FGSM, PGD
from deitsec.defenses.detector import Detector, RejectingClassifier
from deitsec.defenses.detector_evaluation import roc
from deitsec.defenses.detector_training import alarm_threshold
from deitsec.defenses.evasion import Evasion
from deitsec.engine import Engine
from deitsec.types import IN_FLIGHT, InFlight

SHAPE = (1, 6, 6)


class Table(nn.Module):
    """A classifier and a detector whose answers are read from the image itself."""

    def __init__(self, constant=0.0):
        super().__init__()
        self.constant = constant

    def forward(self, images, logits=None):
        values = images.flatten(1)
        return values[:, :3] + self.constant if logits is None else values[:, 3]


def _images(rows=200):
    values = torch.randn(rows, 1, 2, 2, dtype=torch.float64)
    values[::7, 0, 0, 0] = 3.0  # some classes by far, some detected by far
    values[::5, 0, 1, 1] *= 10
    return values


@pytest.mark.parametrize("constant", [0.0, -100.0])
@pytest.mark.parametrize("weight", [0.01, 1.0, 30.0])
def test_the_last_class_wins_exactly_where_the_detector_says_so(constant, weight):
    table = Table(constant)
    defended = RejectingClassifier(table, table, weight=weight)
    images = _images()
    answers = defended(images)
    detected = images.flatten(1)[:, 3] > 0
    expected = torch.where(detected, 3, images.flatten(1)[:, :3].argmax(1))
    assert torch.equal(answers.argmax(1), expected)
    assert torch.equal(answers[:, :3], table(images))


def test_evasion_is_wrong_exactly_where_the_classifier_is_and_nothing_is_detected():
    table = Table()
    images, labels = _images(), torch.randint(0, 3, (200,))
    evasion = Evasion(RejectingClassifier(table, table), labels)
    predicted = evasion(images).argmax(1)
    wrong = images.flatten(1)[:, :3].argmax(1) != labels
    undetected = images.flatten(1)[:, 3] <= 0
    assert torch.equal(predicted != labels, wrong & undetected)
    named = images.flatten(1)[:, :3].argmax(1)
    assert torch.equal(predicted[wrong & undetected], named[wrong & undetected])
    assert 20 < int((wrong & undetected).sum()) < 180


def test_evasion_finds_the_label_of_a_row_by_its_sample_id_and_its_try():
    table = Table()
    images, labels = _images(6), torch.tensor([0, 1, 2, 0, 1, 2])
    ids = torch.tensor([70, 3, 1 << 40, 9, 0, 5])
    evasion = Evasion(RejectingClassifier(table, table), labels, ids)
    whole = evasion(images)
    order = torch.tensor([4, 2, 0])
    flight = InFlight(sample_ids=ids[order] + (5 << 48), seed=0, stream=1)
    token = IN_FLIGHT.set(flight)
    try:
        assert torch.equal(evasion(images[order]), whole[order])
        IN_FLIGHT.set(InFlight(sample_ids=torch.tensor([3, 8, 71]), seed=0, stream=1))
        unknown = evasion(images[order]).isnan().any(1)
    finally:
        IN_FLIGHT.reset(token)
    assert unknown.tolist() == [False, True, True]


def test_an_engine_refuses_rows_that_the_evasion_does_not_know():
    table = Table()
    evasion = Evasion(RejectingClassifier(table, table), torch.tensor([0, 1]))
    images = _images(2).clamp(0, 1)
    with pytest.raises(ValueError, match=r"NaN or inf for 1 of 2 clean images.*sample 7"):
        Engine(evasion).run(PGD(), images, torch.tensor([0, 1]), sample_ids=torch.tensor([0, 7]))


class Pixels(nn.Module):
    """Class 0 while x0 + x1 > 0.8, detected where x0 falls below 0.45."""

    def forward(self, images, logits=None):
        x = images.flatten(1)
        if logits is not None:
            return 0.45 - x[:, 0]
        margin = x[:, 0] + x[:, 1] - 0.8
        return torch.stack([margin / 2, -margin / 2], 1)


def _pixels(rows=4):
    image = torch.full((rows, 1, 1, 3), 0.5, dtype=torch.float64)
    return image, torch.zeros(rows, dtype=torch.int64)


@pytest.mark.parametrize("weight", [0.3, 1.0, 3.0])
@pytest.mark.parametrize(("eps", "falls"), [(0.14, False), (0.16, True), (0.3, True)])
def test_pgd_evades_exactly_where_a_point_of_the_ball_does(weight, eps, falls):
    """x0 may give 0.05 and x1 eps: together they have to be more than 0.2."""
    model = Pixels()
    images, labels = _pixels()
    straight = PGD(eps=eps, random_start=False)
    plain = Engine(model).run(straight, images, labels).adv
    assert (model(plain, 0) > 0).all()  # whoever does not know it is detected
    evasion = Evasion(RejectingClassifier(model, model, weight=weight), labels)
    attack = PGD(eps=eps, alpha=eps / 50, steps=200)
    result = Engine(evasion).run(attack, images, labels)
    assert result.success.tolist() == [falls] * 4
    if falls:
        assert (model(result.adv).argmax(1) == 1).all()
        assert (model(result.adv, 0) <= 0).all()


def test_cw_finds_the_nearest_image_that_evades():
    model = Pixels()
    images, labels = _pixels(2)
    evasion = Evasion(RejectingClassifier(model, model), labels)
    attack = CW(steps=400, lr=0.02, search_steps=8, initial_const=1.0)
    result = Engine(evasion).run(attack, images, labels)
    nearest = math.hypot(0.05, 0.15)  # without the detector it were hypot(0.1, 0.1)
    assert result.success.all()
    distances = result.distance("l2")
    assert (distances >= nearest - 1e-6).all()
    assert (distances <= 1.03 * nearest).all()


def test_a_targeted_attack_on_the_rejecting_classifier_evades_too():
    model = Pixels()
    images, labels = _pixels(2)
    defended = RejectingClassifier(model, model)
    attack = PGD(eps=0.3, alpha=0.006, steps=200)
    result = Engine(defended).run(attack, images, labels, torch.ones_like(labels))
    assert result.success.all()
    assert (model(result.adv, 0) <= 0).all()


def _detector(**options):
    torch.manual_seed(0)
    return Detector(SHAPE, 4, width=4, **options).eval()


def test_evidence_does_not_hang_on_which_class_is_which_nor_on_other_rows():
    detector = _detector()
    images, logits = torch.rand(5, *SHAPE), torch.randn(5, 4)
    found = detector.evidence(images, logits)
    torch.testing.assert_close(detector.evidence(images, logits[:, [2, 0, 3, 1]] + 7), found)
    torch.testing.assert_close(detector.evidence(images[2:3], logits[2:3]), found[2:3])
    detector.threshold.fill_(0.5)
    torch.testing.assert_close(detector(images, logits), found - 0.5)


def test_a_sure_answer_leaves_the_detector_a_gradient_in_the_logits():
    detector = _detector()
    logits = (1000 * torch.eye(4)).requires_grad_()
    (grad,) = torch.autograd.grad(detector.evidence(torch.rand(4, *SHAPE), logits).sum(), logits)
    assert grad.isfinite().all()
    assert (grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_the_threshold_is_exceeded_at_the_rate_for_which_it_is_set(rate):
    """Of n draws, the j-th smallest is exceeded by another with probability 1 - j / (n + 1)."""
    for n in (99, 120, 999):
        place = alarm_threshold(torch.arange(1.0, n + 1)[torch.randperm(n)], rate)
        assert 1 - place / (n + 1) <= rate + 1e-12
        assert 1 - (place - 1) / (n + 1) > rate - 1e-12


def test_too_few_clean_images_for_a_rate_are_refused():
    assert alarm_threshold(torch.arange(19.0), 0.05) == 18
    with pytest.raises(ValueError, match=r"18 clean images are too few .* at least 19"):
        alarm_threshold(torch.arange(18.0), 0.05)


def test_the_area_is_the_share_of_pairs_in_order():
    clean, adversarial = torch.randn(40), torch.randn(30).round(decimals=1) + 0.5
    adversarial[:5] = clean[:5]  # ties count half
    ahead = (adversarial[:, None] > clean).double() + 0.5 * (adversarial[:, None] == clean)
    area, curve = roc(clean, adversarial)
    assert area == pytest.approx(ahead.mean().item(), abs=1e-12)
    assert curve[0] == (0.0, 0.0)
    assert curve[-1] == (1.0, 1.0)
    for alarms, found in curve[1:-1]:
        assert any(
            (clean >= t).double().mean().item() == pytest.approx(alarms)
            and (adversarial >= t).double().mean().item() == pytest.approx(found)
            for t in torch.cat([clean, adversarial])
        )
    assert roc(clean, clean[:0]) == (None, [])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Detector((1, 6), 4), r"shape must be \(C, H, W\)"),
        (lambda: Detector((1, 0, 6), 4), "each at least 1"),
        (lambda: Detector(SHAPE, 1), "num_classes must be >= 2"),
        (lambda: Detector(SHAPE, 4, width=0), "width >= 1"),
        (
            lambda: _detector().evidence(torch.rand(2, 1, 8, 8), torch.zeros(2, 4)),
            r"takes images of \(1, 6, 6\) \(C, H, W\), got \(1, 8, 8\)",
        ),
        (
            lambda: _detector().evidence(torch.rand(2, *SHAPE), torch.zeros(2, 10)),
            r"takes \(2, 4\) logits, got \(2, 10\)",
        ),
        (lambda: RejectingClassifier(conv(), _detector(), weight=0), "weight must be > 0"),
        (lambda: Evasion(None, torch.zeros(0)), r"same N >= 1"),
        (lambda: Evasion(None, torch.zeros(2), torch.arange(3)), r"\(2,\) and \(3,\)"),
        (lambda: Evasion(None, torch.zeros(2), torch.tensor([1, 1])), "name each row once"),
    ],
)
def test_what_makes_no_sense_is_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def test_other_images_than_the_detectors_are_refused_by_the_attack_too():
    defended = RejectingClassifier(Linear(torch.ones(8, 8)), Detector(SHAPE, 2)).eval()
    images, labels = torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="the detector takes images of"):
        Engine(Evasion(defended, labels)).run(FGSM(), images, labels)
