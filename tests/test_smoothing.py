"""Randomised smoothing against the linear model, whose smoothed answers are known."""

import math

import numpy as np
import pytest
import torch
from models_for_tests import Counting, Linear, mlp
from scipy.stats import binom, binomtest, norm
from torch import nn

from deitsec.attacks import PGD, PGDL2
from deitsec.defenses.binomial import lower_bound, tie_p_value
from deitsec.defenses.certified_curve import average_certified_radius, certified_accuracy
from deitsec.defenses.smoothed_attack import attack_smoothed
from deitsec.defenses.smoothing import ABSTAIN, Certificates, SmoothedClassifier
from deitsec.models import ScoresOnly

SIGMA = 0.25
WEIGHT = torch.tensor([[0.6, -0.8], [1.2, 0.4]], dtype=torch.float64)


def linear(margin, rows=1):
    """A linear model, and copies of an image whose distance from the boundary is `margin`."""
    images = torch.full((rows, 1, 2, 2), 0.5, dtype=torch.float64)
    length = WEIGHT.norm()
    bias = float(margin * length - WEIGHT.sum() * 0.5)
    return Linear(WEIGHT, bias), images


@pytest.mark.parametrize("trials", [1, 7, 100, 100_000])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
def test_the_lower_bound_is_scipys(trials, alpha):
    counts = np.unique(np.linspace(0, trials, 9).astype(np.int64))
    # two-sided at 1 - 2 alpha: the lower end is the one-sided bound at alpha
    expected = [
        binomtest(int(k), trials).proportion_ci(1 - 2 * alpha, method="exact").low
        if alpha < 0.5
        else (0.0 if k == 0 else _bisected(int(k), trials, alpha))
        for k in counts
    ]
    np.testing.assert_allclose(lower_bound(counts, trials, alpha), expected, rtol=1e-9, atol=0)


def _bisected(k, n, alpha):
    """The probability at which k successes or more are seen with probability alpha."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if binom.sf(k - 1, n, middle) < alpha else (low, middle)
    return low


def test_the_lower_bound_solves_its_equation_in_a_plain_sum():
    for n, k, alpha in [(20, 17, 0.05), (50, 50, 0.001), (30, 1, 0.01)]:
        p = float(lower_bound(np.array([k]), n, alpha)[0])
        tail = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
        assert tail == pytest.approx(alpha, rel=1e-9)


def test_all_votes_bound_the_radius_by_the_nth_root_of_alpha():
    model, images = linear(100.0)
    found = SmoothedClassifier(model, SIGMA).certify(images, n0=5, n=300, alpha=0.001)
    assert found.votes.tolist() == [300]
    assert found.radii.item() == pytest.approx(SIGMA * norm.ppf(0.001 ** (1 / 300)), rel=1e-12)


def test_the_test_of_a_tie_is_scipys():
    pairs = np.array([[0, 0], [3, 3], [10, 4], [4, 10], [60, 40], [1000, 0], [501, 499]])
    expected = [binomtest(int(a), int(a + b)).pvalue if a + b else 1.0 for a, b in pairs]
    np.testing.assert_allclose(tie_p_value(pairs[:, 0], pairs[:, 1]), expected, rtol=1e-9)


@pytest.mark.parametrize("margin", [0.05, 0.3])
def test_votes_are_binomial_with_the_probability_of_the_linear_model(margin):
    model, images = linear(margin, rows=400)
    votes = SmoothedClassifier(model, SIGMA).predict(images, n=200).counts
    p = norm.cdf(margin / SIGMA)
    assert (votes.sum(1) == 200).all()
    total = int(votes[:, 0].sum())
    assert binomtest(total, 400 * 200, p).pvalue > 1e-3
    # as spread out as independent rows are: chi-square with 400 degrees, five deviations
    spread = float(((votes[:, 0] - 200 * p) ** 2 / (200 * p * (1 - p))).sum())
    assert abs(spread - 400) < 5 * math.sqrt(2 * 400)


@pytest.mark.parametrize("alpha", [0.02, 0.2])
def test_a_certificate_exceeds_the_true_radius_as_rarely_as_alpha_says(alpha):
    margin, trials = 0.3, 2000  # the true radius of g is the distance from the boundary
    model, images = linear(margin, rows=trials)
    found = SmoothedClassifier(model, SIGMA).certify(images, n0=20, n=400, alpha=alpha)
    wrong = (found.radii > margin) | (found.classes == 1)
    assert int(wrong.sum()) <= binom.ppf(0.999, trials, alpha)
    # and not by certifying nothing: the bound fails nearly as often as it may
    assert int(wrong.sum()) >= binom.ppf(0.001, trials, 0.5 * alpha)


def test_each_radius_is_the_formula_of_its_bound():
    model, images = linear(0.2, rows=50)
    found = SmoothedClassifier(model, SIGMA).certify(images, n0=9, n=150, alpha=0.01)
    for votes, p, radius, name in zip(
        found.votes.tolist(),
        found.p_lower.tolist(),
        found.radii.tolist(),
        found.classes,
        strict=True,
    ):
        assert p == pytest.approx(float(lower_bound(np.array([votes]), 150, 0.01)[0]), rel=1e-12)
        assert radius == pytest.approx(SIGMA * max(0.0, norm.ppf(p)), rel=1e-9)
        assert (name == ABSTAIN) == (p <= 0.5)


@pytest.mark.parametrize("margin", [0.0, 0.04])
def test_it_abstains_as_often_as_the_binomial_says(margin):
    rows, n, alpha = 2000, 100, 0.05
    model, images = linear(margin, rows=rows)
    smoothed = SmoothedClassifier(model, SIGMA)
    p, k = norm.cdf(margin / SIGMA), np.arange(n + 1)
    for found, abstains in (
        (smoothed.predict(images, n, alpha), tie_p_value(k, n - k) > alpha),
        (smoothed.certify(images, 50, n, alpha), None),
    ):
        rate = (found.classes == ABSTAIN).double().mean().item()
        if abstains is None:
            if margin == 0:  # whichever class was picked, it is as likely as the other
                assert rate >= 1 - alpha - 4 * math.sqrt(alpha / rows)
            continue
        expected = float(binom.pmf(k, n, p)[abstains].sum())
        assert abs(rate - expected) < 4 * math.sqrt(expected * (1 - expected) / rows)


@pytest.mark.parametrize("batch_size", [1, 7, 64, None])
def test_votes_do_not_depend_on_batches_or_order(batch_size):
    model = mlp()
    images = torch.rand(9, 1, 6, 6, dtype=torch.float64)
    whole = SmoothedClassifier(model, 0.5, batch_size=1000).predict(images, n=33).counts
    order = torch.randperm(9)
    mixed = SmoothedClassifier(model, 0.5, batch_size=batch_size)
    found = mixed.predict(images[order], n=33, sample_ids=order).counts
    assert torch.equal(found, whole[order])
    assert (whole.max(1).values < 33).any()
    fewer = mixed.predict(images, n=20).counts  # the first copies are the same
    assert (fewer <= whole).all()


class Recording(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return images.flatten(1)[:, :2]


def test_the_class_is_picked_by_other_noise_than_is_counted_and_each_copy_has_its_own():
    model = Recording()
    smoothed = SmoothedClassifier(model, 0.1, batch_size=16)
    images = torch.full((3, 1, 2, 2), 0.5)
    smoothed.certify(images, n0=40, n=40, alpha=0.1)
    smoothed.predict(images, n=40)
    SmoothedClassifier(model, 0.1, seed=1).predict(images, n=40)
    copies = torch.cat(model.seen).flatten(1)
    assert len(copies) == 4 * 3 * 40
    assert len(copies.unique(dim=0)) == len(copies)
    assert (copies.min() < 0.3) & (copies.max() > 0.7)


def test_noise_is_not_clipped_to_the_range_of_images():
    model = Recording()
    SmoothedClassifier(model, 0.5).predict(torch.zeros(1, 1, 4, 4), n=200)
    assert torch.cat(model.seen).min() < -1


def test_many_copies_of_one_image_go_through_in_bounded_batches():
    counting = Counting(linear(0.3)[0])
    told = []
    smoothed = SmoothedClassifier(counting, SIGMA, batch_size=1000)
    found = smoothed.certify(
        linear(0.3)[1], n=100_000, progress=lambda done, total: told.append((done, total))
    )
    assert max(counting.sizes) <= 1000
    assert found.samples == 100_000
    assert told[-1] == (100_100, 100_100)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    p = norm.cdf(0.3 / SIGMA)
    votes = 100_000 * p + 4 * math.sqrt(100_000 * p * (1 - p)) * np.array([-1, 1])
    low, high = SIGMA * norm.ppf(lower_bound(votes.astype(int), 100_000, 0.001))
    assert low < found.radii.item() < high


def test_the_module_is_the_log_of_the_mean_softmax():
    model = mlp()
    images = torch.rand(4, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    smoothed = SmoothedClassifier(model, 0.3, num_samples=5)
    expected = smoothed.noisy.answers(images).softmax(-1).mean(0).log()
    found = smoothed(images)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4, dtype=torch.float64))
    grads = [torch.autograd.grad(out[:, 1].sum(), images)[0] for out in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", ["softmax", "logits"])
def test_no_attack_turns_the_linear_model_within_its_radius_and_any_beyond(objective):
    margin = 0.2
    model, images = linear(margin, rows=6)
    smoothed = SmoothedClassifier(model, SIGMA)
    labels = torch.zeros(6, dtype=torch.int64)
    found = smoothed.certify(images, n=2000)
    assert ((found.radii > 0.1) & (found.radii < margin + 0.02)).all()
    for eps, stands in ((0.15, True), (0.3, False)):
        attack = PGDL2(eps=eps, steps=10)
        attacked = attack_smoothed(smoothed, attack, images, labels, objective=objective)
        assert attacked.right.tolist() == [stands] * 6
        assert (attacked.result.distance("l2") <= eps * (1 + 1e-6)).all()
    # in L-infinity the boundary is at margin * ||w||_2 / ||w||_1
    reach = margin * float(WEIGHT.norm() / WEIGHT.abs().sum())
    for eps, stands in ((0.7 * reach, True), (1.5 * reach, False)):
        attacked = attack_smoothed(smoothed, PGD(eps=eps), images, labels, objective=objective)
        assert attacked.accuracy == float(stands)


def test_certified_accuracy_counts_the_right_rows_that_reach_the_radius():
    found = Certificates(
        classes=torch.tensor([0, 1, ABSTAIN, 2]),
        radii=torch.tensor([0.5, 0.2, 0.0, 0.9], dtype=torch.float64),
        p_lower=torch.zeros(4),
        votes=torch.zeros(4),
        samples=10,
        sigma=SIGMA,
        alpha=0.1,
    )
    labels = torch.tensor([0, 1, 2, 0])
    assert certified_accuracy(found, labels, [0, 0.2, 0.3, 0.5, 0.6]) == [0.5, 0.5, 0.25, 0.25, 0]
    assert average_certified_radius(found, labels) == pytest.approx(0.7 / 4)
    with pytest.raises(ValueError, match=r"labels must be \(4,\)"):
        certified_accuracy(found, labels[:2], [0])
    with pytest.raises(ValueError, match="radii must be >= 0"):
        certified_accuracy(found, labels, [-0.1])


def test_the_model_is_left_as_it_was_found():
    model = mlp().train()
    SmoothedClassifier(model, 0.1).certify(torch.rand(2, 1, 6, 6).double(), n=10)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


IMAGE = torch.rand(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda m: SmoothedClassifier(m, 0), ValueError, "sigma must be > 0 and finite, got 0"),
        (lambda m: SmoothedClassifier(m, -1), ValueError, "sigma must be > 0"),
        (lambda m: SmoothedClassifier(m, math.nan), ValueError, "sigma must be > 0"),
        (lambda m: SmoothedClassifier(m, 1, num_samples=0), ValueError, "num_samples"),
        (lambda m: SmoothedClassifier(m, 1, batch_size=0), ValueError, "batch_size"),
        (lambda m: SmoothedClassifier(m, 1).predict(IMAGE, 0), ValueError, "n must be at least 1"),
        (lambda m: SmoothedClassifier(m, 1).certify(IMAGE, 0), ValueError, "n0 must be at least 1"),
        (lambda m: SmoothedClassifier(m, 1).certify(IMAGE, n=0), ValueError, "n must be at least"),
        (lambda m: SmoothedClassifier(m, 1).predict(IMAGE, 9, 0), ValueError, r"alpha must be in"),
        (lambda m: SmoothedClassifier(m, 1).certify(IMAGE, 9, 9, 1), ValueError, r"alpha must be"),
        (lambda m: SmoothedClassifier(m, 1).predict(IMAGE.byte()), TypeError, "must be float"),
        (lambda m: SmoothedClassifier(m, 1).predict(IMAGE[0]), ValueError, r"\(B, C, H, W\)"),
        (lambda m: SmoothedClassifier(m, 1).predict(IMAGE[:0]), ValueError, "at least one row"),
        (lambda m: SmoothedClassifier(m, 1).predict(IMAGE + 1), ValueError, r"in \[0, 1\]"),
        (lambda m: SmoothedClassifier(m, 1).predict(IMAGE * math.nan), ValueError, r"in \[0, 1\]"),
        (
            lambda m: SmoothedClassifier(m, 1).predict(IMAGE, sample_ids=torch.arange(2)),
            ValueError,
            "sample_ids must be",
        ),
        (
            lambda m: SmoothedClassifier(nn.Flatten(0), 1).predict(IMAGE),
            ValueError,
            "the model must return",
        ),
        (
            lambda m: attack_smoothed(
                SmoothedClassifier(m, 1), PGD(), IMAGE, torch.tensor([0]), objective="both"
            ),
            ValueError,
            "objective must be one of softmax, logits",
        ),
        (
            lambda m: attack_smoothed(
                SmoothedClassifier(ScoresOnly(m, num_classes=2), 1), PGD(), IMAGE, torch.tensor([0])
            ),
            ValueError,
            "pgd needs gradients of the model",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(act, error, message):
    with pytest.raises(error, match=message):
        act(Linear(WEIGHT.float()))


def test_a_model_that_answers_nan_under_noise_is_named():
    class Fragile(nn.Module):
        def forward(self, images):
            z = images.flatten(1)[:, :2]
            return torch.where(z < 0, math.nan, z)

    images = torch.stack([torch.full((1, 2, 2), 0.9), torch.zeros(1, 2, 2)])
    with pytest.raises(ValueError, match=r"NaN or inf for noisy copies of 1 of 2 .* row 1"):
        SmoothedClassifier(Fragile(), 0.01).predict(images, n=50)
