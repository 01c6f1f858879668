"""An autoencoder before the classifier, that is to take perturbations out."""

import math
from dataclasses import asdict
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from deitsec.data import DataSource
from deitsec.models import Classifier, wrap
from deitsec.training import FitConfig, FitResult
from deitsec.training.loop import run_epochs
from deitsec.training.result import Progress


class CleanUp(nn.Module):
    """A denoising autoencoder (Vincent et al., ICML 2008), then a classifier.

    One dense hidden layer; what comes out is in [0, 1] (Gu and Rigazio, arXiv:1412.5068, whose
    autoencoder takes the perturbations of the classifier alone, and not those of both together).

    Args:
        classifier: (B, C, H, W) images in [0, 1] -> (B, K) logits; it is not trained.
        shape: (C, H, W) of the images.
        width: units of the hidden layer.
    """

    def __init__(
        self, classifier: nn.Module, *, shape: tuple[int, int, int], width: int = 256
    ) -> None:
        super().__init__()
        values = math.prod(shape)
        self.autoencoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(values, width),
            nn.ReLU(),
            nn.Linear(width, values),
            nn.Sigmoid(),
            nn.Unflatten(1, shape),
        )
        self.classifier = classifier.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the cleaned images."""
        return self.classifier(self.autoencoder(images))


def cleaned(classifier: Classifier, shape: tuple[int, int, int], *, width: int = 256) -> Classifier:
    """A classifier behind an autoencoder that is yet to be trained (`fit_clean_up`).

    The classifier's weights are frozen.
    """
    module = CleanUp(classifier, shape=shape, width=width)
    name = f"{classifier.name}_cleaned"
    return wrap(module, mean=0.0, std=1.0, num_classes=classifier.num_classes, name=name)


def fit_clean_up(
    model: Classifier,
    data: DataSource,
    config: FitConfig,
    *,
    noise: float = 0.3,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train the autoencoder of a `cleaned` classifier in place, to take Gaussian noise out.

    The mean squared error between the training images and what it makes of noisy ones. Everything
    else is as in `deitsec.training.fit`; labels are not read.

    Args:
        model: from `cleaned`.
        data, config, out, resume, progress: as in `fit`.
        noise: standard deviation on images in [0, 1], > 0; noisy images are clipped to it.

    Raises:
        ValueError: a model without such an autoencoder, noise out of range, or as `fit`.
        TrainingDiverged: as `fit`.
    """
    module = model.module
    if not isinstance(module, CleanUp):
        raise ValueError(f"fit_clean_up trains what `cleaned` makes, got {type(module).__name__}")
    if not 0 < noise < math.inf:
        raise ValueError(f"noise must be > 0 and finite, got {noise}")
    autoencoder = module.autoencoder

    def objective(model: Classifier, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        noisy = (images + noise * torch.randn_like(images)).clamp(0, 1)
        return mse_loss(autoencoder(noisy), images)

    return run_epochs(
        model,
        data,
        config,
        objective,
        settings={"method": "clean-up", "noise": noise, **asdict(config)},
        out=None if out is None else Path(out),
        resume=resume,
        progress=progress,
        needs_labels=False,
    )
