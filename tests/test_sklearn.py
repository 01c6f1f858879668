"""Estimators of scikit-learn: logits equal to theirs, the closed form, and transfer to the rest."""

import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import (
    LogisticRegression,
    Perceptron,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

import deitsec
from deitsec.attacks import FGSM, PGD, create_attack
from deitsec.engine import Engine, run
from deitsec.engine.access import access_of
from deitsec.models import wrap_sklearn


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data, data.target


def _images(features, rows=40):
    return torch.from_numpy(features[:rows] / 16).reshape(-1, 1, 8, 8)


def _wrap(estimator, **options):
    return wrap_sklearn(estimator, image_shape=(1, 8, 8), scale=16, **options)


LINEAR = [
    LogisticRegression(max_iter=50),
    LinearSVC(max_iter=200),
    RidgeClassifier(),
    SGDClassifier(max_iter=20),
    Perceptron(fit_intercept=False),
    LinearDiscriminantAnalysis(),
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=50)),
    make_pipeline(StandardScaler(with_std=False), RidgeClassifier()),
    make_pipeline(MinMaxScaler(), PCA(20), LogisticRegression(max_iter=50)),
    make_pipeline(MaxAbsScaler(), PCA(12, whiten=True), LinearSVC(max_iter=200)),
    make_pipeline(RobustScaler(), "passthrough", LogisticRegression(max_iter=50)),
    GridSearchCV(RidgeClassifier(), {"alpha": [0.1, 1.0]}, cv=2),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("two_classes", [False, True])
@pytest.mark.parametrize("estimator", LINEAR, ids=lambda e: re.sub(r"\s+", "", str(e))[:60])
def test_linear_models_have_the_logits_of_scikit_learn(estimator, two_classes, digits):
    features, labels = digits
    labels = (labels > 4).astype(int) if two_classes else labels
    model = _wrap(estimator.fit(features[:400], labels[:400]))
    images = _images(features).requires_grad_()
    logits = model(images)
    expected = torch.from_numpy(estimator.decision_function(features[:40]))
    if two_classes:
        torch.testing.assert_close(logits[:, 1] - logits[:, 0], expected, rtol=1e-9, atol=1e-9)
    else:
        torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert access_of(model) == "gradient"
    assert model.affine
    (grad,) = torch.autograd.grad(logits[:, 1].sum(), images)
    assert grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("two_classes", [False, True])
def test_perceptrons_have_the_probabilities_of_scikit_learn(activation, two_classes, digits):
    features, labels = digits
    labels = (labels > 4).astype(int) if two_classes else labels
    network = MLPClassifier((16, 8), activation=activation, max_iter=10)
    estimator = make_pipeline(MinMaxScaler(clip=True), network).fit(features[:400], labels[:400])
    probabilities = _wrap(estimator)(_images(features)).softmax(1).detach()
    expected = torch.from_numpy(estimator.predict_proba(features[:40]))
    torch.testing.assert_close(probabilities, expected, rtol=1e-7, atol=1e-9)


def test_features_are_flattened_as_they_were_for_the_fit(digits):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 24)), rng.integers(0, 3, 60)
    estimator = LogisticRegression().fit(features, labels)
    images = rng.uniform(size=(5, 2, 3, 4))
    for last in (False, True):
        model = wrap_sklearn(
            estimator, image_shape=(2, 3, 4), scale=3.0, offset=-1.0, channels_last=last
        )
        ordered = images.transpose(0, 2, 3, 1) if last else images
        expected = estimator.decision_function(3 * ordered.reshape(5, -1) - 1)
        torch.testing.assert_close(model(torch.from_numpy(images)).detach(), torch.tensor(expected))
    with pytest.raises(ValueError, match=re.escape("images of (2, 3, 4), got (3, 2, 4)")):
        model(torch.rand(1, 3, 2, 4))


BLACK_BOXES = [
    (DecisionTreeClassifier(), "scores"),
    (RandomForestClassifier(20), "scores"),
    (KNeighborsClassifier(3), "scores"),
    (SVC(), "decision"),
    (make_pipeline(StandardScaler(), SVC(gamma=0.01)), "decision"),
]


@pytest.mark.parametrize(("estimator", "access"), BLACK_BOXES, ids=lambda v: str(v)[:30])
def test_everything_else_is_a_black_box_that_answers_as_the_estimator(estimator, access, digits):
    features, labels = digits
    names = np.array([f"digit {label}" for label in labels])
    estimator.fit(features[:400], names[:400])
    model = _wrap(estimator)
    assert access_of(model) == access
    noise = torch.rand(200, 1, 8, 8, dtype=torch.float64)
    images = torch.cat([_images(features), noise])
    expected = estimator.predict(16 * images.flatten(1).numpy())
    predicted = [model.classes[k] for k in model(images).argmax(1)]
    assert predicted == expected.tolist()
    if access == "scores":
        probabilities = torch.from_numpy(estimator.predict_proba(features[:40]))
        torch.testing.assert_close(model(images[:40]).softmax(1), probabilities, atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="pgd needs gradients of the model and"):
        run(PGD(), model, images, torch.zeros(len(images), dtype=torch.int64))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e: wrap_sklearn(3, image_shape=(1, 8, 8)), "classifier of scikit-learn, got int"),
        (lambda e: wrap_sklearn(StandardScaler(), image_shape=(1, 8, 8)), "got StandardScaler"),
        (lambda e: wrap_sklearn(e, image_shape=(1, 8, 9)), "fitted on 64 features"),
        (lambda e: wrap_sklearn(e, image_shape=(8, 8)), "image_shape must be (C, H, W)"),
        (lambda e: wrap_sklearn(e, image_shape=(1, 8, 8), scale=0), "scale must be"),
        (lambda e: wrap_sklearn(e, image_shape=(1, 8, 8), access="gradient"), "at most 'scores'"),
        (lambda e: wrap_sklearn(SVC(), image_shape=(1, 8, 8)), "not fitted yet"),
    ],
)
def test_what_cannot_be_wrapped_says_why(call, words, digits):
    features, labels = digits
    tree = DecisionTreeClassifier(max_depth=3).fit(features[:100], labels[:100])
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        call(tree)


def test_access_can_be_hidden(digits):
    features, labels = digits
    estimator = RidgeClassifier().fit(features[:200], labels[:200])
    open_, scores, decision = (_wrap(estimator, access=a) for a in (None, "scores", "decision"))
    images = _images(features)
    assert [access_of(m) for m in (open_, scores, decision)] == ["gradient", "scores", "decision"]
    assert torch.equal(scores(images), open_(images).detach())
    assert torch.equal(decision(images).argmax(1), open_(images).argmax(1))


def _worked_example():
    """w and x of the slides, in features 10 image - 5."""
    w = np.array([-1, -1, 1, -1, 1, -1, 1, 1, -1, 1], dtype=float)
    x = np.array([2, -1, 3, -2, 2, 2, 1, -4, 5, 1], dtype=float)
    rng = np.random.default_rng(0)
    estimator = LogisticRegression().fit(rng.normal(size=(20, 10)), np.arange(20) % 2)
    estimator.coef_, estimator.intercept_ = w[None], np.zeros(1)
    model = wrap_sklearn(estimator, image_shape=(1, 2, 5), scale=10, offset=-5)
    return model, torch.from_numpy((x + 5) / 10).reshape(1, 1, 2, 5), torch.from_numpy(w)


@pytest.mark.parametrize("attack", [FGSM(eps=0.05), PGD(eps=0.05)])
def test_the_worked_linear_example(attack):
    """Score -3 and p 0.0474 become 2 and 0.88 by a step of 0.5 along the signs of w."""
    model, image, w = _worked_example()
    result = deitsec.Engine(model, stop="never").run(attack, image, torch.tensor([0]))
    scores = [logits[0, 1] - logits[0, 0] for logits in (result.clean_logits, result.logits)]
    assert scores[0].item() == pytest.approx(-3)
    assert scores[1].item() == pytest.approx(2)
    assert scores[0].sigmoid().item() == pytest.approx(0.0474, abs=5e-5)
    assert scores[1].sigmoid().item() == pytest.approx(0.88, abs=1e-3)
    assert result.success.all()
    step = 10 * (result.adv - image).flatten()
    torch.testing.assert_close(step, 0.5 * w.sign())


def test_the_closed_form_of_the_worked_example():
    """A score of -3 is 3/10 of a step in all ten features away from the border."""
    model, image, _ = _worked_example()
    for name, norm, expected in (("linear", "linf", 0.03), ("linear_l2", "l2", 0.3 / 10**0.5)):
        result = deitsec.run(deitsec.create_attack(name), model, image, torch.tensor([0]))
        assert result.success.all()
        assert result.distance(norm).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("estimator", [RandomForestClassifier(15), KNeighborsClassifier(5), SVC()])
def test_gradient_attacks_reach_a_black_box_by_transfer(estimator, digits):
    features, labels = digits
    estimator.fit(features[:1000], labels[:1000])
    source = LogisticRegression(C=0.01, max_iter=500).fit(features[:1000], labels[:1000])
    images = torch.from_numpy(features[1000:1100] / 16).reshape(-1, 1, 8, 8)
    true = torch.from_numpy(labels[1000:1100])
    model = _wrap(estimator)
    noise = (images + 0.3 * torch.randint(0, 2, images.shape).mul(2).sub(1)).clamp(0, 1)
    broken_by_noise = (model(noise).argmax(1) != true).double().mean()
    result = Engine(model, surrogate=_wrap(source)).run(PGD(eps=0.3, steps=20), images, true)
    expected = estimator.predict(16 * result.adv.flatten(1).numpy())
    assert torch.equal(result.success, torch.from_numpy(expected) != true)
    assert result.success.double().mean() > broken_by_noise + 0.2
    assert (result.distance("linf") <= 0.3 + 1e-6).all()
    # and the nearest of a search on the surrogate is judged in the same way
    nearest = Engine(model, surrogate=_wrap(source)).run(create_attack("linear"), images, true)
    expected = estimator.predict(16 * nearest.adv.flatten(1).numpy())
    assert torch.equal(nearest.success, torch.from_numpy(expected) != true)
