"""The training loop, which every way of training shares: it is given the loss of a batch."""

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from deitsec.data import DataSource, ImageSet
from deitsec.data.image_set import UNLABELLED
from deitsec.models import Classifier
from deitsec.training.config import FitConfig
from deitsec.training.diverged import TrainingDiverged
from deitsec.training.feed import Feed
from deitsec.training.method import Batch, Judgement, Method, Objective, as_method
from deitsec.training.modes import mode_kept, place_of
from deitsec.training.optimizer import build_optimizer, build_scheduler
from deitsec.training.processes import Processes, find_processes
from deitsec.training.result import EpochRecord, FitResult, Progress, TrainingEvent
from deitsec.training.run_state import RunState, load_state, save_state, weights_of

__all__ = ["STATE_FILE", "Objective", "Teller", "run_epochs", "split_rows"]

STATE_FILE = "training-state.pt"

# The loss is read, which waits for a GPU, and progress is told, once in so many steps.
_CHECK_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What stays as it is while a run goes on.

    Attributes:
        config: how.
        method: what for.
        feed: of the training rows.
        validation_rows: of the training split.
        tell: progress.
        processes: that share the run.
        save: writes the state file, if one is wanted.
    """

    config: FitConfig
    method: Method
    feed: Feed
    validation_rows: Tensor
    tell: "Teller"
    processes: Processes
    save: Callable[[RunState], None]

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.feed.batches * self.method.replays


def run_epochs(
    model: Classifier,
    data: DataSource,
    config: FitConfig,
    objective: Objective | Method,
    *,
    settings: Mapping[str, Any],
    out: Path | None,
    resume: bool,
    progress: Progress | None,
    needs_labels: bool = True,
) -> FitResult:
    """Train a model in place on an objective; `fit`, `distill` and `adversarial_fit` say what for.

    Where a launcher started several processes, each takes its share of every batch and the
    gradients are averaged; see `deitsec.training.accelerated`.

    Args:
        model: its weights become those of the best epoch; its mode is put back.
        data: only `data.train` is read here.
        config: how.
        objective: the loss of a batch, in train mode and under autocast where asked for; or a
            `Method`, which says more.
        settings: the whole recipe as plain values, for the result and for the check on resuming.
        out: folder of the state file, or None to write nothing.
        resume: go on from the state file, if there is one.
        progress: told every few steps.
        needs_labels: whether unlabelled rows are refused, since the objective reads every label.
    """
    train = _training_set(model, data, needs_labels)
    train_rows, validation_rows = split_rows(train.labels, config)
    path = _state_path(out, resume=resume)
    device = place_of(model)
    processes = find_processes(device)
    stored = processes.from_first(lambda: _stored(path, resume=resume))
    feed = Feed(train=train, rows=train_rows, config=config, device=device, processes=processes)
    identity = _identity(model, data, settings, processes) if path else {}

    def save(state: RunState) -> None:
        if path:
            save_state(state, path, identity, processes)

    method = as_method(objective)
    run = _Run(
        config=config,
        method=method,
        feed=feed,
        validation_rows=validation_rows,
        tell=Teller(
            progress if processes.first else None, config.epochs, feed.batches * method.replays
        ),
        processes=processes,
        save=save,
    )
    with _surroundings(model, config, processes):
        state = _start(model, run)
        if path and stored is not None:
            load_state(state, stored, path, identity, processes)
        while len(state.history) < config.epochs and not state.stopped_early:
            _one_epoch(state, run)
            save(state)
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
    return out / STATE_FILE


def _stored(path: Path | None, *, resume: bool) -> bytes | None:
    """The state file of the run that is to go on, if there is one."""
    if path is None or not path.exists():
        return None
    if not resume:
        raise ValueError(
            f"{path} is there already: resume it (--resume, or resume=True), or give another folder"
        )
    return path.read_bytes()


def _identity(
    model: Classifier, data: DataSource, settings: Mapping[str, Any], processes: Processes
) -> dict[str, Any]:
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return {
        "settings": dict(settings),
        "model": {"name": model.name, "weights": shapes},
        "data": {"name": data.name, "sha256": data.sha256},
        "processes": processes.count,
    }


@contextmanager
def _surroundings(
    model: Classifier, config: FitConfig, processes: Processes
) -> Generator[None, None, None]:
    """Seed the global random streams for dropout, and leave streams, modes and layout as found."""
    seed = config.seed + processes.rank  # each process drops other units
    device = place_of(model)
    on_cuda = device.type == "cuda"
    with ExitStack() as stack:
        stack.enter_context(mode_kept(model))
        fork_rng = cast(Any, torch.random.fork_rng)  # pyright: ignore[reportUnknownMemberType]
        stack.enter_context(fork_rng([device] if on_cuda else []))
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            stack.enter_context(torch.cuda.device(device))
            torch.cuda.manual_seed(seed)
        if config.threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(config.threads)
        if config.channels_last:
            stack.callback(model.to, memory_format=torch.contiguous_format)
            model.to(memory_format=torch.channels_last)
        stack.enter_context(torch.enable_grad())
        yield


def _start(model: Classifier, run: _Run) -> RunState:
    optimizer = build_optimizer(model, run.config)
    return RunState(
        model=model,
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, run.config, run.steps),
        # Another stream than the split's, which a run without validation does not draw from.
        generator=torch.Generator().manual_seed(run.config.seed + 1),
        method=run.method,
        best=weights_of(model),
        total=torch.zeros((), device=run.feed.device),
    )


def _one_epoch(state: RunState, run: _Run) -> None:
    """Take what is left of an epoch's steps, judge it, and keep the weights if they are the best.

    A run that was stopped within the epoch goes on at the step after the last one saved.
    """
    epoch = state.epoch
    if state.order is None:
        state.since = time.perf_counter()
        state.order, state.step = run.feed.order(state.generator), 0
        state.total.zero_()
    state.model.train()
    try:
        lr = _take_steps(state, run, state.order)
        _check_weights(state, lr)
        judged = run.processes.from_first(
            lambda: run.method.judge(
                state.model, run.feed.train, run.validation_rows, state.history
            )
        )
    except TrainingDiverged:
        state.model.load_state_dict(state.best)
        raise
    finally:
        state.optimizer.zero_grad(set_to_none=True)
    better = not judged.stop and _is_better(state, judged)
    loss = run.processes.mean(state.total).item() / run.steps
    record = EpochRecord(
        epoch=epoch,
        train_loss=loss,
        validation_accuracy=judged.accuracy,
        validation_loss=judged.loss,
        lr=lr,
        seconds=time.perf_counter() - state.since,
        measured=dict(judged.measured),
        note=judged.note,
    )
    state.history.append(record)
    state.order = None
    if better:
        state.best, state.best_epoch = weights_of(state.model), epoch
    waited = epoch - state.best_epoch
    patience = run.config.patience
    state.stopped_early = judged.stop or (patience is not None and waited >= patience)
    validated = {"validation_accuracy": judged.accuracy, "validation_loss": judged.loss}
    metrics = {name: value for name, value in validated.items() if value is not None}
    run.tell(epoch, run.steps, loss=loss, lr=lr, **metrics, **judged.measured)


def _take_steps(state: RunState, run: _Run, order: Tensor) -> float:
    """Take the steps of the epoch that are left; return the learning rate of the last one."""
    epoch, replays = state.epoch, run.method.replays
    lr = state.optimizer.param_groups[0]["lr"]
    while state.step < run.steps:
        images, labels, rows = run.feed.batch(order, state.step // replays, state.generator)
        for _ in range(replays):
            update = (epoch - 1) * run.steps + state.step
            batch = Batch(images=images, labels=labels, rows=rows, epoch=epoch, update=update)
            lr = _update(state, run, batch)
            state.step += 1
            ends = state.step == run.steps
            if state.step % _CHECK_EVERY == 0 or ends:
                mean = _checked_loss(state, run, lr)
                if not ends:
                    run.tell(epoch, state.step, loss=mean, lr=lr)
        every = run.config.save_every
        if every and state.step < run.steps and state.step % every < replays:
            _checked_loss(state, run, lr)
            _check_weights(state, lr)
            run.save(state)
    return lr


def _update(state: RunState, run: _Run, batch: Batch) -> float:
    """Change the weights once; return the learning rate that was in force."""
    weights = [weight for weight in state.model.parameters() if weight.requires_grad]
    precise = run.config.precision == "fp32"
    with torch.autocast(run.feed.device.type, torch.bfloat16, enabled=not precise):
        loss = run.method.loss(state.model, batch)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # pyright: ignore[reportUnknownMemberType]
    run.method.after_backward()
    state.total += loss.detach()
    run.processes.average(state.model)
    if run.config.clip_grad is not None:
        clip_grad_norm_(weights, run.config.clip_grad)
    lr = state.optimizer.param_groups[0]["lr"]
    state.optimizer.step()
    state.scheduler.step_update(batch.update + 1)
    return lr


def _checked_loss(state: RunState, run: _Run, lr: float) -> float:
    """The mean loss of the epoch so far; waits for the device."""
    mean = run.processes.mean(state.total).item() / state.step
    if not math.isfinite(mean):
        raise _diverged("the loss", state, lr)
    return mean


def _check_weights(state: RunState, lr: float) -> None:
    # A gradient of the last step that overflowed has spoilt the weights after the loss was read.
    finite = torch.stack([p.detach().isfinite().all() for p in state.model.parameters()])
    if not bool(finite.all()):
        raise _diverged("a weight", state, lr)


def _diverged(what: str, state: RunState, lr: float) -> TrainingDiverged:
    return TrainingDiverged(
        what, epoch=state.epoch, step=state.step, lr=lr, kept_epoch=state.best_epoch
    )


def _is_better(state: RunState, judged: Judgement) -> bool:
    if judged.accuracy is None or judged.loss is None or state.best_epoch == 0:
        return True
    best = state.history[state.best_epoch - 1]
    assert best.validation_accuracy is not None
    assert best.validation_loss is not None
    return (judged.accuracy, -judged.loss) > (best.validation_accuracy, -best.validation_loss)
