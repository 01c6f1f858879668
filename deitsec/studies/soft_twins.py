"""Smooth twins of nearest neighbours and support vectors, whose gradients an attacker follows."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deitsec.data import DataSource, to_float
from deitsec.defenses.estimators import fit_bare


class SoftNeighbours(nn.Module):
    """Nearest neighbours that count for the less, the farther they are.

    The logit of a class is log sum exp(-||x - a||^2 / temperature) over its training images a, as
    Papernot et al. (arXiv:1605.07277, section 2) smooth the vote to follow it.

    Args:
        images: (M, D) training images in [0, 1].
        labels: (M,) int64.
        num_classes: of the labels.
        temperature: in squared L2 distance; the smaller, the fewer neighbours count.
    """

    images: Tensor

    def __init__(
        self, images: Tensor, labels: Tensor, num_classes: int, temperature: float = 10.0
    ) -> None:
        super().__init__()
        self.register_buffer("images", images[labels.argsort(stable=True)])
        self.counts = labels.bincount(minlength=num_classes).tolist()
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K) logits."""
        # class by class, so that no more than (B, M) values are held
        near = -_squared_distances(x.flatten(1), self.images) / self.temperature
        return torch.stack([one.logsumexp(1) for one in near.split(self.counts, 1)], 1)


class SoftVectors(nn.Module):
    """A support vector machine with a Gaussian kernel whose votes between pairs are tanh.

    The logit of a class is the sum of its votes against each other class.

    Args:
        machine: a fitted `sklearn.svm.SVC` of the Gaussian kernel and at least three classes.
        sharpness: factor of the decision before tanh.
    """

    vectors: Tensor
    weights: Tensor
    offsets: Tensor
    sides: Tensor

    def __init__(self, machine: Any, sharpness: float = 1.0) -> None:
        super().__init__()
        weights, sides = _of_pairs(machine)
        self.register_buffer("vectors", torch.as_tensor(machine.support_vectors_).float())
        self.register_buffer("weights", torch.as_tensor(weights).float())
        self.register_buffer("offsets", torch.as_tensor(machine.intercept_).float())
        self.register_buffer("sides", torch.as_tensor(sides).float())
        self.gamma, self.sharpness = float(machine._gamma), sharpness

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K) logits."""
        kernel = (-self.gamma * _squared_distances(x.flatten(1), self.vectors)).exp()
        decisions = kernel @ self.weights.T + self.offsets
        return (self.sharpness * decisions).tanh() @ self.sides


def soft_twin(
    name: str, data: DataSource, *, seed: int = 0, estimator: Any = None
) -> nn.Module | None:
    """The smooth twin of an estimator that gives no gradients, or None where there is none.

    Args:
        name: of `ESTIMATORS`.
        data: what the estimator learnt.
        seed: of the estimator.
        estimator: it, fitted on the data; None fits it.
    """
    if name == "svm":
        return SoftVectors(estimator or fit_bare(name, data, seed=seed))
    if name != "knn":
        return None
    assert data.train is not None
    images = to_float(data.train.images(torch.arange(len(data.train)))).flatten(1)
    return SoftNeighbours(images, data.train.labels, data.num_classes)


def _squared_distances(x: Tensor, others: Tensor) -> Tensor:
    """(B, M) between (B, D) and (M, D); differentiable at 0 too."""
    others = others.to(x.dtype)
    return (x.square().sum(1, keepdim=True) - 2 * x @ others.T + others.square().sum(1)).clamp_min(
        0
    )


def _of_pairs(machine: Any) -> tuple[Any, Any]:
    """Weights (P, M) of each pair's decision, and (P, K) +1 for its first class, -1 for its second.

    scikit-learn keeps the coefficients of a vector of class i against class j in row j, or j - 1
    where j is beyond i.
    """
    ends = np.concatenate([[0], np.cumsum(machine.n_support_)])
    classes, coefficients = len(machine.n_support_), machine.dual_coef_
    weights: list[Any] = []
    sides: list[Any] = []
    for i in range(classes):
        for j in range(i + 1, classes):
            first, second = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
            weight, side = np.zeros(ends[-1]), np.zeros(classes)
            weight[first] = coefficients[j - 1, first]
            weight[second] = coefficients[i, second]
            side[i], side[j] = 1, -1
            weights.append(weight)
            sides.append(side)
    return np.array(weights), np.array(sides)
