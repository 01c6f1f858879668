"""The transfer matrix against closed forms, noise of the same size, and estimators as targets."""

import re
from dataclasses import replace

import pytest
import torch
from models_for_tests import Linear, images_and_labels, mlp
from torch import nn
from training_for_tests import digits, relabelled

from deitsec.attacks import CW, FGSM, PGD, PGDL2, HopSkipJumpLinf, Square
from deitsec.data import Subset, to_float
from deitsec.defenses.estimators import ESTIMATORS, fit_estimator
from deitsec.defenses.same_size_noise import noise_of_same_size
from deitsec.defenses.transfer import attack_for, predict, transfer_matrix
from deitsec.models import LabelsOnly, ScoresOnly
from deitsec.ops import row_norms
from deitsec.types import IN_FLIGHT


def test_rates_of_linear_models_are_the_closed_form():
    """One step moves every pixel by eps along the source's sign: who falls can be computed."""
    generator = torch.Generator().manual_seed(0)
    names = ("first", "second", "third")
    weights = {
        name: torch.randn(1, 6, 6, dtype=torch.float64, generator=generator) for name in names
    }
    images = 0.3 + 0.4 * torch.rand(200, 1, 6, 6, dtype=torch.float64, generator=generator)
    models = {}
    for name, weight in weights.items():
        middle = float((images.flatten(1) @ weight.flatten()).mean())
        models[name] = Linear(weight, bias=-middle)
    labels = predict(models["first"], images)
    eps = 0.06
    found = transfer_matrix(models, images, labels, FGSM(eps=eps))
    assert found.names == names
    assert found.attacks == ("fgsm:eps=0.06",) * 3
    side = 1.0 - 2.0 * labels.double()  # class 0 is the positive margin
    for i, source in enumerate(names):
        adv = images - eps * side[:, None, None, None] * weights[source].sign()
        for j, target in enumerate(names):
            right = side * models[target].margin(images) > 0
            wrong = side * models[target].margin(adv) < 0
            assert found.rate[i][j] == pytest.approx((right & wrong)[right].double().mean().item())
            assert found.accuracy[j] == pytest.approx(right.double().mean().item())
    assert found.accuracy[0] == 1.0
    assert found.rows == 200


def test_the_diagonal_is_the_attack_on_the_model_itself_and_beats_noise():
    model, other = mlp(), mlp(seed=4)
    images, labels = images_and_labels(model, rows=60)
    found = transfer_matrix({"own": model, "other": other}, images, labels, PGD(eps=0.1, steps=10))
    assert found.rate[0][0] > found.noise[0][0] + 0.3
    assert found.rate[0][0] > found.rate[1][0]
    assert found.document()["rate"] == found.rate


def test_the_draws_of_a_stochastic_target_belong_to_the_sample(monkeypatch):
    seen = []

    class Drawing(nn.Module):
        def forward(self, images):
            seen.append(IN_FLIGHT.get().sample_ids.tolist())
            return images.flatten(1)[:, :2]

    monkeypatch.setattr("deitsec.defenses.transfer._TOGETHER", 3)
    predict(Drawing(), torch.rand(5, 1, 2, 2), seed=1)
    assert seen == [[0, 1, 2], [3, 4]]
    assert IN_FLIGHT.get() is None


def test_a_target_that_is_never_right_has_no_rate():
    model = mlp()
    images, labels = images_and_labels(model)
    found = transfer_matrix({"m": model}, images, (labels + 1) % 5, FGSM(eps=0.01))
    assert found.rate == ((None,),)
    assert found.accuracy == (0.0,)


def test_noise_has_every_norm_of_the_perturbation_and_belongs_to_the_sample():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(8, 1, 10, 10, generator=generator)
    clean[:, :, :4] = 0.0  # black paper, where half of the noise would be clipped
    adv = (clean + 0.3 * torch.randn(8, 1, 10, 10, generator=generator)).clamp(0, 1)
    adv = clean + (adv - clean).clamp(-0.5, 0.5)
    adv[0] = clean[0]
    ids = torch.arange(8)
    noisy = noise_of_same_size(clean, adv, ids, seed=3)
    assert torch.equal(noisy[0], clean[0])
    assert float(noisy.min()) >= 0
    assert float(noisy.max()) <= 1
    for ours, theirs in zip(row_norms(noisy, clean), row_norms(adv, clean), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    # shuffled, and with signs of its own
    assert ((noisy - clean) - (adv - clean)).abs()[1:].mean() > 0.05
    changes = (noisy - clean)[:, :, 4:]
    assert 0.4 < (changes[changes != 0] > 0).double().mean() < 0.6
    order = torch.tensor([5, 2, 7])
    assert torch.equal(noise_of_same_size(clean[order], adv[order], order, seed=3), noisy[order])
    assert not torch.equal(noise_of_same_size(clean, adv, ids, seed=4), noisy)


def test_a_source_that_gives_less_is_attacked_by_what_it_gives():
    open_model = mlp()
    scores, labels_only = (hide(mlp(), num_classes=5) for hide in (ScoresOnly, LabelsOnly))
    attack = PGD(eps=0.1)
    assert attack_for("m", open_model, attack) is attack
    assert attack_for("m", scores, attack) == Square(eps=0.1, n_queries=1000)
    assert attack_for("m", labels_only, attack) == HopSkipJumpLinf(eps=0.1, max_queries=1000)
    for other in (CW(), PGDL2(eps=1.0)):
        with pytest.raises(ValueError, match="tree gives decision only; give an attack with an L-"):
            attack_for("tree", labels_only, other)


def test_a_tree_is_a_target_and_a_source():
    data = digits()
    tree = fit_estimator("tree", data)
    images, labels = to_float(data.test.images(torch.arange(6))), data.test.labels[:6]
    right = predict(tree, images) == labels
    square = Square(eps=0.1, n_queries=40)  # what a source of scores takes as it is
    models = {"tree": tree, "svm": fit_estimator("svm", data)}
    found = transfer_matrix(models, images, labels, square, queries=330)
    assert found.attacks == (
        "square:eps=0.1,n_queries=40",
        "hopskipjump_linf:max_queries=330,eps=0.1",
    )
    assert found.rate[0][0] > found.noise[0][0]
    assert found.accuracy[0] == right.double().mean().item()


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_estimators_learn_the_digits(name):
    data = digits()
    model = fit_estimator(name, data)
    images = to_float(data.test.images(torch.arange(300)))
    right = predict(model, images) == data.test.labels[:300]
    assert right.double().mean() > 0.65


def _without_class_3():
    data = digits()
    rows = (data.train.labels != 3).nonzero()[:, 0]
    return replace(data, train=Subset(base=data.train, rows=rows))


def _first_unlabelled(data):
    labels = data.train.labels.clone()
    labels[:3] = -1
    return labels


IMAGES, LABELS = torch.rand(4, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: transfer_matrix({"a": mlp(), "b": mlp(classes=4)}, IMAGES, LABELS, FGSM()),
            "same classes, got a 5, b 4",
        ),
        (lambda: transfer_matrix({}, IMAGES, LABELS, FGSM()), "got 0 and 4"),
        (
            lambda: transfer_matrix({"a": mlp()}, IMAGES, LABELS + 3, FGSM()),
            "labels must be in 0 to 4, got 3 to 6",
        ),
        (
            lambda: transfer_matrix({"a": mlp()}, IMAGES, LABELS - 1, FGSM()),
            "labels must be in 0 to 4, got -1 to 2",
        ),
        (
            lambda: attack_for("b", ScoresOnly(mlp(), num_classes=5), PGD(target=1)),
            "pgd aims at 1 and needs gradients, and b gives scores only",
        ),
        (lambda: fit_estimator("trees", digits()), "forest, knn, logistic, svm, tree, got 'trees'"),
        (lambda: fit_estimator("tree", replace(digits(), train=None)), "no training split"),
        (lambda: fit_estimator("tree", _without_class_3()), "has none of [3]"),
        (
            lambda: fit_estimator("tree", relabelled(digits(), _first_unlabelled(digits()))),
            f"3 of {len(digits().train)} training images of {digits().uri} have no label",
        ),
    ],
)
def test_bad_requests_are_refused(make, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        make()
    assert "\n" not in str(caught.value)
