"""What an engine has learnt about its model, and the attack on one wave with it."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks.attack import Attack
from deitsec.engine.access import access_of
from deitsec.engine.checked_model import CheckedModel
from deitsec.engine.exact import ExactModel
from deitsec.engine.fingerprint import fingerprint
from deitsec.engine.graphs import GraphSteps
from deitsec.engine.guard import attack_mode, calculation
from deitsec.engine.ladder import Ladder, make_ladder
from deitsec.engine.memory import (
    PeakMemory,
    bytes_per_row,
    is_out_of_memory,
    rows_by_size,
    rows_that_fit,
)
from deitsec.engine.options import Options
from deitsec.engine.preparation import Prepared, Wishes, compile_model, prepare
from deitsec.engine.result import AttackResult
from deitsec.engine.rounding import Rounding
from deitsec.engine.rows import Rows
from deitsec.engine.steps import EagerSteps, Steps
from deitsec.engine.wave import Course, Wave

# rows that are tried: enough to fill the device, or what is measured is how steps are launched
_PROBE_ROWS, _PROBE_VALUES = (8, 64), 8 * 3 * 224 * 224
_WAVE_BATCHES = 8  # full batches that rows are pooled from when some of them are done
_WAVE_BYTES = 1 << 28  # of the images of a wave, of which a run holds a few copies
_CHECK_EVERY = 4  # steps between two looks at a GPU's rows; a CPU is asked every step
_WHOLE_PHASE = 1 << 30


class Session:
    """The prepared forms of a model, the batches that fit, the graphs that were captured.

    Args:
        options: those of the engine.

    Attributes:
        notes: what `Engine.explain` says.
        origin: the model that what the attack applies was made for, in words; None for none.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.notes: dict[str, str] = {}
        self.origin: str | None = None
        self._prepared: dict[Any, Prepared] = {}
        self._rows: dict[tuple[int, ...], int] = {}  # measured, or what memory had room for
        self._sizes: dict[tuple[int, ...], str] = {}  # why
        self._graphs: dict[Any, GraphSteps] = {}
        self._warned = False  # of images that rounding takes out of every ball

    def rows_together(self, shape: Sequence[int]) -> int:
        """Rows of this image shape (C, H, W) that go together."""
        asked, known = self.options.batch_size, self._rows.get(tuple(shape))
        if asked != "auto":
            return asked if known is None else min(asked, known)
        if known is not None:
            return known
        model = self.options.source
        # a model that resizes inside works on images of its own size, one that samples on several
        seen = getattr(model, "input_size", None) or shape[1:]
        samples = math.prod(getattr(module, "num_samples", 1) for module in model.modules())
        return max(1, rows_by_size((shape[0], *seen)) // max(1, samples))

    @torch.inference_mode(False)  # gradients are needed whatever the caller is in
    def ready(self, images: Tensor, *, attack: Attack, measure: bool) -> tuple[Prepared, Ladder]:
        """The model prepared for images like these, and the sizes of their batches.

        Args:
            images: (B, C, H, W) some of those to come.
            attack: what is to be run.
            measure: whether there is enough to do to find out what is fast first.
        """
        options, device = self.options, self.options.device
        least, most = _PROBE_ROWS
        small = _PROBE_VALUES // images[0].numel()
        probe = most if device.type == "cuda" else max(least, min(most, small))
        x = images[:probe].to(device)
        x = x.repeat(-(-probe // len(x)), 1, 1, 1)[:probe]
        with attack_mode(*options.models), calculation(device, deterministic=options.deterministic):
            while True:
                try:
                    return self._ready(x, attack, measure=measure and not options.deterministic)
                except RuntimeError as error:
                    if len(x) == 1 or not is_out_of_memory(error):
                        raise
                x = x[: len(x) // 2]
                self._make_room()

    def _ready(self, x: Tensor, attack: Attack, *, measure: bool) -> tuple[Prepared, Ladder]:
        options, shape = self.options, tuple(x.shape[1:])
        hidden = access_of(options.source) != "gradient"
        # the nearest success lies on the border, where lower precision answers otherwise
        precision = "fp32" if attack.minimizes or hidden else options.precision
        measure = measure and not hidden  # what is measured are gradients
        key = (shape, x.dtype, x.device, measure, precision)
        known = self._prepared.get(key)
        if known is None or (known.twin is not None and not known.twin.fits()):
            wishes = Wishes(
                precision=precision,
                channels_last=False if hidden else options.channels_last,
                attention="default" if hidden else options.attention,
                measure=measure,
                recall=not (options.deterministic or hidden),
            )
            if options.surrogate is not None:
                _check_classes(options.model, options.surrogate, x[:1])
            known = prepare(options.source, wishes, x)
        if measure and shape not in self._rows and options.batch_size == "auto":
            self._measure_rows(known, x)
        top = self.rows_together(shape)
        if options.compile and not hidden and "compile" not in known.decisions:
            compile_model(known, options.compile, x.repeat(-(-top // len(x)), 1, 1, 1)[:top])
        if precision != options.precision:
            why = f"{attack.name} looks for the nearest success, and {options.precision} misses it"
            if hidden:
                why = "the model is a black box, which answers as it likes"
            known.decisions["precision"] = f"fp32: {why}"
        self._prepared[key] = known
        return known, self._ladder(known, top)

    def _measure_rows(self, prepared: Prepared, x: Tensor) -> None:
        weights = self.options.source if prepared.twin is None else prepared.twin
        driver = prepared.driver(torch.zeros(1, dtype=torch.int64))
        try:
            row = bytes_per_row(driver, weights.parameters(), x)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            return  # the run itself will say what is wrong with the model
        self._rows[tuple(x.shape[1:])] = rows_that_fit(row, x.device)
        self._sizes[tuple(x.shape[1:])] = (
            f"a row takes {row / (1 << 20):.2f} MiB, measured on {len(x)}"
        )

    @torch.inference_mode(False)
    def attack(
        self,
        attack: Attack,
        prepared: Prepared,
        ladder: Ladder,
        rows: Rows,
        x: Tensor,
        tick: Callable[[float], None],
    ) -> tuple[AttackResult, Ladder]:
        """Attack one wave; if memory runs out, again in smaller batches.

        Args:
            attack: what is run.
            prepared, ladder: from `ready`.
            rows: who.
            x: (N, C, H, W) their images, where the model is.
            tick: told the share of the work that is done.

        Returns:
            The result, and the ladder to go on with.
        """
        options = self.options
        started, peak = time.perf_counter(), PeakMemory(options.device)
        with (
            attack_mode(*options.models),
            calculation(options.device, deterministic=options.deterministic),
        ):
            if prepared.twin is not None:
                prepared.twin.follow()
            while True:
                model = CheckedModel(options.model, rows.labels)
                exact = ExactModel(model, options.model, ladder, options.seed)
                course = self._course(attack, prepared, ladder)
                self._warn_of_stranded(course.rounding, x)
                driver = prepared.driver(rows.labels)
                try:
                    result = Wave(course, exact, driver, rows, x, tick).run()
                    break
                except RuntimeError as error:
                    if ladder.top == 1 or not is_out_of_memory(error):
                        raise
                self._make_room()
                ladder = self._ladder(prepared, (ladder.top + 1) // 2)
                self._rows[tuple(x.shape[1:])] = ladder.top
                self._sizes[tuple(x.shape[1:])] = "memory ran out with more"
        self._note(prepared, course, tuple(x.shape[1:]))
        seconds = time.perf_counter() - started
        return dataclasses.replace(result, seconds=seconds, peak_memory=peak.bytes()), ladder

    def _warn_of_stranded(self, rounding: Rounding | None, x: Tensor) -> None:
        if rounding is None or self._warned or not rounding.stranded(x).any():
            return
        self._warned = True
        warnings.warn(
            f"quantize: some images lie so far between 8-bit levels that no 8-bit image is within "
            f"eps={rounding.eps:g} ({rounding.norm}) of them; these rows cannot succeed. Give "
            "images of whole levels (deitsec.data.to_float of uint8) or a larger eps",
            stacklevel=4,
        )

    def wave_rows(self, images: Tensor, attack: Attack, ladder: Ladder) -> int:
        """Rows that are pooled: as many as fill batches again when most of them are done."""
        if not self._compacts(attack):
            return ladder.top
        row = images[0].numel() * images.element_size()
        batches = min(_WAVE_BATCHES, _WAVE_BYTES // (row * ladder.top))
        return ladder.top * max(1, batches)

    def _compacts(self, attack: Attack) -> bool:
        ends = self.options.stop == "first_success" or attack.minimizes
        return self.options.compaction and ends

    def _ladder(self, prepared: Prepared, top: int) -> Ladder:
        return make_ladder(
            top,
            deterministic=self.options.deterministic,
            compiled=prepared.compiled,
            graphs=self._graphs_off() is None,
        )

    def _graphs_off(self) -> str | None:
        """Why steps are not captured, or None where they are."""
        if self.options.cuda_graphs is False:
            return "as asked"
        if self.options.device.type != "cuda":
            return f"a {self.options.device.type} has none"
        if self.options.draws:
            return "the model draws other random numbers at each step"
        if access_of(self.options.source) != "gradient":
            return "a black box counts its queries, which a replay would not be"
        return None

    def _course(self, attack: Attack, prepared: Prepared, ladder: Ladder) -> Course:
        options = self.options
        rounding = None
        if options.quantize:
            rounding = Rounding(norm=attack.traits.norm, eps=attack.radius)
        first = options.stop == "first_success"
        looks = _CHECK_EVERY if options.device.type == "cuda" else 1
        transfers = options.surrogate is not None
        same_model = prepared.same_model and not options.draws and not transfers
        doubtful = prepared.reduced or options.quantize or options.draws or transfers
        confirmed = doubtful or not same_model
        return Course(
            attack=attack,
            seed=options.seed,
            first=first,
            compaction=self._compacts(attack),
            ladder=ladder,
            check_every=looks if self._compacts(attack) or (first and confirmed) else _WHOLE_PHASE,
            steps=self._steps_of(attack, prepared),
            same_model=same_model,
            confirmed=confirmed,
            doubtful=doubtful,
            reduced=prepared.reduced and not transfers,  # the model cannot take its steps
            rounding=rounding,
            gather=not options.deterministic,
        )

    def _steps_of(self, attack: Attack, prepared: Prepared) -> Steps:
        if self._graphs_off() is not None:
            return EagerSteps()
        asked = self.options.source if prepared.twin is None else prepared.twin
        key = (attack, id(prepared), fingerprint(asked))
        if key not in self._graphs:
            self._forget_graphs()  # they hold memory: those of one attack are kept
            self._graphs[key] = GraphSteps(self.options.device)
        return self._graphs[key]

    def _forget_graphs(self) -> None:
        for steps in self._graphs.values():
            steps.forget()
        self._graphs.clear()

    def _make_room(self) -> None:
        self._forget_graphs()
        if self.options.device.type == "cuda":
            torch.cuda.empty_cache()

    def _note(self, prepared: Prepared, course: Course, shape: tuple[int, ...]) -> None:
        """Write down what `explain` says of this run."""
        options = self.options
        off, steps = self._graphs_off(), course.steps
        compaction = "on" if course.compaction else "off: as asked"
        if options.stop == "never" and not course.compaction:
            compaction = "off: stop='never' lets no row leave"
        successes = "by the logits of the attack's own forward passes"
        if course.confirmed:
            rounded = " after rounding to 8 bits" if options.quantize else ""
            successes = f"confirmed by a forward pass of the exact model{rounded}"
        if options.surrogate is not None:
            successes = f"of {type(options.surrogate).__name__}, {successes}"
        self.notes.clear()
        self.notes.update(prepared.decisions)
        self.notes["compile"] = prepared.decisions.get("compile", "off: as asked")
        asked = "by the image size" if options.batch_size == "auto" else "as asked"
        self.notes["batch_size"] = f"{course.ladder.top}: {self._sizes.get(shape, asked)}"
        self.notes["batch_sizes"] = ", ".join(map(str, course.ladder.sizes))
        self.notes["cuda_graphs"] = (
            steps.explain() if isinstance(steps, GraphSteps) else f"off: {off}"
        )
        self.notes["compaction"] = compaction
        self.notes["successes"] = successes
        if self.origin is not None:
            self.notes["made_for"] = self.origin


def _check_classes(model: nn.Module, surrogate: nn.Module, x: Tensor) -> None:
    """Raise a ValueError for a surrogate that tells other classes apart than the model."""
    with torch.no_grad():
        ours, theirs = model(x).shape[-1], surrogate(x).shape[-1]
    if ours != theirs:
        raise ValueError(
            f"model and surrogate must have the same classes, got {ours} and {theirs} of them"
        )
