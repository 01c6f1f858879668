"""Training against attacks: each method is what it does with the attacked images of a batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from deitsec import ops
from deitsec.data import DataSource, ImageSet
from deitsec.models import Classifier
from deitsec.training.adversarial_config import AdversarialConfig
from deitsec.training.inner_attack import InnerAttack
from deitsec.training.loop import run_epochs, split_rows
from deitsec.training.method import Batch, Judgement, Method
from deitsec.training.result import EpochRecord, FitResult, Progress
from deitsec.training.watch import Watch


def adversarial_fit(
    model: Classifier,
    data: DataSource,
    config: AdversarialConfig,
    *,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train a classifier in place against attacks on the images of `data.train`.

    Everything that `fit` promises holds here too. The epoch is picked by the accuracy under PGD on
    the validation rows; the learning curves, which read the test split too, pick nothing.
    `fast` is watched for catastrophic overfitting: the run then ends early, the model holds the
    weights before it, and the `note` of the last record says so.

    Args:
        model: on the device to train on.
        data: images in the shape that the model takes, with as many classes.
        config: the recipe.
        out: folder of the state file, or None to write nothing.
        resume: go on from the state file in `out`; without one, start.
        progress: called with a `TrainingEvent` every few steps and at each epoch's end.

    Raises:
        ValueError: if model and data do not fit, or a run is to be resumed with another recipe,
            data or architecture; the message names each difference.
        TrainingDiverged: if the loss or a weight stops being finite; the model then holds its last
            good weights.
    """
    train_rows = torch.empty(0, dtype=torch.int64)
    if data.train is not None:
        train_rows, _ = split_rows(data.train.labels, config.fit)
    watch = Watch(config, train_rows, data.test)
    method = Free(config, watch) if config.method == "free" else Attacked(config, watch)
    return run_epochs(
        model,
        data,
        config.fit,
        method,
        settings={"method": "adversarial", "attack": config.settings(), **asdict(config.fit)},
        out=None if out is None else Path(out),
        resume=resume,
        progress=progress,
    )


class Attacked(Method):
    """Attack the batch, then descend a loss of the clean and the attacked images."""

    def __init__(self, config: AdversarialConfig, watch: Watch) -> None:
        self._watch = watch
        self._attack = InnerAttack(
            norm=config.norm,
            eps=config.eps,
            alpha=config.step_size,
            steps=config.num_steps,
            start={"mixture": "clean", "trades": "noise"}.get(config.method, "uniform"),  # pyright: ignore[reportArgumentType]
            loss="kl" if config.method == "trades" else "ce",
            seed=config.fit.seed,
            channels_last=config.fit.channels_last,
        )
        self._loss = _LOSSES[config.method]
        self._config = config

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        """See `Method`."""
        adv = self._attack(model, batch.images, batch.labels, batch.rows, batch.update)
        return self._loss(model, batch, adv, self._config)

    def judge(
        self, model: Classifier, train: ImageSet, rows: Tensor, history: Sequence[EpochRecord]
    ) -> Judgement:
        """See `Method`."""
        return self._watch.judge(model, train, rows, history)


def _attacked_alone(
    model: Classifier, batch: Batch, adv: Tensor, config: AdversarialConfig
) -> Tensor:
    """Cross-entropy at the attacked images: `pgd` and `fast`."""
    return cross_entropy(model(adv), batch.labels, label_smoothing=config.fit.label_smoothing)


def _mixture(model: Classifier, batch: Batch, adv: Tensor, config: AdversarialConfig) -> Tensor:
    """alpha * L(x, y) + (1 - alpha) * L(x', y), arXiv:1412.6572, section 6."""
    clean, attacked = (
        cross_entropy(model(images), batch.labels, label_smoothing=config.fit.label_smoothing)
        for images in (batch.images, adv)
    )
    return config.clean_weight * clean + (1 - config.clean_weight) * attacked


def _trades(model: Classifier, batch: Batch, adv: Tensor, config: AdversarialConfig) -> Tensor:
    """L(f(x), y) + beta * KL(f(x) || f(x')), arXiv:1901.08573, eq. 5; both sides learn."""
    clean, attacked = model(batch.images), model(adv)
    loss = cross_entropy(clean, batch.labels, label_smoothing=config.fit.label_smoothing)
    moved = kl_div(
        log_softmax(attacked, 1), log_softmax(clean, 1), reduction="batchmean", log_target=True
    )
    return loss + config.beta * moved


_LOSSES: dict[str, Callable[[Classifier, Batch, Tensor, AdversarialConfig], Tensor]] = {
    "pgd": _attacked_alone,
    "fast": _attacked_alone,
    "mixture": _mixture,
    "trades": _trades,
}
_FREE_STEPS = {"linf": ops.linf_step_, "l2": ops.l2_step_}


class Free(Method):
    """One backward pass for the weights and the images (arXiv:1904.12843, algorithm 1).

    Each batch is replayed, and the perturbation goes on from one batch to the next. The model is in
    train mode throughout, since the pass that attacks is the one that trains.
    """

    def __init__(self, config: AdversarialConfig, watch: Watch) -> None:
        self.replays = config.replays
        self._config = config
        self._watch = watch
        self._delta: Tensor | None = None
        self._clean: Tensor | None = None
        self._leaf: Tensor | None = None

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        """See `Method`."""
        self._clean = batch.images.contiguous()
        if self._delta is None:
            self._delta = torch.zeros_like(self._clean)
        self._leaf = (self._clean + self._delta).clamp_(0, 1).requires_grad_()
        images = self._leaf
        if self._config.fit.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return cross_entropy(
            model(images), batch.labels, label_smoothing=self._config.fit.label_smoothing
        )

    def after_backward(self) -> None:
        """Step the perturbation along the gradient that the weights' backward pass left."""
        assert self._leaf is not None
        assert self._clean is not None
        assert self._leaf.grad is not None
        x, grad = self._leaf.detach(), self._leaf.grad.contiguous()
        _FREE_STEPS[self._config.norm](
            x, grad, self._clean, self._config.step_size, self._config.eps
        )
        self._delta = x.sub_(self._clean)
        self._leaf = None

    def judge(
        self, model: Classifier, train: ImageSet, rows: Tensor, history: Sequence[EpochRecord]
    ) -> Judgement:
        """See `Method`."""
        return self._watch.judge(model, train, rows, history)

    def state(self) -> dict[str, Tensor]:
        """See `Method`."""
        return {} if self._delta is None else {"delta": self._delta}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Method`."""
        self._delta = state.get("delta")
