"""A stage of a run: one attack on the rows that are still standing, all tries of it."""

from dataclasses import dataclass, replace

from torch import Tensor

from deitsec.attacks.attack import Attack
from deitsec.engine.batch import Batch
from deitsec.engine.kept import Kept
from deitsec.engine.preference import Preference
from deitsec.engine.rounding import ROUNDED_SLACK
from deitsec.engine.rows import VARIANT_BIT
from deitsec.types import Goal, Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """An attack, and whom it aims at.

    Attributes:
        attack: what is run.
        targets: (N, T) classes that each row is aimed at, one after the other; None aims at none.
        many: whether the label is to lose, and the targets are ways to that.
        seed: of every draw.
        start: number of its first try; those of the stages before come first.
    """

    attack: Attack
    targets: Tensor | None
    many: bool
    seed: int
    start: int

    @property
    def tries(self) -> int:
        """How often a row is tried."""
        return self.attack.num_restarts * (1 if self.targets is None else self.targets.shape[1])

    def preference(self, *, first: bool, rounded: bool = False) -> Preference:
        """Which of a row's images is kept.

        Args:
            first: whether the first success would do.
            rounded: whether the images were rounded to 8 bits, which may take them out of the ball.
        """
        attack = self.attack
        # what stays in its ball by itself needs no measuring
        strays = rounded or attack.traits.goal == "minimum"
        preference = Preference(
            first=first and not attack.minimizes,
            nearest=attack.minimizes,
            norm=attack.traits.norm,
            radius=attack.radius if strays else None,
        )
        return replace(preference, slack=ROUNDED_SLACK) if rounded else preference

    def batch(
        self, x: Tensor, labels: Tensor, ids: Tensor, rows: Tensor, variants: Tensor, real: Tensor
    ) -> Batch:
        """Some rows at the beginning of some of their tries.

        Args:
            x: (N, C, H, W) images of the wave.
            labels: (N,) int64.
            ids: (N,) int64.
            rows: (B,) int64 places in the wave.
            variants: (B,) int64 tries, from 0.
            real: (B,) bool, False where a row only fills the batch.
        """
        true, aims = labels[rows], None
        if self.targets is not None:
            aims = self.targets[rows, variants % self.targets.shape[1]]
        goal = Goal(y=true, targeted=False, kappa=self.attack.lead)
        if aims is not None and not self.many:
            goal = replace(goal, y=aims, targeted=True, confidence=self.attack.confidence)
        problem = Problem(
            x=x[rows],
            y=true if aims is None else aims,
            labels=true,
            goal=goal,
            sample_ids=ids[rows] + (variants << VARIANT_BIT),
            seed=self.seed,
            targeted=aims is not None,
        )
        return Batch(
            problem=problem,
            state=self.attack.init(problem),
            kept=Kept.nothing(problem.x),
            rows=rows,
            variants=variants,
            real=real,
        )
