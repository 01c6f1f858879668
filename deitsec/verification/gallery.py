"""Picks the pictures that a report shows of an attack."""

from dataclasses import dataclass

from torch import Tensor

from deitsec.attacks import Attack
from deitsec.engine import AttackResult
from deitsec.report import Example

_MOST = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Reread:
    """What the model says of images as they would be read from a file.

    Attributes:
        predicted: (N,) int64.
        confidence: (N,) fp32 softmax of the predicted class.
        reached: (N,) bool, the goal is reached.
    """

    predicted: Tensor
    confidence: Tensor
    reached: Tensor


class Gallery:
    """One picture a class: the first success on a row that was right before, else the first row."""

    def __init__(self) -> None:
        self._shown: dict[int, Example] = {}
        self._successes: set[int] = set()

    def show(
        self, attack: Attack, result: AttackResult, rows: Tensor, quantized: Tensor, reread: Reread
    ) -> None:
        """Look at the images of some rows, and keep those that are wanted."""
        wanted = (reread.reached & result.clean_correct).tolist()
        before = result.clean_logits.float().softmax(1).max(1)
        clean = (result.clean * 255).round().byte()
        for place, label in enumerate(result.labels.tolist()):
            if label in self._successes or (label in self._shown and not wanted[place]):
                continue
            if wanted[place]:
                self._successes.add(label)
            self._shown[label] = Example(
                row=int(rows[place]),
                label=label,
                clean=clean[place].permute(1, 2, 0).numpy(),
                adversarial=quantized[place].permute(1, 2, 0).numpy(),
                clean_prediction=int(before.indices[place]),
                clean_confidence=float(before.values[place]),
                adversarial_prediction=int(reread.predicted[place]),
                adversarial_confidence=float(reread.confidence[place]),
                attack=attack.name,
            )

    def examples(self) -> list[Example]:
        """The pictures, by class, ten at most."""
        return [example for _, example in sorted(self._shown.items())[:_MOST]]
