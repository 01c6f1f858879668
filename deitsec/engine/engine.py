"""Runs attacks on models."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor, nn

from deitsec.attacks.attack import Attack
from deitsec.engine.access import check_access
from deitsec.engine.feed import ahead, rows_from, waves
from deitsec.engine.guard import warn_of_training
from deitsec.engine.options import Options
from deitsec.engine.origin import origin_of
from deitsec.engine.result import AttackResult
from deitsec.engine.rows import Rows, check_rows
from deitsec.engine.session import Session

Progress = Callable[[int, int], None]

_WORTH_MEASURING = 512  # steps of one row from which on measuring the model first pays


@dataclass(frozen=True, slots=True)
class Engine(Options):
    """Runs any attack on one model, as fast as the hardware allows.

    It keeps what it learns about the model: an engine that is used again does not measure, copy and
    compile again.

    Args:
        model: (B, C, H, W) float images in [0, 1] -> (B, K) logits; a `deitsec.Classifier` or any
            module. It is attacked in eval mode with frozen parameters and left as it was found. It
            may be trained between two runs; a plain attribute of it that changes is not noticed
            where a copy of the model is asked (lower precision, channels_last).
        batch_size: rows that go together; `auto` measures one step and takes what fits, at most
            256. If memory runs out the batch is halved and the run goes on.
        seed: of every random draw; a draw depends on it and on the sample id only, not on the
            batch.
        stop: `first_success` keeps a row's first success, `never` its highest loss.
        precision: of the forward passes and gradients that drive the attack: `fp32`, `tf32`,
            `bf16` or `fp16`. Below fp32 a success counts only when an fp32 forward pass confirms
            it; `AttackResult.disagreement` is the share that was refuted.
        compile: whether the model goes through torch.compile; `max-autotune` takes longer to do it.
        channels_last: layout of images and weights; `auto` measures both once per model.
        attention: kernels of scaled_dot_product_attention: `auto` measures those that there are
            once per model, `default` leaves it to PyTorch, or one of `flash`, `cudnn`, `efficient`,
            `math`, `matmul` (as two matrix products).
        cuda_graphs: whether steps are captured in CUDA graphs; `auto` where there is a GPU.
        compaction: whether rows that are done leave the batch (with `first_success`).
        deterministic: equal bytes run to run, and for one batch size shard to shard: every batch is
            filled up to that size, deterministic kernels, nothing decided by measurement.
        quantize: give adversarial images that 8-bit levels can hold: success is judged after
            rounding to the nearest level within eps. Where the clean image lies between levels, or
            eps is less than a level, a value goes to the nearest level that eps allows, or to that
            of the clean image where there is none.
        surrogate: a model that drives the attack in the place of `model`, which is asked for
            decisions only: a transfer attack. The clean images, successes and all that is returned
            are judged by `model`; a row goes on after a success of the surrogate that `model`
            refutes. Claims are as `stop` says: with `never` one a row, its highest loss of the
            surrogate.

    Raises:
        ValueError: an option out of range.
    """

    _session: Session = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Validate the options."""
        Options.__post_init__(self)
        object.__setattr__(self, "_session", Session(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """An engine travels without what it learnt: its copies, graphs and choices stay behind."""
        options = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        return _made_again, (type(self), options)

    def run(
        self,
        attack: Attack,
        images: Tensor | Iterable[Any],
        labels: Tensor | None = None,
        targets: Tensor | None = None,
        sample_ids: Tensor | None = None,
        *,
        progress: Progress | None = None,
    ) -> AttackResult:
        """Attack every image.

        Args:
            attack: what to run.
            images: (B, C, H, W) float in [0, 1], on any device; or a DataLoader or any iterable of
                (images, labels), (images, labels, targets) or mappings with these names and
                `sample_ids`, and then nothing else is given.
            labels: (B,) integer true classes.
            targets: (B,) integer classes to aim at, each other than its label; None leaves the
                choice to `attack.target`, and attacks untargeted where that is None too.
            sample_ids: (B,) int64 identity of each row, 0 to 2**48 - 1; None numbers them from 0.
            progress: called with (rows done, rows in all), the rows still under attack counted by
                the share of their steps; rows in all is 0 where an iterable does not say.

        Returns:
            The result, on the device of the images, rows in their order.

        Raises:
            TypeError: images or labels of the wrong dtype.
            ValueError: a batch of zero, images outside [0, 1] or not finite, labels or targets
                out of range, a model that returns NaN or a wrong shape.
        """
        started = time.perf_counter()
        given = (labels, targets, sample_ids)
        parts = list(self.stream(attack, images, *given, progress=progress))
        if not parts:
            raise ValueError("images must hold at least one row, got 0")
        return AttackResult.concatenate(parts, seconds=time.perf_counter() - started)

    def stream(
        self,
        attack: Attack,
        images: Tensor | Iterable[Any],
        labels: Tensor | None = None,
        targets: Tensor | None = None,
        sample_ids: Tensor | None = None,
        *,
        progress: Progress | None = None,
    ) -> Iterator[AttackResult]:
        """Attack every image, and give the results of each wave of rows as it is done.

        Memory stays bounded whatever the number of images: one wave is attacked while the next is
        read. Arguments and errors are those of `run`; rows keep their order, and
        `AttackResult.sample_ids` tells who they are.
        """
        if isinstance(images, Tensor):
            if labels is None:
                raise ValueError("labels must be given with a tensor of images")
            rows = check_rows(attack, images, labels, targets, sample_ids)
            source, total = iter([rows]), len(images)
        else:
            if labels is not None or targets is not None or sample_ids is not None:
                raise ValueError(
                    "labels, targets and sample_ids come from the iterable of images itself"
                )
            source, total = rows_from(attack, images), _length(images)
        known = isinstance(images, Tensor)
        steps = sum(times for stage in attack.stages for _, times in stage.plan())
        measure = not known or total * steps >= _WORTH_MEASURING
        return self._stream(attack, source, progress, total, measure)

    def explain(self) -> dict[str, str]:
        """What was decided for the images of the last run, and why: subject to decision."""
        notes = dict(self._session.notes)
        return notes or {"nothing": "decisions are made when the first images come"}

    def rows_together(self, shape: Sequence[int]) -> int:
        """Rows of this image shape (C, H, W) that go together."""
        return self._session.rows_together(shape)

    def _stream(
        self,
        attack: Attack,
        source: Iterator[Rows],
        progress: Progress | None,
        total: int,
        measure: bool,
    ) -> Iterator[AttackResult]:
        first = next(source, None)
        if first is None:
            return
        check_access(attack, self.model, self.surrogate)
        self._session.origin = origin_of(attack, self.model)
        for model in self.models:
            warn_of_training(model, stacklevel=3)
        session = self._session
        prepared, ladder = session.ready(
            first.images, attack=attack, measure=measure or bool(self.compile)
        )
        size = session.wave_rows(first.images, attack, ladder)
        done, told = 0, 0
        for rows, x in ahead(waves(itertools.chain([first], source), size), self.device):

            def tick(share: float, done: int = done, count: int = len(x)) -> None:
                nonlocal told  # a wave that runs out of memory starts anew
                told = max(told, done + int(share * count))
                if progress is not None:
                    progress(told, total)

            result, ladder = session.attack(attack, prepared, ladder, rows, x, tick)
            done += len(x)
            tick(0.0, done)
            yield result


def _made_again(kind: type[Engine], options: dict[str, Any]) -> Engine:
    return kind(**options)


def _length(source: Iterable[Any]) -> int:
    """Rows of an iterable where it says so, as a DataLoader does of its dataset; else 0."""
    dataset: Any = getattr(source, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else 0


def run(
    attack: Attack,
    model: nn.Module,
    images: Tensor | Iterable[Any],
    labels: Tensor | None = None,
    targets: Tensor | None = None,
    **options: Any,
) -> AttackResult:
    """Attack with a default engine; `options` are those of `Engine`. See `Engine.run`."""
    return Engine(model, **options).run(attack, images, labels, targets)
