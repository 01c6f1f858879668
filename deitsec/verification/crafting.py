"""Adversarial images of one attack, with what is known of each, as a file that can be handed on."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks import Attack, format_spec
from deitsec.data import DataSource, to_float
from deitsec.engine import AttackResult, Engine
from deitsec.metrics import distance_summary
from deitsec.report import Example
from deitsec.types import NORMS
from deitsec.verification.gallery import Gallery, Reread
from deitsec.verification.measure import Outcome, Tick, measure
from deitsec.verification.pieces import robust, share


@dataclass(frozen=True, kw_only=True, slots=True)
class Crafted:
    """Adversarial images of one attack.

    Attributes:
        attack: what was run.
        outcome: what came of it, of the float images.
        clean, adversarial: (N, C, H, W) uint8; the adversarial images rounded to 8 bits without
            leaving the ball.
        targets: (N,) int64, -1 where the attack was untargeted.
        predicted: (N,) int64 at the rounded images.
        confidence: (N,) fp32 softmax of that class.
        examples: one picture a class.
        made_for: the model that what the attack applies was made for, in words; None for none.
    """

    attack: Attack
    outcome: Outcome
    clean: Tensor
    adversarial: Tensor
    targets: Tensor
    predicted: Tensor
    confidence: Tensor
    examples: Sequence[Example]
    made_for: str | None = None

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays of the file, rows first; images are (N, H, W, C)."""
        found = self.outcome
        distances = ops.row_norms(to_float(self.adversarial), to_float(self.clean))
        columns: dict[str, Tensor] = {
            "clean": self.clean.permute(0, 2, 3, 1),
            "adversarial": self.adversarial.permute(0, 2, 3, 1),
            "row": found.rows,
            "label": found.labels,
            "target": self.targets,
            "clean_prediction": found.clean_predicted,
            "prediction": self.predicted,
            "confidence": self.confidence,
            "success": found.survives,
            "success_before_rounding": found.success,
            "forward": found.queries[:, 0],
            "backward": found.queries[:, 1],
            **dict(zip(NORMS, distances, strict=True)),
        }
        return {name: column.contiguous().numpy() for name, column in columns.items()}

    def pack(self) -> bytes:
        """The file: `numpy.load` reads it; `about` is the JSON text of `summary`."""
        buffer = io.BytesIO()
        about = np.array(json.dumps(self.summary()))
        np.savez_compressed(buffer, allow_pickle=False, about=about, **self.columns())
        return buffer.getvalue()

    def summary(self) -> dict[str, Any]:
        """The attack in figures; distances are of the float images that succeeded."""
        found = self.outcome
        fallen = found.success
        distances = {
            norm: distance_summary(found.norms[fallen, i]) if fallen.any() else None
            for i, norm in enumerate(NORMS)
        }
        origin = {} if self.made_for is None else {"made_for": self.made_for}
        return {
            "spec": format_spec(self.attack),
            **origin,
            "norm": self.attack.traits.norm,
            "goal": self.attack.traits.goal,
            "rows": len(found.rows),
            "success_rate": share(found.success[~found.targeted_before]),
            "success_rate_rounded": share(found.survives[~found.targeted_before]),
            "robust_accuracy": share(robust(found)),
            "distances": distances,
            "queries": {
                "forward": found.queries[:, 0].double().mean().item(),
                "backward": found.queries[:, 1].double().mean().item(),
            },
            "seconds": found.seconds,
            "images_per_second": len(found.rows) / found.seconds,
        }


def craft(engine: Engine, attack: Attack, data: DataSource, rows: Tensor, tick: Tick) -> Crafted:
    """Attack the test images of some rows, and keep the images.

    Args:
        engine: runs the attack.
        attack: what is run.
        data: where the images are.
        rows: (N,) int64 rows of the test split; they are the sample ids too.
        tick: told how many rows were done.

    Raises:
        ValueError: what `Engine.run` raises, or no row is left.
    """
    collected = _Collected()
    outcome = measure(engine, attack, data, rows, tick, gallery=collected)
    return Crafted(
        attack=attack,
        outcome=outcome,
        clean=torch.cat(collected.clean),
        adversarial=torch.cat(collected.adversarial),
        targets=torch.cat(collected.targets),
        predicted=torch.cat([reread.predicted for reread in collected.reread]),
        confidence=torch.cat([reread.confidence for reread in collected.reread]),
        examples=collected.examples(),
        made_for=engine.explain().get("made_for"),
    )


class _Collected(Gallery):
    """Keeps every image, and picks the pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.clean: list[Tensor] = []
        self.adversarial: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.reread: list[Reread] = []

    def show(
        self, attack: Attack, result: AttackResult, rows: Tensor, quantized: Tensor, reread: Reread
    ) -> None:
        super().show(attack, result, rows, quantized, reread)
        nobody = torch.full_like(result.labels, -1)
        self.clean.append((result.clean * 255).round().byte())
        self.adversarial.append(quantized)
        self.targets.append(nobody if result.targets is None else result.targets)
        self.reread.append(reread)
