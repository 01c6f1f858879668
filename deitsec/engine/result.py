"""What an attack came to."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from deitsec import ops
from deitsec.types import Norm

_NORMS = ("linf", "l2", "l1", "l0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Queries:
    """How often the model was asked, by row.

    Attributes:
        forward: (B,) int64 forward passes.
        backward: (B,) int64 gradients.
    """

    forward: Tensor
    backward: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackResult:
    """Result of an attack, rows in the order of the images given.

    A row that was not broken holds its best attempt and `success` False; never zeros.

    Attributes:
        clean: (B, C, H, W) the images given.
        adv: (B, C, H, W) the adversarial images, in [0, 1], in the dtype of the images.
        labels: (B,) int64.
        targets: (B,) int64, or None where the attack was untargeted.
        sample_ids: (B,) int64 identity of each row.
        success: (B,) bool: the goal was reached at `adv`. A row that was wrong before the attack
            can count here; `clean_correct` tells.
        clean_correct: (B,) bool: the model was right before the attack.
        clean_logits: (B, K) logits at the clean images.
        logits: (B, K) logits at `adv`.
        queries: forward and backward passes of each row.
        steps: (B,) int64 times that the model was asked before the first success, of the try that
            succeeded where a row was tried several times; -1 where there was none. Of an attack
            that takes one gradient a step it is the number of steps.
        finite: (B,) bool: False where a gradient was NaN or inf and the row stopped there.
        driven: (B,) bool: False where every gradient was exactly 0, so that nothing drove the row:
            saturated or masked gradients, not robustness. True where none was needed.
        claims: (B,) int64 successes by the logits that drove the attack which the exact model was
            asked about, as those were of another form of it, of lower precision, of the image
            before rounding, or of other random numbers. 0 where nobody asked.
        refuted: (B,) int64 those that the exact model did not confirm; they do not count.
        seconds: wall-clock seconds of the attack.
        batch_size: rows that went together, smaller than asked for if memory ran out.
        peak_memory: most bytes in use meanwhile: of the GPU's memory, or of the process on a CPU;
            0 where it is not known. Measuring it starts PyTorch's peak statistics of the GPU anew,
            on a CPU the process's high-water mark.
    """

    clean: Tensor
    adv: Tensor
    labels: Tensor
    targets: Tensor | None
    sample_ids: Tensor
    success: Tensor
    clean_correct: Tensor
    clean_logits: Tensor
    logits: Tensor
    queries: Queries
    steps: Tensor
    finite: Tensor
    driven: Tensor
    claims: Tensor
    refuted: Tensor
    seconds: float
    batch_size: int
    peak_memory: int

    def distance(self, norm: Norm) -> Tensor:
        """(B,) fp32 distance of each adversarial image from its clean one.

        Raises:
            ValueError: a norm other than linf, l2, l1 or l0.
        """
        if norm not in _NORMS:
            raise ValueError(f"norm must be one of {', '.join(_NORMS)}, got {norm!r}")
        return ops.row_norms(self.adv, self.clean)[_NORMS.index(norm)]

    @property
    def disagreement(self) -> float:
        """Share of the claimed successes that the exact model refuted; NaN where none was asked."""
        return (self.refuted.sum().double() / self.claims.sum()).item()

    @property
    def robust_accuracy(self) -> float:
        """Share of rows that were right before the attack and still are at `adv`."""
        right = self.logits.argmax(1) == self.labels
        return (right & self.clean_correct).double().mean().item()

    @property
    def success_rate(self) -> float:
        """Share of successes among the rows that did not satisfy the goal before the attack.

        NaN where there is no such row.
        """
        before = ~self.clean_correct
        if self.targets is not None:
            before = self.clean_logits.argmax(1) == self.targets
        return self.success[~before].double().mean().item()

    @classmethod
    def concatenate(cls, parts: Sequence[Self], *, seconds: float) -> Self:
        """Join the results of consecutive chunks."""
        joined: dict[str, Any] = {
            field.name: _join([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(cls)
            if field.name not in ("seconds", "batch_size", "peak_memory")
        }
        return cls(
            **joined,
            seconds=seconds,
            batch_size=min(part.batch_size for part in parts),
            peak_memory=max(part.peak_memory for part in parts),
        )


def _join(values: list[Tensor | Queries | None]) -> Tensor | Queries | None:
    first = values[0]
    if isinstance(first, Queries):
        queries = [value for value in values if isinstance(value, Queries)]
        return Queries(
            forward=torch.cat([q.forward for q in queries]),
            backward=torch.cat([q.backward for q in queries]),
        )
    tensors = [value for value in values if isinstance(value, Tensor)]
    return torch.cat(tensors) if tensors else None
