"""A success counts only when the exact model confirms it, after rounding where that was asked."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deitsec import ops
from deitsec.engine.batch import Batch
from deitsec.engine.exact import ExactModel
from deitsec.engine.kept import Kept
from deitsec.engine.preference import Preference
from deitsec.engine.rounding import Rounding
from deitsec.engine.row_batch import join_rows, take_rows

# claims are gathered until they are this share of the rows: a forward pass for a few costs as much
_GATHER = 1 / 8
# how much farther out a nearest success is looked for that the exact model did not confirm
_OUTWARD = (1.001, 1.01, 1.03, 1.1, 1.3, 2.0, 4.0, 8.0, 16.0)


class Confirmation:
    """Asks the exact model about successes that were found by another, or before rounding.

    Args:
        exact: what decides.
        rounding: what is done to an image before it is judged; None does nothing.
        preference: which of a row's images is kept.
        gather: whether claims wait for others; a row that waits goes on meanwhile, so that what is
            confirmed of it hangs on the other rows.
    """

    def __init__(
        self,
        exact: ExactModel,
        *,
        rounding: Rounding | None,
        preference: Preference,
        gather: bool,
    ) -> None:
        self.exact = exact
        self.rounding = rounding
        self.preference = preference
        self.gather = gather

    def confirm(self, batches: Sequence[Batch]) -> None:
        """Ask about the claims of the batches, if they are many enough; the refuted go on."""
        claims = [(b.kept.success & ~b.kept.confirmed & b.real).nonzero()[:, 0] for b in batches]
        enough = _GATHER * sum(map(len, batches)) if self.gather else 0
        if sum(map(len, claims)) <= enough:
            return
        asked = [(b, index) for b, index in zip(batches, claims, strict=True) if len(index)]
        pool = join_rows([take_rows(batch, index) for batch, index in asked])
        found = self._look(pool, pool.kept.adv)
        start = 0
        for batch, index in asked:
            part = torch.arange(start, start + len(index), device=index.device)
            _merge(batch.kept, index, take_rows(found, part))
            start += len(index)

    def settle(self, rows: Batch) -> Batch:
        """Rows that are not confirmed yet at the end, judged by the exact model.

        What is kept of a row is looked at, and where a claim is refuted, the last iterate too; of a
        nearest success, which lies on the border, also points up to 16 times as far out. What comes
        back holds of each row only what the exact model says.
        """
        if len(rows) == 0:
            return rows
        claimed = rows.kept.success
        found = self._look(rows, rows.kept.adv)
        found.claims = rows.kept.claims + claimed.long()
        found.refuted = rows.kept.refuted + (claimed & ~found.success).long()
        found.rechecks = rows.kept.rechecks + 1
        if self.preference.nearest:
            away = rows.kept.adv - rows.problem.x
            for factor in _OUTWARD:
                farther = (rows.problem.x + factor * away).clamp(0, 1)
                self._look_elsewhere(rows, found, claimed & ~found.success, farther)
        self._look_elsewhere(rows, found, claimed & ~found.success, rows.state.x)
        found.finite, found.driven = rows.kept.finite, rows.kept.driven
        steps = torch.where(rows.kept.steps >= 0, rows.kept.steps, rows.kept.clock)
        found.steps = torch.where(found.success, steps, -1)
        found.confirmed = found.success
        rows.kept = found
        return rows

    def _look_elsewhere(self, rows: Batch, found: Kept, refuted: Tensor, x: Tensor) -> None:
        """Let images `x` that succeed take the place of those of the refuted rows."""
        index = refuted.nonzero()[:, 0]
        if len(index) == 0:
            return
        other = self._look(take_rows(rows, index), x[index])
        better = other.success.nonzero()[:, 0]
        chosen, taken = index[better], take_rows(other, better)
        assert found.logits is not None
        assert taken.logits is not None
        found.adv[chosen], found.logits[chosen] = taken.adv, taken.logits
        found.success[chosen], found.score[chosen] = taken.success, taken.score
        found.rechecks[index] += 1

    def _look(self, batch: Batch, x: Tensor) -> Kept:
        """What is to be kept of images `x`, one for each row of the batch, by the exact model."""
        image = x if self.rounding is None else self.rounding(x, batch.problem.x)
        logits = self.exact(image, batch.problem.sample_ids)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss, _, predicted = ops.classification_loss(wide, batch.problem.goal.y)
        kept = Kept.nothing(batch.problem.x)
        kept.clock = batch.kept.clock
        kept.offer(image, wide, loss, predicted, batch.problem, self.preference)
        return kept


def _merge(kept: Kept, index: Tensor, found: Kept) -> None:
    """Write down what the exact model said of the claims at `index`."""
    yes = found.success
    assert kept.logits is not None
    assert found.logits is not None
    kept.adv[index] = found.adv
    kept.logits[index] = found.logits
    kept.success[index], kept.confirmed[index] = yes, yes
    # a refuted image must not stand in the way of the next claim
    kept.score[index] = torch.where(yes, found.score, -torch.inf)
    kept.steps[index] = torch.where(yes, kept.steps[index], -1)
    kept.claims[index] += 1
    kept.refuted[index] += (~yes).long()
    kept.rechecks[index] += 1
