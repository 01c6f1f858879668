"""Runs attacks on models."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deitsec.attacks.attack import Attack
from deitsec.engine.checked_model import CheckedModel, check_clean
from deitsec.engine.goal import Goal, check_targets, choose_targets
from deitsec.engine.guard import attack_mode
from deitsec.engine.keeper import Keeper, Stop
from deitsec.engine.query import EngineQuery
from deitsec.engine.result import AttackResult, Queries
from deitsec.engine.rows import Rows, check_rows
from deitsec.types import Problem, State

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Engine:
    """Runs any attack on one model, in chunks that fit memory.

    Args:
        model: (B, C, H, W) float images in [0, 1] -> (B, K) logits; a `deitsec.Classifier` or any
            module. It is attacked in eval mode with frozen parameters and left as it was found.
        batch_size: rows that go together; `auto` goes by the image size. If memory runs out the
            batch is halved and the run goes on.
        seed: of every random draw; a draw depends on it and on the sample id only, not on the
            batch.
        stop: `first_success` keeps a row's first success, `never` its highest loss.

    Raises:
        ValueError: a batch size or stop rule that is not one.
    """

    model: nn.Module
    batch_size: int | Literal["auto"] = "auto"
    seed: int = 0
    stop: Stop = "first_success"

    def __post_init__(self) -> None:
        """Validate the configuration."""
        if self.batch_size != "auto" and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or 'auto', got {self.batch_size}")
        if self.stop not in ("first_success", "never"):
            raise ValueError(f"stop must be first_success or never, got {self.stop!r}")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise ValueError(f"seed must fit 64 bits, got {self.seed}")

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are; the CPU for a model without any."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @torch.inference_mode(False)  # gradients are needed whatever the caller is in
    def run(
        self,
        attack: Attack,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | None = None,
        sample_ids: Tensor | None = None,
        *,
        progress: Progress | None = None,
    ) -> AttackResult:
        """Attack every image.

        Args:
            attack: what to run.
            images: (B, C, H, W) float in [0, 1], on any device.
            labels: (B,) integer true classes.
            targets: (B,) integer classes to aim at, each other than its label; None leaves the
                choice to `attack.target`, and attacks untargeted where that is None too.
            sample_ids: (B,) int64 identity of each row; None numbers them from 0.
            progress: called with (rows done, rows in all) after each chunk.

        Returns:
            The result, on the device of the images, rows in their order.

        Raises:
            TypeError: images or labels of the wrong dtype.
            ValueError: a batch of zero, images outside [0, 1] or not finite, labels or targets
                out of range, a model that returns NaN or a wrong shape.
        """
        rows = check_rows(attack, images, labels, targets, sample_ids)
        started = time.perf_counter()
        parts: list[AttackResult] = []
        size = self.rows_together(images.shape[1:])
        done = 0
        with attack_mode(self.model):
            while done < len(images):
                try:
                    parts.append(self._run_chunk(attack, rows.slice(done, done + size)))
                except RuntimeError as error:
                    if size == 1 or not _is_out_of_memory(error):
                        raise
                    size = (size + 1) // 2
                    continue
                done = min(done + size, len(images))
                if progress is not None:
                    progress(done, len(images))
        return AttackResult.concatenate(parts, seconds=time.perf_counter() - started)

    def rows_together(self, shape: Sequence[int]) -> int:
        """Rows of this image shape (C, H, W) that go together."""
        if self.batch_size != "auto":
            return self.batch_size
        # a model that resizes inside works on images of its own size; a DeiT's activations for
        # one gradient take about 300 bytes for each of their values
        seen = getattr(self.model, "input_size", None) or shape[1:]
        values = shape[0] * math.prod(seen)
        return min(256, max(8, (1 << 31) // (300 * values)))

    def _run_chunk(self, attack: Attack, rows: Rows) -> AttackResult:
        device = self.device
        x, labels = rows.images.to(device), rows.labels.to(device)
        ids = rows.sample_ids.to(device)
        model = CheckedModel(self.model, labels)
        targets, clean_logits = self._aim(attack, rows, model, x)
        goal = Goal(
            y=labels if targets is None else targets,
            targeted=targets is not None,
            confidence=attack.confidence,
        )
        problem = Problem(x=x, y=goal.y, sample_ids=ids, seed=self.seed, targeted=goal.targeted)
        query = EngineQuery(model, problem, Keeper(x, goal, self.stop), clean_logits)
        self._follow(attack, problem, query)
        return _collect(rows, targets, query)

    def _aim(
        self, attack: Attack, rows: Rows, model: CheckedModel, x: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Targets of the chunk, and the clean logits where they were needed to choose or check."""
        if rows.targets is None and attack.target is None:
            return None, None
        clean_logits = model.clean(x)
        ids = rows.sample_ids.to(x.device)
        check_clean(clean_logits, ids)
        if rows.targets is None:
            assert attack.target is not None
            chosen = choose_targets(attack.target, model.labels, clean_logits, ids, self.seed)
            return chosen, clean_logits
        targets = rows.targets.to(x.device)
        check_targets(targets, model.labels, clean_logits.shape[1])
        return targets, clean_logits

    @staticmethod
    def _follow(attack: Attack, problem: Problem, query: EngineQuery) -> None:
        """Run the attack's program; a row whose gradient is not finite stays where it was."""
        state: State = attack.init(problem)
        for step, times in attack.plan():
            for _ in range(times):
                following = step(problem, state, query)
                alive = query.keeper.finite[:, None, None, None]
                state = following.replace(x=torch.where(alive, following.x, state.x))
        query.ask_clean()
        query.logits(state.x)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out; the CPU's allocator has no class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _collect(rows: Rows, targets: Tensor | None, query: EngineQuery) -> AttackResult:
    keeper, clean_logits = query.keeper, query.ask_clean()
    assert keeper.logits is not None
    logits = torch.where(keeper.untouched[:, None], clean_logits, keeper.logits)
    home = rows.images.device

    def counts(number: int) -> Tensor:
        return torch.full((len(rows.labels),), number, dtype=torch.int64, device=home)

    clean_correct = clean_logits.argmax(1) == rows.labels.to(clean_logits.device)
    return AttackResult(
        clean=rows.images,
        adv=keeper.adv.to(home),
        labels=rows.labels,
        targets=None if targets is None else targets.to(home),
        success=keeper.success.to(home),
        clean_correct=clean_correct.to(home),
        clean_logits=clean_logits.to(home),
        logits=logits.to(home),
        queries=Queries(forward=counts(query.model.forwards), backward=counts(query.backwards)),
        steps=keeper.steps.to(home),
        finite=keeper.finite.to(home),
        driven=keeper.driven.to(home),
        seconds=0.0,
        batch_size=len(rows.labels),
    )


def run(
    attack: Attack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    **options: Any,
) -> AttackResult:
    """Attack with a default engine; `options` are those of `Engine`. See `Engine.run`."""
    return Engine(model, **options).run(attack, images, labels, targets)
