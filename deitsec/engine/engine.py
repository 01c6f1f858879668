"""Runs attacks on models."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deitsec import ops
from deitsec.attacks.attack import Attack
from deitsec.engine.checked_model import CheckedModel
from deitsec.engine.exact import ExactModel
from deitsec.engine.feed import ahead, rows_from, waves
from deitsec.engine.graphs import GraphSteps
from deitsec.engine.guard import attack_mode, calculation
from deitsec.engine.kept import Stop
from deitsec.engine.ladder import Ladder, make_ladder
from deitsec.engine.memory import PeakMemory, bytes_per_row, rows_by_size, rows_that_fit
from deitsec.engine.precision import PRECISIONS, Precision
from deitsec.engine.preparation import Compile, Prepared, Wishes, compile_model, prepare
from deitsec.engine.result import AttackResult
from deitsec.engine.rows import Rows, check_rows
from deitsec.engine.steps import EagerSteps, Steps
from deitsec.engine.wave import Course, Wave

Progress = Callable[[int, int], None]

_PROBE_ROWS = 8
_WORTH_MEASURING = 512  # steps of one row from which on measuring the model first pays
_WAVE_BATCHES = 8  # full batches that rows are pooled from when some of them are done
_WAVE_BYTES = 1 << 28  # of the images of a wave, of which a run holds a few copies
_CHECK_EVERY = 4  # steps between two looks at a GPU's rows; a CPU is asked every step


@dataclass(frozen=True, slots=True)
class Engine:
    """Runs any attack on one model, as fast as the hardware allows.

    Args:
        model: (B, C, H, W) float images in [0, 1] -> (B, K) logits; a `deitsec.Classifier` or any
            module. It is attacked in eval mode with frozen parameters and left as it was found.
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
        cuda_graphs: whether steps are captured in CUDA graphs; `auto` where there is a GPU.
        compaction: whether rows that are done leave the batch (with `first_success`).
        deterministic: equal bytes run to run, and for one batch size shard to shard: every batch is
            filled up to that size, deterministic kernels, nothing decided by measurement.
        quantize: give adversarial images that 8-bit levels can hold: success is judged after
            rounding to the nearest level within eps.

    Raises:
        ValueError: an option out of range.
    """

    model: nn.Module
    batch_size: int | Literal["auto"] = "auto"
    seed: int = 0
    stop: Stop = "first_success"
    precision: Precision = "fp32"
    compile: Compile = False
    channels_last: bool | Literal["auto"] = "auto"
    cuda_graphs: bool | Literal["auto"] = "auto"
    compaction: bool = True
    deterministic: bool = False
    quantize: bool = False
    _prepared: dict[Any, Prepared] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _rows: dict[Any, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _steps: dict[Any, GraphSteps] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _notes: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Validate the configuration."""
        if self.batch_size != "auto" and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or 'auto', got {self.batch_size}")
        if self.stop not in ("first_success", "never"):
            raise ValueError(f"stop must be first_success or never, got {self.stop!r}")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise ValueError(f"seed must fit 64 bits, got {self.seed}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        if self.compile not in (True, False, "max-autotune"):
            raise ValueError(f"compile must be True, False or max-autotune, got {self.compile!r}")
        for name in ("channels_last", "cuda_graphs"):
            if getattr(self, name) not in (True, False, "auto"):
                raise ValueError(f"{name} must be True, False or auto, got {getattr(self, name)!r}")

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are; the CPU for a model without any."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

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
        steps = sum(times for _, times in attack.plan())
        measure = not known or total * steps >= _WORTH_MEASURING
        return self._stream(attack, source, progress, total, measure)

    def explain(self) -> dict[str, str]:
        """What was decided for the images of the last run, and why: subject to decision."""
        return dict(self._notes) or {"nothing": "decisions are made when the first images come"}

    def rows_together(self, shape: Sequence[int]) -> int:
        """Rows of this image shape (C, H, W) that go together."""
        if self.batch_size != "auto":
            return self.batch_size
        # a model that resizes inside works on images of its own size
        seen = getattr(self.model, "input_size", None) or shape[1:]
        return self._rows.get(tuple(shape), rows_by_size((shape[0], *seen)))

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
        prepared, ladder = self._ready(first.images, measure=measure or bool(self.compile))
        size = self._wave_rows(first.images, ladder)
        done, told = 0, 0
        for rows, x in ahead(waves(itertools.chain([first], source), size), self.device):

            def tick(share: float, done: int = done, count: int = len(x)) -> None:
                nonlocal told  # a wave that runs out of memory starts anew
                told = max(told, done + int(share * count))
                if progress is not None:
                    progress(told, total)

            result, ladder = self._attack(attack, prepared, ladder, rows, x, tick)
            done += len(x)
            tick(0.0, done)
            yield result

    @torch.inference_mode(False)  # gradients are needed whatever the caller is in
    def _ready(self, images: Tensor, *, measure: bool) -> tuple[Prepared, Ladder]:
        """The model prepared for images like these, and the sizes of their batches."""
        shape = tuple(images.shape[1:])
        measure = measure and not self.deterministic
        key = (shape, images.dtype, self.device, measure)
        with attack_mode(self.model), calculation(self.device, deterministic=self.deterministic):
            x = images[:_PROBE_ROWS].to(self.device)
            if key not in self._prepared:
                wishes = Wishes(
                    precision=self.precision,
                    channels_last=self.channels_last,
                    measure=measure,
                )
                self._prepared[key] = prepare(self.model, wishes, x)
            prepared = self._prepared[key]
            if self.batch_size == "auto" and measure and shape not in self._rows:
                self._rows[shape] = self._measure_rows(prepared, x)
            top = self.rows_together(shape)
            if self.compile and "compile" not in prepared.decisions:
                compile_model(prepared, self.compile, x.repeat(-(-top // len(x)), 1, 1, 1)[:top])
        return prepared, self._ladder(prepared, top)

    def _measure_rows(self, prepared: Prepared, x: Tensor) -> int:
        weights = self.model if prepared.twin is None else prepared.twin
        driver = prepared.driver(torch.zeros(1, dtype=torch.int64))
        try:
            row = bytes_per_row(driver, weights.parameters(), x)
        except (RuntimeError, ValueError):  # the run itself will say what is wrong with the model
            return rows_by_size(x.shape[1:])
        rows = rows_that_fit(row, x.device)
        prepared.decisions["batch_size"] = (
            f"{rows}: a row takes {row / (1 << 20):.2f} MiB, measured on {len(x)}"
        )
        return rows

    def _ladder(self, prepared: Prepared, top: int) -> Ladder:
        return make_ladder(
            top,
            deterministic=self.deterministic,
            compiled=prepared.compiled,
            graphs=self._graphs_off() is None,
        )

    def _graphs_off(self) -> str | None:
        """Why steps are not captured, or None where they are."""
        if self.cuda_graphs is False:
            return "as asked"
        if self.device.type != "cuda":
            return f"a {self.device.type} has none"
        if _draws(self.model):
            return "the model draws other random numbers at each step"
        return None

    def _wave_rows(self, images: Tensor, ladder: Ladder) -> int:
        """Rows that are pooled: as many as fill batches again when most of them are done."""
        if not (self.compaction and self.stop == "first_success"):
            return ladder.top
        row = images[0].numel() * images.element_size()
        batches = min(_WAVE_BATCHES, _WAVE_BYTES // (row * ladder.top))
        return ladder.top * max(1, batches)

    def _course(self, attack: Attack, prepared: Prepared, ladder: Ladder) -> Course:
        levels: int | None = None
        if self.quantize:
            eps: float | None = getattr(attack, "eps", None)
            bounded = attack.traits.norm == "linf"
            levels = ops.grey_levels(eps) if eps is not None and bounded else 255
        return Course(
            attack=attack,
            seed=self.seed,
            first=self.stop == "first_success",
            compaction=self.compaction and self.stop == "first_success",
            ladder=ladder,
            check_every=_CHECK_EVERY if self.device.type == "cuda" else 1,
            steps=self._steps_of(attack),
            same_model=prepared.same_model and not _draws(self.model),
            confirmed=prepared.reduced or self.quantize or _draws(self.model),
            levels=levels,
            gather=not self.deterministic,
        )

    def _steps_of(self, attack: Attack) -> Steps:
        if self._graphs_off() is not None:
            return EagerSteps()
        # a graph reads the weights where they were when it was captured
        weights = itertools.chain(self.model.parameters(), self.model.buffers())
        key = (attack, tuple(tensor.data_ptr() for tensor in weights))
        if key not in self._steps:
            self._steps.clear()  # graphs hold memory: those of one attack are kept
            self._steps[key] = GraphSteps(self.device)
        return self._steps[key]

    @torch.inference_mode(False)
    def _attack(
        self,
        attack: Attack,
        prepared: Prepared,
        ladder: Ladder,
        rows: Rows,
        x: Tensor,
        tick: Callable[[float], None],
    ) -> tuple[AttackResult, Ladder]:
        """Attack one wave; if memory runs out, again in smaller batches."""
        started = time.perf_counter()
        peak = PeakMemory(self.device)
        with attack_mode(self.model), calculation(self.device, deterministic=self.deterministic):
            if prepared.twin is not None:
                prepared.twin.follow()
            while True:
                exact = ExactModel(CheckedModel(self.model, rows.labels), ladder, self.seed)
                course = self._course(attack, prepared, ladder)
                driver = prepared.driver(rows.labels)
                try:
                    result = Wave(course, exact, driver, rows, x, tick).run()
                    break
                except RuntimeError as error:
                    if ladder.top == 1 or not _is_out_of_memory(error):
                        raise
                self._steps.clear()
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                ladder = self._ladder(prepared, (ladder.top + 1) // 2)
        self._note(prepared, course)
        return (
            dataclasses.replace(
                result, seconds=time.perf_counter() - started, peak_memory=peak.bytes()
            ),
            ladder,
        )

    def _note(self, prepared: Prepared, course: Course) -> None:
        """Gather what `explain` says."""
        asked = "by the image size" if self.batch_size == "auto" else "as asked"
        off = self._graphs_off()
        steps = course.steps
        graphs = steps.explain() if isinstance(steps, GraphSteps) else f"off: {off}"
        compaction = "on" if course.compaction else "off: as asked"
        if self.stop == "never":
            compaction = "off: stop='never' lets no row leave"
        self._notes.update(
            {
                "batch_size": f"{course.ladder.top}: {asked}",
                **prepared.decisions,
                "batch_sizes": ", ".join(map(str, course.ladder.sizes)),
                "cuda_graphs": graphs,
                "compaction": compaction,
                "successes": (
                    "confirmed by a forward pass of the exact model"
                    + (" after rounding to 8 bits" if self.quantize else "")
                    if course.confirmed
                    else "by the logits of the attack's own forward passes"
                ),
            }
        )


def _draws(model: nn.Module) -> bool:
    """Whether a model draws random numbers in eval mode, and says so."""
    return bool(getattr(model, "stochastic", False))


def _length(source: Iterable[Any]) -> int:
    """Rows of an iterable where it says so, as a DataLoader does of its dataset; else 0."""
    dataset: Any = getattr(source, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else 0


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out; the CPU's allocator has no class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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
