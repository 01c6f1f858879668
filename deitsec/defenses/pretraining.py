"""Generative pretraining: features that can draw the image, then a classifier on them."""

import math
from dataclasses import asdict
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from deitsec.data import DataSource
from deitsec.models import Classifier, wrap
from deitsec.training import FitConfig, FitResult
from deitsec.training.loop import run_epochs
from deitsec.training.result import Progress


class Pretrainable(nn.Module):
    """A classifier whose last features are also decoded into the image, while it is pretrained.

    Args:
        classifier: (B, C, H, W) images in [0, 1] -> (B, K) logits, with a linear layer last.
        shape: (C, H, W) of the images.

    Raises:
        ValueError: no linear layer.
    """

    def __init__(self, classifier: nn.Module, *, shape: tuple[int, int, int]) -> None:
        super().__init__()
        linear = [part for part in classifier.modules() if isinstance(part, nn.Linear)]
        if not linear:
            raise ValueError("generative pretraining needs a network that ends in a linear layer")
        self.classifier = classifier
        self.decoder = nn.Sequential(
            nn.Linear(linear[-1].in_features, math.prod(shape)),
            nn.Sigmoid(),
            nn.Unflatten(1, shape),
        )
        self._last = [linear[-1]]  # in a list: it is a part of the classifier already

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits; the decoder takes no part."""
        return self.classifier(images)

    def reconstruct(self, images: Tensor) -> Tensor:
        """The images (B, C, H, W) in [0, 1] that the features before the last layer draw."""
        seen: list[Tensor] = []

        def note(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(inputs[0])

        hook = self._last[0].register_forward_pre_hook(note)
        try:
            self.classifier(images)
        finally:
            hook.remove()
        return self.decoder(seen[-1])


def pretrainable(classifier: Classifier, shape: tuple[int, int, int]) -> Classifier:
    """A classifier that `fit_pretrained` can train; its weights are those of the given one."""
    module = Pretrainable(classifier, shape=shape)
    name = f"{classifier.name}_pretrained"
    return wrap(module, mean=0.0, std=1.0, num_classes=classifier.num_classes, name=name)


def fit_pretrained(
    model: Classifier,
    data: DataSource,
    config: FitConfig,
    *,
    share: float = 0.5,
    noise: float = 0.3,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train a `pretrainable` classifier in place: first to draw images, then on their labels.

    Args:
        model: from `pretrainable`.
        data, config, out, resume, progress: as in `deitsec.training.fit`.
        share: of the epochs that go to drawing clean images of noisy ones, in [0, 1).
        noise: standard deviation of that noise on images in [0, 1], >= 0.

    Raises:
        ValueError: a model of another kind, a value out of range, or as `fit`.
        TrainingDiverged: as `fit`.
    """
    module = model.module
    if not isinstance(module, Pretrainable):
        raise ValueError(
            f"fit_pretrained trains what `pretrainable` makes, got {type(module).__name__}"
        )
    if not 0 <= share < 1:
        raise ValueError(f"share must be in [0, 1), got {share}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be >= 0 and finite, got {noise}")
    first = round(share * config.epochs)

    def objective(model: Classifier, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        if epoch <= first:
            noisy = (images + noise * torch.randn_like(images)).clamp(0, 1)
            return mse_loss(module.reconstruct(noisy), images)
        return cross_entropy(model(images), labels, label_smoothing=config.label_smoothing)

    settings = {"method": "pretrained", "share": share, "noise": noise, **asdict(config)}
    return run_epochs(
        model,
        data,
        config,
        objective,
        settings=settings,
        out=None if out is None else Path(out),
        resume=resume,
        progress=progress,
    )
