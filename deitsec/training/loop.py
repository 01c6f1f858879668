"""The training loop, which every way of training shares: it is given the loss of a batch."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from deitsec.data import DataSource, ImageSet, to_float
from deitsec.data.image_set import UNLABELLED
from deitsec.models import Classifier
from deitsec.training.augment import augment
from deitsec.training.config import FitConfig
from deitsec.training.diverged import TrainingDiverged
from deitsec.training.evaluate import predict
from deitsec.training.modes import mode_kept, place_of
from deitsec.training.optimizer import build_optimizer, build_scheduler
from deitsec.training.result import EpochRecord, FitResult, Progress, TrainingEvent
from deitsec.training.run_state import RunState, load_state, save_state, weights_of

Objective = Callable[[Classifier, Tensor, Tensor, int], Tensor]
"""(model, images (B, C, H, W) in [0, 1], labels (B,), epoch from 1) -> scalar loss to descend."""

STATE_FILE = "training-state.pt"

# The loss is read, which waits for a GPU, and progress is told, once in so many steps.
_CHECK_EVERY = 20


def run_epochs(
    model: Classifier,
    data: DataSource,
    config: FitConfig,
    objective: Objective,
    *,
    settings: Mapping[str, Any],
    out: Path | None,
    resume: bool,
    progress: Progress | None,
    needs_labels: bool = True,
) -> FitResult:
    """Train a model in place on an objective; `fit` and `distill` say what for.

    Args:
        model: its weights become those of the best epoch; its mode is put back.
        data: only `data.train` is read.
        config: how.
        objective: the loss of a batch, in train mode and under autocast where asked for.
        settings: the whole recipe as plain values, for the result and for the check on resuming.
        out: folder of the state file, or None to write nothing.
        resume: go on from the state file, if there is one.
        progress: told every few steps.
        needs_labels: whether unlabelled rows are refused, since the objective reads every label.
    """
    train = _training_set(model, data, needs_labels)
    train_rows, validation_rows = split_rows(train.labels, config)
    steps = max(1, len(train_rows) // config.batch_size)
    path = _state_path(out, resume=resume)
    with _surroundings(model, config):
        state = _start(model, config, steps)
        identity = _identity(model, data, settings) if path else {}
        if path and path.exists():
            load_state(state, path, identity)
        tell = Teller(progress, config.epochs, steps)
        while len(state.history) < config.epochs and not state.stopped_early:
            _one_epoch(state, train, train_rows, validation_rows, config, objective, tell)
            if path:
                save_state(state, path, identity)
        model.load_state_dict(state.best)
    return FitResult(
        history=tuple(state.history),
        best_epoch=state.best_epoch,
        stopped_early=state.stopped_early,
        config=settings,
        seconds=state.seconds,
        num_train=len(train_rows),
        num_validation=len(validation_rows),
    )


def split_rows(labels: Tensor, config: FitConfig) -> tuple[Tensor, Tensor]:
    """Return (training rows, validation rows), each ascending, split by the seed of the run."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(config.seed))
    count = round(config.validation * len(labels))
    if config.validation and not 0 < count < len(labels):
        raise ValueError(
            f"validation must leave a row on each side, got {config.validation} of {len(labels)}"
        )
    return order[count:].sort().values, order[:count].sort().values


class Teller:
    """Tells a progress callback, if there is one, where a run stands."""

    def __init__(self, progress: Progress | None, epochs: int, steps: int) -> None:
        self._progress = progress
        self._epochs = epochs
        self.steps = steps

    def __call__(self, epoch: int, step: int, **metrics: float) -> None:
        """Tell."""
        if self._progress is not None:
            self._progress(
                TrainingEvent(
                    epoch=epoch, epochs=self._epochs, step=step, steps=self.steps, metrics=metrics
                )
            )


def _training_set(model: Classifier, data: DataSource, needs_labels: bool) -> ImageSet:
    if data.train is None:
        raise ValueError(f"{data.uri} has no training split: give a source that has one")
    if model.num_classes != data.num_classes:
        raise ValueError(
            f"{model.name} has {model.num_classes} classes, and {data.uri} has {data.num_classes}"
        )
    unlabelled = int((data.train.labels == UNLABELLED).sum())
    if needs_labels and unlabelled:
        raise ValueError(
            f"{unlabelled} of {len(data.train)} training images of {data.uri} have no label, and "
            "this way of training needs them: label them or leave them out, or train virtually "
            "(virtual_fit), which learns from both"
        )
    return data.train


def _state_path(out: Path | None, *, resume: bool) -> Path | None:
    if out is None:
        if resume:
            raise ValueError("resuming needs out, the folder of the run that is to go on")
        return None
    path = out / STATE_FILE
    if path.exists() and not resume:
        raise ValueError(
            f"{path} is there already: resume it (--resume, or resume=True), or give another folder"
        )
    return path


def _identity(model: Classifier, data: DataSource, settings: Mapping[str, Any]) -> dict[str, Any]:
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return {
        "settings": dict(settings),
        "model": {"name": model.name, "weights": shapes},
        "data": {"name": data.name, "sha256": data.sha256},
    }


@contextmanager
def _surroundings(model: Classifier, config: FitConfig) -> Generator[None, None, None]:
    """Seed the global random streams for dropout, and leave streams, modes and layout as found."""
    device = place_of(model)
    on_cuda = device.type == "cuda"
    with ExitStack() as stack:
        stack.enter_context(mode_kept(model))
        fork_rng = cast(Any, torch.random.fork_rng)  # pyright: ignore[reportUnknownMemberType]
        stack.enter_context(fork_rng([device] if on_cuda else []))
        torch.default_generator.manual_seed(config.seed)
        if on_cuda:
            stack.enter_context(torch.cuda.device(device))
            torch.cuda.manual_seed(config.seed)
        if config.threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(config.threads)
        if config.channels_last:
            stack.callback(model.to, memory_format=torch.contiguous_format)
            model.to(memory_format=torch.channels_last)
        stack.enter_context(torch.enable_grad())
        yield


def _start(model: Classifier, config: FitConfig, steps: int) -> RunState:
    optimizer = build_optimizer(model, config)
    return RunState(
        model=model,
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, config, steps),
        # Another stream than the split's, which a run without validation does not draw from.
        generator=torch.Generator().manual_seed(config.seed + 1),
        best=weights_of(model),
    )


def _one_epoch(
    state: RunState,
    train: ImageSet,
    train_rows: Tensor,
    validation_rows: Tensor,
    config: FitConfig,
    objective: Objective,
    tell: Teller,
) -> None:
    """Take every step of the next epoch, validate, and keep the weights if they are the best."""
    start = time.perf_counter()
    epoch = len(state.history) + 1
    state.model.train()
    try:
        loss, lr = _take_steps(state, train, train_rows, config, objective, tell)
        _check_weights(state, epoch, tell.steps, lr)
        accuracy, validation_loss = _validate(state.model, train, validation_rows)
    except TrainingDiverged:
        state.model.load_state_dict(state.best)
        raise
    finally:
        state.optimizer.zero_grad(set_to_none=True)
    better = _is_better(state, accuracy, validation_loss)
    record = EpochRecord(
        epoch=epoch,
        train_loss=loss,
        validation_accuracy=accuracy,
        validation_loss=validation_loss,
        lr=lr,
        seconds=time.perf_counter() - start,
    )
    state.history.append(record)
    if better:
        state.best, state.best_epoch = weights_of(state.model), epoch
    waited = epoch - state.best_epoch
    state.stopped_early = config.patience is not None and waited >= config.patience
    validated = {"validation_accuracy": accuracy, "validation_loss": validation_loss}
    metrics = {name: value for name, value in validated.items() if value is not None}
    tell(epoch, tell.steps, loss=loss, lr=lr, **metrics)


def _take_steps(
    state: RunState,
    train: ImageSet,
    rows: Tensor,
    config: FitConfig,
    objective: Objective,
    tell: Teller,
) -> tuple[float, float]:
    """Return the mean loss of one pass over the rows and the learning rate of its last step."""
    device = place_of(state.model)
    weights = [group for group in state.model.parameters() if group.requires_grad]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    epoch = len(state.history) + 1
    total = torch.zeros((), device=device)
    lr = 0.0
    for step, (images, labels) in enumerate(
        _batches(train, rows, tell.steps, config, state.generator, device), start=1
    ):
        with autocast:
            loss = objective(state.model, images, labels, epoch)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        total += loss.detach()
        if config.clip_grad is not None:
            clip_grad_norm_(weights, config.clip_grad)
        lr = state.optimizer.param_groups[0]["lr"]
        state.optimizer.step()
        state.scheduler.step_update((epoch - 1) * tell.steps + step)
        if step % _CHECK_EVERY == 0 or step == tell.steps:
            mean = total.item() / step
            if mean != mean or abs(mean) == float("inf"):
                raise TrainingDiverged("the loss", epoch=epoch, step=step, lr=lr)
            if step < tell.steps:
                tell(epoch, step, loss=mean, lr=lr)
    return total.item() / tell.steps, lr


def _batches(
    train: ImageSet,
    rows: Tensor,
    steps: int,
    config: FitConfig,
    generator: torch.Generator,
    device: torch.device,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Yield `steps` batches of rows in a fresh order, on the device, augmented."""
    order = rows[torch.randperm(len(rows), generator=generator)]
    for step in range(steps):
        batch = order[step * config.batch_size : (step + 1) * config.batch_size]
        images = to_float(train.images(batch).to(device))
        if config.augmentation is not None:
            images = augment(images, config.augmentation, generator)
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        yield images, train.labels[batch].to(device)


def _check_weights(state: RunState, epoch: int, step: int, lr: float) -> None:
    # A gradient of the last step that overflowed has spoilt the weights after the loss was read.
    finite = torch.stack([p.detach().isfinite().all() for p in state.model.parameters()])
    if not bool(finite.all()):
        raise TrainingDiverged("a weight", epoch=epoch, step=step, lr=lr)


def _validate(
    model: Classifier, train: ImageSet, rows: Tensor
) -> tuple[float, float] | tuple[None, None]:
    if not len(rows):
        return None, None
    logits, labels = predict(model, train, rows), train.labels[rows]
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return accuracy, cross_entropy(logits, labels).item()


def _is_better(state: RunState, accuracy: float | None, loss: float | None) -> bool:
    if accuracy is None or loss is None or state.best_epoch == 0:
        return True
    best = state.history[state.best_epoch - 1]
    assert best.validation_accuracy is not None
    assert best.validation_loss is not None
    return (accuracy, -loss) > (best.validation_accuracy, -best.validation_loss)
