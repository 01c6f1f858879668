"""What a wave of rows came to, gathered as its rows retire."""

import torch
from torch import Tensor

from deitsec.engine.batch import Batch
from deitsec.engine.kept import Kept
from deitsec.engine.row_batch import take_rows


class Outcome:
    """The best try of each row so far.

    Args:
        x: (N, C, H, W) clean images of the wave.
        first: whether the first try that succeeds is kept, and not the one of highest loss. It is
            the first by number: which of several that run side by side comes first in time hangs on
            the other rows.

    Attributes:
        variant: (N,) int64 the try that is kept; -1 where none is yet. Tries of a later stage have
            higher numbers.
        adv, logits, success, score, steps, finite, driven, claims, refuted: as in `Kept`, (N, ...).
        forwards, backwards: (N,) int64, all tries of a row together.
    """

    def __init__(self, x: Tensor, *, first: bool) -> None:
        self.first = first
        rows, device = x.shape[0], x.device

        def count(value: int = 0) -> Tensor:
            return torch.full((rows,), value, dtype=torch.int64, device=device)

        wide = torch.promote_types(x.dtype, torch.float32)
        self.adv = x.clone()
        self.logits: Tensor | None = None
        self.success = torch.zeros(rows, dtype=torch.bool, device=device)
        self.score = torch.full((rows,), -torch.inf, dtype=wide, device=device)
        self.steps, self.variant = count(-1), count(-1)
        self.finite = torch.ones(rows, dtype=torch.bool, device=device)
        self.driven = torch.zeros(rows, dtype=torch.bool, device=device)
        self.claims, self.refuted = count(), count()
        self.forwards, self.backwards = count(), count()

    @property
    def spared(self) -> Tensor:
        """(N,) bool: the clean image reaches the goal, and no try was made."""
        return self.success & (self.variant < 0)

    def settle(self, batch: Batch, index: Tensor, *, start: int, nearest: bool) -> None:
        """Take the rows of a batch at `index` (R,) as they are; they are not heard of again.

        Args:
            batch: where they are.
            index: which.
            start: number of the first try of their stage.
            nearest: whether of two tries that succeed the nearer is kept.
        """
        if index.shape[0] == 0:
            return
        kept, rows = take_rows(batch.kept, index), batch.rows[index]
        variants = batch.variants[index]
        self.forwards.index_add_(0, rows, kept.rechecks + batch.forwards)
        self.backwards.index_add_(0, rows, torch.full_like(rows, batch.backwards))
        self.claims.index_add_(0, rows, kept.claims)
        self.refuted.index_add_(0, rows, kept.refuted)
        if kept.logits is not None and self.logits is None:
            shape = (self.success.shape[0], kept.logits.shape[1])
            self.logits = kept.logits.new_zeros(shape)
        for variant in variants.unique().tolist():  # each row comes once in a variant
            ours = (variants == variant).nonzero()[:, 0]
            found = take_rows(kept, ours)
            self._compare(rows[ours], found, start + variant, first=self.first and not nearest)

    def _compare(self, rows: Tensor, kept: Kept, variant: int, *, first: bool) -> None:
        success, score = self.success[rows], self.score[rows]
        # a row may leave with a claim that nobody has asked about, since another try has fallen
        found_success = kept.confirmed
        higher = (found_success == success) & (kept.score > score)
        if first:
            higher = torch.where(found_success & success, self.variant[rows] > variant, higher)
        better = ((found_success & ~success) | higher).nonzero()[:, 0]
        chosen, found = rows[better], take_rows(kept, better)
        self.adv[chosen] = found.adv
        if self.logits is not None and found.logits is not None:
            self.logits[chosen] = found.logits
        self.success[chosen] = found.confirmed
        self.score[chosen] = found.score
        self.variant[chosen] = variant
        self.steps[chosen] = found.steps
        self.finite[rows] &= kept.finite
        self.driven[rows] |= kept.driven
