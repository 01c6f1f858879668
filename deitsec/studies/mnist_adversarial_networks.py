"""The networks of the MNIST study, undefended and defended, each trained once."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deitsec.data import DataSource, ImageSet
from deitsec.data.subset import Subset
from deitsec.models import Classifier
from deitsec.studies.mnist_adversarial_options import Options
from deitsec.studies.study import StudyRun
from deitsec.training import (
    DefensiveConfig,
    FitConfig,
    FitResult,
    adversarial_fit,
    adversarial_recipe,
    distill_at_temperature,
    fit,
    fit_at_temperature,
    new_model,
    recipe,
)
from deitsec.training.loop import run_epochs
from deitsec.training.method import ByObjective, Judgement
from deitsec.training.result import EpochRecord
from deitsec.training.watch import score
from deitsec.verification.suite import suite_eps

Piece = dict[str, Any]
Train = Callable[..., FitResult]

DENSE = "mnist_dense"


class Watched(ByObjective):
    """Cross-entropy, with loss and accuracy on all test images after each epoch.

    They are measured and pick nothing.
    """

    def __init__(self, config: FitConfig, test: ImageSet) -> None:
        def objective(model: Classifier, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
            return cross_entropy(model(images), labels, label_smoothing=config.label_smoothing)

        super().__init__(objective)
        self._test = test

    def judge(
        self, model: Classifier, train: ImageSet, rows: Tensor, history: Sequence[EpochRecord]
    ) -> Judgement:
        """See `Method`."""
        found = score(model, self._test, torch.arange(len(self._test)))
        measured = {"test_accuracy": found.accuracy, "test_loss": found.loss}
        return replace(super().judge(model, train, rows, history), measured=measured)


class Networks:
    """Trains what is asked for, or takes it from the disk.

    Args:
        run: of the study.
    """

    def __init__(self, run: StudyRun[Options]) -> None:
        self.run = run
        self.options = run.options
        self.data = run.data

    def dense(self) -> tuple[Classifier, Piece]:
        """The dense network after its steps, and its figures every so many of them."""
        train = self.data.train
        assert train is not None
        epochs = self.options.steps // self.options.every
        batch_size = max(1, len(train) // self.options.every)
        # an epoch is as many steps as lie between two figures; what is over is left out
        rows = torch.arange(min(len(train), batch_size * self.options.every))
        data = replace(self.data, train=Subset(base=train, rows=rows))
        config = replace(
            recipe(self.data, DENSE, seed=self.run.seed).fit,
            epochs=epochs,
            batch_size=batch_size,
            lr=self.options.lr,
            validation=0.0,
            threads=1,
        )
        return self._trained("dense", DENSE, partial(_fit_watched, data=data, config=config))

    def convolutional(self) -> tuple[Classifier, Piece]:
        """The convolutional network, and its figures by epoch."""
        train = partial(_fit_watched, data=self.data, config=self._recipe())
        return self._trained("convolutional", self.options.network, train)

    def adversarial(self) -> tuple[Classifier, Piece]:
        """The same, trained on images of PGD alone."""
        name, data = self.options.network, self.data
        plan = adversarial_recipe(data, name, method="pgd", eps=self.eps, seed=self.run.seed)
        fitted = plan.fit.with_epochs(self.options.adversarial_epochs)
        plan = replace(plan, fit=replace(fitted, threads=1), steps=self.options.adversarial_steps)
        plan = replace(plan, alpha=None, curve_every=None)

        def train(model: Classifier, **more: Any) -> FitResult:
            return adversarial_fit(model, data, plan, **more)

        return self._trained("adversarial", name, train)

    def distilled(self) -> tuple[Classifier, Piece]:
        """The same, distilled at a temperature from one trained at it."""
        config = DefensiveConfig(fit=self._recipe(), temperature=self.options.temperature)
        name, data = self.options.network, self.data

        def first(model: Classifier, **more: Any) -> FitResult:
            return fit_at_temperature(model, data, config, **more)

        teacher, _ = self._trained("distillation-teacher", name, first)

        def second(model: Classifier, **more: Any) -> FitResult:
            return distill_at_temperature(model, teacher, data, config, **more)

        return self._trained("distilled", name, second, offset=1)

    def noisy(self) -> tuple[Classifier, Piece]:
        """The same, trained on images with noise."""
        config = self._recipe(noise=self.options.noise)
        name, data = self.options.network, self.data

        def train(model: Classifier, **more: Any) -> FitResult:
            return fit(model, data, config, **more)

        return self._trained("noisy", name, train)

    @property
    def eps(self) -> float:
        """The radius that the defenses have to withstand."""
        return self.options.eps or suite_eps(self.data)

    def _recipe(self, noise: float = 0.0) -> FitConfig:
        """Without label smoothing, which hides gradients by itself."""
        config = recipe(self.data, self.options.network, seed=self.run.seed, noise=noise).fit
        config = replace(config, label_smoothing=0.0, threads=1)
        return config.with_epochs(self.options.epochs)

    def _trained(
        self, name: str, model: str, train: Train, offset: int = 0
    ) -> tuple[Classifier, Piece]:
        """A network, and how its training went."""
        run, kept = self.run, dict[str, Any]()
        seed = run.seed + offset

        def fitted(network: Classifier, **more: Any) -> FitResult:
            result = train(network.to(run.device), **more)
            # kept before the network is, which is not trained again once it is there
            kept.update(run.part(f"{name}-history", lambda: _history(result)))
            return result

        network = run.network(name, lambda: new_model(model, run.data, seed=seed), fitted)
        return network, kept or run.part(f"{name}-history", dict[str, Any])


def _fit_watched(
    model: Classifier, *, data: DataSource, config: FitConfig, **more: Any
) -> FitResult:
    settings = {"method": "fit", **asdict(config)}
    watched = Watched(config, data.test)
    return run_epochs(model, data, config, watched, settings=settings, **more)


def _history(result: FitResult) -> Piece:
    return {
        "settings": dict(result.config),
        "best_epoch": result.best_epoch,
        "rows": result.num_train,
        "epochs": [asdict(record) for record in result.history],
    }
