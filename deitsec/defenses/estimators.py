"""Estimators of scikit-learn fitted on a data source: models of other kinds to transfer to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from deitsec.data import DataSource
from deitsec.defenses.labelled import check_labelled
from deitsec.models import wrap_sklearn


def _tree(seed: int) -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(random_state=seed)


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, random_state=seed)


def _knn(seed: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(5)


def _svm(seed: int) -> Any:
    from sklearn.svm import SVC

    return SVC(random_state=seed)


def _logistic(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=200, random_state=seed)


ESTIMATORS: dict[str, Callable[[int], Any]] = {
    "forest": _forest,
    "knn": _knn,
    "logistic": _logistic,
    "svm": _svm,
    "tree": _tree,
}


def fit_estimator(name: str, data: DataSource, *, seed: int = 0) -> nn.Module:
    """Fit an estimator on the training split, and wrap it as a model of images in [0, 1].

    Args:
        name: of `ESTIMATORS`: a decision tree, a random forest, the 5 nearest neighbours, a support
            vector machine with a Gaussian kernel, logistic regression.
        data: what it learns; every class occurs.
        seed: of the estimator.

    Raises:
        ValueError: an unknown name, data without a training split, an unlabelled image in it, or a
            class without an image.
    """
    return wrap_sklearn(fit_bare(name, data, seed=seed), image_shape=data.test.shape)


def fit_bare(name: str, data: DataSource, *, seed: int = 0) -> Any:
    """The estimator of `fit_estimator` as scikit-learn has it, on flat images in [0, 1]."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {name!r}")
    if data.train is None:
        raise ValueError(f"{data.uri} has no training split to fit {name} on")
    check_labelled(data)
    missing = set(range(data.num_classes)) - set(data.train.labels.unique().tolist())
    if missing:
        raise ValueError(
            f"{name} needs a training image of every class, and {data.uri} has none of "
            f"{sorted(missing)}"
        )
    images = data.train.images(torch.arange(len(data.train)))
    features = images.flatten(1).double().div(255).numpy()
    return ESTIMATORS[name](seed).fit(features, data.train.labels.numpy())
