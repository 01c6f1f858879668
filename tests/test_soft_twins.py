"""The smooth twins of estimators against scikit-learn, and the matrix that follows them."""

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from deitsec.attacks import PGD
from deitsec.data import load_data, to_float
from deitsec.defenses import fit_estimator, transfer_matrix
from deitsec.studies.soft_twins import SoftNeighbours, SoftVectors, soft_twin


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def _some(data, number=40):
    rows = torch.arange(number)
    return to_float(data.test.images(rows)), data.test.labels[rows]


def test_the_decisions_of_pairs_are_those_of_scikit_learn():
    """With tanh so flat that it is a line, the logits are sums of the pairs' decisions."""
    random = np.random.default_rng(0)
    points, labels = random.uniform(size=(60, 4)), np.repeat([0, 1, 2], 20)
    points[labels == 1] += 0.4
    points[labels == 2, 0] -= 0.5
    machine = SVC(decision_function_shape="ovo", gamma=2.0).fit(points, labels)
    asked = random.uniform(size=(7, 4))
    flat = 1e-3
    twin = SoftVectors(machine, sharpness=flat)
    said = twin(torch.tensor(asked, dtype=torch.float32).reshape(7, 1, 2, 2)) / flat
    first, second, third = machine.decision_function(asked).T  # 0 - 1, 0 - 2, 1 - 2
    expected = np.stack([first + second, third - first, -second - third], 1)
    assert np.allclose(said.numpy(), expected, atol=2e-3)


def test_neighbours_count_by_their_distance():
    images = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    twin = SoftNeighbours(images, torch.tensor([0, 1, 1]), 2, temperature=0.5)
    said = twin(torch.tensor([[[[0.5, 0.0]]]]))
    near, far = -(0.5**2) / 0.5, -(0.5**2 + 2.0**2) / 0.5
    assert said[0, 0].item() == pytest.approx(near)
    assert said[0, 1].item() == pytest.approx(np.logaddexp(near, far))


def test_a_twin_answers_as_its_estimator_mostly_does(digits):
    images, _ = _some(digits)
    for name in ("knn", "svm"):
        twin = soft_twin(name, digits)
        assert twin is not None
        same = twin(images).argmax(1) == fit_estimator(name, digits)(images).argmax(1)
        assert same.double().mean() > 0.9
    assert soft_twin("tree", digits) is None


def test_following_a_twin_fools_what_gives_no_gradient(digits):
    """The estimator judges: without its twin, few queries find next to nothing."""
    images, labels = _some(digits, 20)
    models = {"svm": fit_estimator("svm", digits)}
    attack = PGD(eps=0.2, steps=10)
    twin = soft_twin("svm", digits)
    assert twin is not None
    followed = transfer_matrix(models, images, labels, attack, surrogates={"svm": twin})
    asked = transfer_matrix(models, images, labels, attack, queries=310)
    assert followed.attacks == ("pgd:eps=51/255",)  # 51/255 = 0.2, and 10 steps are its default
    assert asked.attacks[0].startswith("hopskipjump")
    rate, other = followed.rate[0][0], asked.rate[0][0]
    assert rate is not None
    assert other is not None
    assert rate > 0.9
    assert rate > other + 0.3
