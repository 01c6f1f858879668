"""A wave: the rows that are attacked together, in batches that take their steps side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack
from deitsec.engine.batch import Batch
from deitsec.engine.checked_model import check_clean
from deitsec.engine.compaction import Compaction
from deitsec.engine.confirmation import Confirmation
from deitsec.engine.driver import Driver
from deitsec.engine.exact import ExactModel
from deitsec.engine.ladder import Ladder
from deitsec.engine.outcome import Outcome
from deitsec.engine.preference import Preference
from deitsec.engine.query import EngineQuery
from deitsec.engine.result import AttackResult, Queries
from deitsec.engine.rounding import Rounding
from deitsec.engine.row_batch import take_rows
from deitsec.engine.rows import Rows
from deitsec.engine.stage import Stage
from deitsec.engine.steps import EagerSteps, Steps
from deitsec.engine.targets import check_targets, choose_targets, likeliest_targets
from deitsec.types import Evidence, Goal


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Leg:
    """A stage under way.

    Attributes:
        stage: what is run.
        preference: which of a row's images is kept.
        confirmation: asks the exact model.
    """

    stage: Stage
    preference: Preference
    confirmation: Confirmation


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
        self.aims: Tensor | None = None  # (N,) the classes that are to win
        self.tries = 0  # those of the stages that are over

    def run(self) -> AttackResult:
        """Attack, and say what came of it."""
        attack = self.course.attack
        fallen = self._spare() if attack.spares else 0
        first = list(attack.stages)
        fell = self._run_stages(first, (0.0, 1.0), fallen)
        evidence = Evidence(
            rows=len(self.x),
            fell=tuple(fell),
            undriven=int((~self.outcome.driven & ~self.outcome.success).sum()),
            non_finite=int((~self.outcome.finite).sum()),
        )
        self._run_stages(attack.second_opinion(evidence), (1.0, 0.0), evidence.fallen)
        return self._result()

    def _run_stages(
        self, attacks: Sequence[Attack], share: tuple[float, float], fallen: int
    ) -> list[int]:
        """Run attacks one after the other; how many rows fell to each of them."""
        fell: list[int] = []
        sizes = [_length(attack, self.x[0].numel()) for attack in attacks]
        for number, attack in enumerate(attacks):
            stage = self._stage(attack)
            before = share[0] + share[1] * sum(sizes[:number]) / sum(sizes)
            self._run(stage, (before, share[1] * sizes[number] / sum(sizes)))
            self.tries += stage.tries
            now = int(self.outcome.success.sum()) if len(attacks) > 1 else fallen
            fell.append(now - fallen)
            fallen = now
        return fell

    def _run(self, stage: Stage, share: tuple[float, float]) -> None:
        course = self.course
        preference = stage.preference(first=course.first and not course.doubtful)
        leg = Leg(
            stage=stage,
            preference=preference,
            confirmation=Confirmation(
                self.exact,
                rounding=course.rounding,
                preference=stage.preference(
                    first=preference.first, rounded=course.rounding is not None
                ),
                gather=course.gather,
            ),
        )
        compaction = Compaction(
            course.ladder,
            lambda batch, index: self._leave(batch, index, leg),
            len(self.x),
            stage.tries,
            self.x.device,
            frozen_leave=not course.confirmed,
        )
        for rows, variants, which in self._tries(stage):
            part = share[1] / stage.tries
            self._follow(
                self._start(rows, variants, stage),
                compaction,
                leg,
                (share[0] + part * which.start, part * len(which)),
            )
        if course.reduced:
            self._again_in_fp32(compaction, leg)

    def _again_in_fp32(self, compaction: Compaction, leg: Leg) -> None:
        """Attack the rows on which the driver overflowed by the exact model: it may not."""
        rows = (~self.outcome.finite & ~self.outcome.success).nonzero()[:, 0]
        if len(rows) == 0:
            return
        self.outcome.finite[rows] = True
        usual = self.driver, self.steps
        self.driver, self.steps = self.exact.as_driver(), EagerSteps()
        for variant in range(leg.stage.tries):
            standing = rows[~self.outcome.success[rows]]
            if len(standing) == 0:
                break
            batches = self._start(standing, torch.full_like(standing, variant), leg.stage)
            self._follow(batches, compaction, leg, (1.0, 0.0))
        self.driver, self.steps = usual

    def _spare(self) -> int:
        """Leave the rows whose clean images reach the goal as they are; how many those are."""
        clean = self._know_clean()
        attack, rows = self.course.attack, self.rows
        goal = Goal(y=self.labels, targeted=False, kappa=attack.lead)
        if rows.targets is not None or attack.target is not None:
            (aims,) = self._targets(attack).unbind(1)
            goal = replace(goal, y=aims, targeted=True, confidence=attack.confidence)
        self.outcome.success |= goal.reached(clean)
        return int(self.outcome.success.sum())

    def _stage(self, attack: Attack) -> Stage:
        given, aimed = self.rows.targets is not None, attack.target is not None
        many = attack.num_targets > 0 and not given
        targets = self._targets(attack) if given or aimed or many else None
        if targets is None and not self.course.same_model:
            self._know_clean()
        if targets is not None and not many:
            self.aims = targets[:, 0]
        return Stage(
            attack=attack, targets=targets, many=many, seed=self.course.seed, start=self.tries
        )

    def _targets(self, attack: Attack) -> Tensor:
        """(N, T) classes that each row is aimed at, one after the other."""
        rows, clean = self.rows, self._know_clean()
        if rows.targets is not None:
            targets = rows.targets.to(self.x.device)
            check_targets(targets, self.labels, clean.shape[1])
            return targets[:, None]
        if attack.num_targets:
            return likeliest_targets(attack.num_targets, self.labels, clean)
        assert attack.target is not None
        aims = choose_targets(attack.target, self.labels, clean, self.ids, self.course.seed)
        return aims[:, None]

    def _tries(self, stage: Stage) -> Iterator[tuple[Tensor, Tensor, range]]:
        """Rows and variants that go together, and which those are: first every row once.

        The first try ends most rows of a weak model; what is left is too few to fill batches by
        itself, so the other tries of it go side by side.
        """
        rows = self._standing(stage)
        variant = 1
        if len(rows):
            yield rows, torch.zeros_like(rows), range(1)
        while variant < stage.tries:
            rows = self._standing(stage)
            if len(rows) == 0:
                return
            together = min(max(1, len(self.x) // len(rows)), stage.tries - variant)
            variants = torch.arange(variant, variant + together, device=rows.device)
            side_by_side = range(variant, variant + together)
            yield rows.repeat(together), variants.repeat_interleave(len(rows)), side_by_side
            variant += together

    def _standing(self, stage: Stage) -> Tensor:
        """(R,) the rows that are to be tried."""
        over = self.outcome.spared
        if self.course.compaction and not stage.attack.minimizes:
            over = self.outcome.success
        return (~over).nonzero()[:, 0]

    def _start(self, rows: Tensor, variants: Tensor, stage: Stage) -> list[Batch]:
        start, batches = 0, []
        for number, size in self.course.ladder.start(len(rows)):
            place = torch.arange(size, device=rows.device)
            index = start + place % number
            real = place < number
            batches.append(
                stage.batch(self.x, self.labels, self.ids, rows[index], variants[index], real)
            )
            start += number
        return batches

    def _follow(
        self, batches: list[Batch], compaction: Compaction, leg: Leg, share: tuple[float, float]
    ) -> None:
        """Run the attack's program on the batches, side by side.

        `share` is the part of the work that was done before, and the part that this is.
        """
        course, taken = self.course, 0
        plan = leg.stage.attack.plan_for(self.x[0].numel())
        steps = sum(times for _, times in plan)
        for step, times in plan:
            done = 0
            while done < times and batches:
                number = min(course.check_every, times - done)
                for batch in batches:
                    query = EngineQuery(self.driver, batch, preference=leg.preference)
                    self.steps.advance(step, query, number)
                    self._note_clean(query)
                done, taken = done + number, taken + number
                self.tick(share[0] + share[1] * taken / (steps + 1))
                self._retire(batches, leg)
                if course.compaction:
                    batches = compaction.pack(batches)
        for batch in batches:
            self._finish(batch, leg)

    def _retire(self, batches: list[Batch], leg: Leg) -> None:
        """Look at what is done, where that can end the attack on a row."""
        if leg.stage.attack.minimizes:
            return
        if self.course.first and self.course.confirmed:
            leg.confirmation.confirm(batches)
        elif self.course.compaction:
            for batch in batches:
                batch.kept.confirmed.copy_(batch.kept.success)

    def _leave(self, batch: Batch, index: Tensor, leg: Leg) -> None:
        """Rows of a batch that are done."""
        going = take_rows(batch, index)
        unjudged = ~going.kept.confirmed
        if not leg.stage.attack.minimizes:  # another try may have fallen: nobody asks about this
            done = going.state.done
            unjudged = unjudged & done if done is not None else torch.zeros_like(unjudged)
        self._judge(take_rows(going, unjudged.nonzero()[:, 0]), leg)
        self._settle(going, ~unjudged, leg)

    def _finish(self, batch: Batch, leg: Leg) -> None:
        EngineQuery(self.driver, batch, preference=leg.preference).logits(batch.state.x)
        self._judge(batch, leg)

    def _judge(self, batch: Batch, leg: Leg) -> None:
        """Take what is kept of a batch whose attack is over, as the exact model sees it."""
        if not self.course.confirmed:
            batch.kept.confirmed.copy_(batch.kept.success)
        else:
            kept = batch.kept
            open_ = batch.real & ~kept.confirmed & (kept.success | self.course.doubtful)
            self._settle(batch, ~open_, leg)
            batch = leg.confirmation.settle(take_rows(batch, open_.nonzero()[:, 0]))
        self._settle(batch, batch.real, leg)

    def _settle(self, batch: Batch, which: Tensor, leg: Leg) -> None:
        index = (batch.real & which).nonzero()[:, 0]
        self.outcome.settle(batch, index, start=leg.stage.start, nearest=leg.preference.nearest)

    def _note_clean(self, query: EngineQuery) -> None:
        """Remember clean logits that the attack has paid for."""
        logits = query.clean_logits
        if logits is None or not self.course.same_model:
            return
        check_clean(logits, query.batch.problem.sample_ids)
        if self.clean_logits is None:
            self.clean_logits = logits.new_full((len(self.x), logits.shape[1]), torch.nan)
        self.clean_logits[query.batch.rows] = logits.to(self.clean_logits.dtype)

    def _know_clean(self) -> Tensor:
        """(N, K) logits at the clean images; a forward pass only where none was made there yet."""
        # an attack may have stood on them when some rows had left; what it gave is finite
        if self.clean_logits is None or bool(self.clean_logits.isnan().any()):
            self.clean_logits = self.exact(self.x, self.ids)
            self.outcome.forwards += 1
            check_clean(self.clean_logits, self.ids)
        return self.clean_logits

    def _result(self) -> AttackResult:
        home, out = self.rows.images.device, self.outcome
        blind = all(stage.traits.needs != "gradient" for stage in self.course.attack.stages)
        clean = self._know_clean()
        untouched = (out.score == -torch.inf)[:, None]
        logits = clean if out.logits is None else torch.where(untouched, clean, out.logits)
        return AttackResult(
            clean=self.rows.images,
            adv=out.adv.to(home),
            labels=self.rows.labels,
            targets=None if self.aims is None else self.aims.to(home),
            sample_ids=self.rows.sample_ids,
            success=out.success.to(home),
            clean_correct=(clean.argmax(1) == self.labels).to(home),
            clean_logits=clean.to(home),
            logits=logits.to(clean.dtype).to(home),
            queries=Queries(forward=out.forwards.to(home), backward=out.backwards.to(home)),
            steps=out.steps.to(home),
            finite=out.finite.to(home),
            driven=(out.driven | out.spared | blind).to(home),
            claims=out.claims.to(home),
            refuted=out.refuted.to(home),
            seconds=0.0,
            batch_size=self.course.ladder.top,
            peak_memory=0,
        )


def _length(attack: Attack, features: int) -> int:
    """Steps of an attack on such images, of all the tries that are known before it starts."""
    tries = attack.num_restarts * max(1, attack.num_targets)
    return tries * sum(times for _, times in attack.plan_for(features))
