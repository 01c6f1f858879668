"""A wave: the rows that are attacked together, in batches that take their steps side by side."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack
from deitsec.engine.batch import Batch
from deitsec.engine.checked_model import check_clean
from deitsec.engine.compaction import Compaction
from deitsec.engine.confirmation import Confirmation
from deitsec.engine.driver import Driver
from deitsec.engine.exact import ExactModel
from deitsec.engine.goal import Goal, check_targets, choose_targets, likeliest_targets
from deitsec.engine.kept import Kept
from deitsec.engine.ladder import Ladder
from deitsec.engine.outcome import Outcome
from deitsec.engine.query import EngineQuery
from deitsec.engine.result import AttackResult, Queries
from deitsec.engine.rounding import Rounding
from deitsec.engine.row_batch import take_rows
from deitsec.engine.rows import VARIANT_BIT, Rows
from deitsec.engine.steps import EagerSteps, Steps
from deitsec.types import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How a run goes about its waves.

    Attributes:
        attack: what is run.
        seed: of every draw.
        first: whether a row keeps its first success, and not the one of highest loss.
        compaction: whether rows that are done leave.
        ladder: the sizes of batches.
        check_every: steps between two looks at what is done.
        steps: takes the steps.
        same_model: whether the driver's logits are those of the exact model.
        confirmed: whether successes are asked about again.
        doubtful: whether the exact model may answer otherwise by more than fp32's rounding.
        reduced: whether the driver computes in less than fp32: it may overflow where that does not.
        rounding, gather: as in `Confirmation`.
    """

    attack: Attack
    seed: int
    first: bool
    compaction: bool
    ladder: Ladder
    check_every: int
    steps: Steps
    same_model: bool
    confirmed: bool
    doubtful: bool
    reduced: bool
    rounding: Rounding | None
    gather: bool


class Wave:
    """Attacks some rows, all tries of them.

    Args:
        course: how.
        exact: what decides.
        driver: what the steps ask.
        rows: who, where the caller has them.
        x: (N, C, H, W) their images, where the model is.
        tick: told the share of the work that is done.
    """

    def __init__(
        self,
        course: Course,
        exact: ExactModel,
        driver: Driver,
        rows: Rows,
        x: Tensor,
        tick: Callable[[float], None],
    ) -> None:
        self.course = course
        self.exact = exact
        self.driver = driver
        self.steps = course.steps
        self.rows = rows
        self.x = x
        self.labels = rows.labels.to(x.device)
        self.ids = rows.sample_ids.to(x.device)
        self.tick = tick
        self.outcome = Outcome(x, first=course.first)
        self.clean_logits: Tensor | None = None
        self.confirmation = Confirmation(exact, rounding=course.rounding, gather=course.gather)

    def run(self) -> AttackResult:
        """Attack, and say what came of it."""
        targets = self._aim()
        tries = self.course.attack.num_restarts * (1 if targets is None else targets.shape[1])
        ladder, outcome = self.course.ladder, self.outcome
        compaction = Compaction(
            ladder,
            outcome,
            len(self.x),
            tries,
            self.x.device,
            frozen_leave=not self.course.confirmed,
        )
        for rows, variants, which in self._tries(tries):
            share = (which.start / tries, len(which) / tries)
            self._follow(self._start(rows, variants, targets), compaction, share)
        if self.course.reduced:
            self._again_in_fp32(targets, compaction)
        return self._result(targets)

    def _again_in_fp32(self, targets: Tensor | None, compaction: Compaction) -> None:
        """Attack the rows on which the driver overflowed by the exact model: it may not."""
        rows = (~self.outcome.finite & ~self.outcome.success).nonzero()[:, 0]
        if len(rows) == 0:
            return
        self.outcome.finite[rows] = True
        self.driver, self.steps = Driver(self.exact.model), EagerSteps()
        batches = self._start(rows, torch.zeros_like(rows), targets)
        self._follow(batches, compaction, (1.0, 0.0))

    def _aim(self) -> Tensor | None:
        """(N, T) classes that each row is aimed at, one after the other; None aims at none."""
        attack, rows = self.course.attack, self.rows
        if rows.targets is None and attack.target is None and not attack.num_targets:
            if not self.course.same_model:
                self._know_clean()
            return None
        clean = self._know_clean()
        if attack.num_targets and rows.targets is None:
            return likeliest_targets(attack.num_targets, self.labels, clean)
        if rows.targets is None:
            assert attack.target is not None
            return choose_targets(attack.target, self.labels, clean, self.ids, self.course.seed)[
                :, None
            ]
        targets = rows.targets.to(self.x.device)
        check_targets(targets, self.labels, clean.shape[1])
        return targets[:, None]

    @property
    def _many_targets(self) -> bool:
        return self.course.attack.num_targets > 0 and self.rows.targets is None

    def _tries(self, tries: int) -> Iterator[tuple[Tensor, Tensor, range]]:
        """Rows and variants that go together, and which those are: first every row once.

        The first try ends most rows of a weak model; what is left is too few to fill batches by
        itself, so the other tries of it go side by side.
        """
        rows = torch.arange(len(self.x), device=self.x.device)
        yield rows, torch.zeros_like(rows), range(1)
        variant = 1
        while variant < tries:
            if self.course.compaction:
                rows = (~self.outcome.success).nonzero()[:, 0]
                if len(rows) == 0:
                    return
            together = min(max(1, len(self.x) // len(rows)), tries - variant)
            variants = torch.arange(variant, variant + together, device=rows.device)
            side_by_side = range(variant, variant + together)
            yield rows.repeat(together), variants.repeat_interleave(len(rows)), side_by_side
            variant += together

    def _start(self, rows: Tensor, variants: Tensor, targets: Tensor | None) -> list[Batch]:
        start, batches = 0, []
        for number, size in self.course.ladder.start(len(rows)):
            place = torch.arange(size, device=rows.device)
            index = start + place % number
            batches.append(self._batch(rows[index], variants[index], place < number, targets))
            start += number
        return batches

    def _batch(self, rows: Tensor, variants: Tensor, real: Tensor, targets: Tensor | None) -> Batch:
        labels, aims = self.labels[rows], None
        if targets is not None:
            aims = targets[rows, variants % targets.shape[1]]
        goal = Goal(y=labels, targeted=False)
        if aims is not None and not self._many_targets:
            goal = Goal(y=aims, targeted=True, confidence=self.course.attack.confidence)
        problem = Problem(
            x=self.x[rows],
            y=labels if aims is None else aims,
            sample_ids=self.ids[rows] + (variants << VARIANT_BIT),
            seed=self.course.seed,
            targeted=aims is not None,
        )
        return Batch(
            problem=problem,
            goal=goal,
            state=self.course.attack.init(problem),
            kept=Kept.nothing(problem.x),
            rows=rows,
            variants=variants,
            real=real,
            aligned=not self._many_targets,
        )

    def _follow(
        self, batches: list[Batch], compaction: Compaction, share: tuple[float, float]
    ) -> None:
        """Run the attack's program on the batches, side by side.

        `share` is the part of the work that was done before, and the part that this is.
        """
        course, taken = self.course, 0
        plan = course.attack.plan()
        steps = sum(times for _, times in plan)
        first = course.first and not course.doubtful  # a claim that may not hold is improved
        for step, times in plan:
            done = 0
            while done < times and batches:
                number = min(course.check_every, times - done)
                for batch in batches:
                    query = EngineQuery(self.driver, batch, first=first)
                    self.steps.advance(step, query, number)
                    self._note_clean(query)
                done, taken = done + number, taken + number
                self.tick(share[0] + share[1] * taken / (steps + 1))
                self._retire(batches)
                if course.compaction:
                    batches = compaction.pack(batches)
        for batch in batches:
            self._finish(batch, first)

    def _retire(self, batches: list[Batch]) -> None:
        """Look at what is done, where that can end the attack on a row."""
        if self.course.first and self.course.confirmed:
            self.confirmation.confirm(batches)
        elif self.course.compaction:
            for batch in batches:
                batch.kept.confirmed.copy_(batch.kept.success)

    def _finish(self, batch: Batch, first: bool) -> None:
        EngineQuery(self.driver, batch, first=first).logits(batch.state.x)
        if not self.course.confirmed:
            batch.kept.confirmed.copy_(batch.kept.success)
        else:
            kept = batch.kept
            open_ = batch.real & ~kept.confirmed & (kept.success | self.course.doubtful)
            self.outcome.settle(batch, (batch.real & ~open_).nonzero()[:, 0])
            batch = self.confirmation.settle(take_rows(batch, open_.nonzero()[:, 0]))
        self.outcome.settle(batch, batch.real.nonzero()[:, 0])

    def _note_clean(self, query: EngineQuery) -> None:
        """Remember clean logits that the attack has paid for."""
        logits = query.clean_logits
        if logits is None or not self.course.same_model:
            return
        check_clean(logits, query.batch.problem.sample_ids)
        if self.clean_logits is None:
            self.clean_logits = logits.new_full((len(self.x), logits.shape[1]), torch.nan)
        self.clean_logits[query.batch.rows] = logits

    def _know_clean(self) -> Tensor:
        """(N, K) logits at the clean images; a forward pass only where none was made there yet."""
        # an attack may have stood on them when some rows had left; what it gave is finite
        if self.clean_logits is None or bool(self.clean_logits.isnan().any()):
            self.clean_logits = self.exact(self.x, self.ids)
            self.outcome.forwards += 1
            check_clean(self.clean_logits, self.ids)
        return self.clean_logits

    def _result(self, targets: Tensor | None) -> AttackResult:
        home, out = self.rows.images.device, self.outcome
        clean = self._know_clean()
        untouched = (out.score == -torch.inf)[:, None]
        logits = clean if out.logits is None else torch.where(untouched, clean, out.logits)
        aimed = targets is not None and not self._many_targets
        return AttackResult(
            clean=self.rows.images,
            adv=out.adv.to(home),
            labels=self.rows.labels,
            targets=targets[:, 0].to(home) if aimed and targets is not None else None,
            sample_ids=self.rows.sample_ids,
            success=out.success.to(home),
            clean_correct=(clean.argmax(1) == self.labels).to(home),
            clean_logits=clean.to(home),
            logits=logits.to(clean.dtype).to(home),
            queries=Queries(forward=out.forwards.to(home), backward=out.backwards.to(home)),
            steps=out.steps.to(home),
            finite=out.finite.to(home),
            driven=out.driven.to(home),
            claims=out.claims.to(home),
            refuted=out.refuted.to(home),
            seconds=0.0,
            batch_size=self.course.ladder.top,
            peak_memory=0,
        )
