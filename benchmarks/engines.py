"""deitsec's engine in the configurations that are measured."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deitsec.attacks import PGD
from deitsec.engine import AttackResult, Engine

FIXED_WORK = {"stop": "never", "compaction": False}
EARLY_STOP = {"stop": "first_success", "compaction": True}
AS_IT_IS = {"precision": "fp32", "channels_last": False, "attention": "default"}
FAST = {"precision": "bf16", "compile": True}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A column of ours.

    Attributes:
        name: of the column.
        options: of `Engine`.
        needs_gpu: TF32 is a GPU's.
    """

    name: str
    options: dict[str, Any]
    needs_gpu: bool = False

    @property
    def precision(self) -> str:
        """Of the gradients."""
        return self.options.get("precision", "fp32")

    def missing(self, device: str) -> str | None:
        """Why it cannot be measured here, or None."""
        if self.needs_gpu and device != "cuda":
            return f"{self.precision} needs a GPU"
        return None

    def engine(self, model: nn.Module, rows: int) -> Engine:
        """An engine that takes all rows together."""
        return Engine(model, batch_size=rows, **self.options)


FLOOR_SIDE = "deitsec fp32"
CONFIGURATIONS = (
    # the form of the model that the floor has: what is faster about ours is the engine's
    Configuration(name=FLOOR_SIDE, options={**FIXED_WORK, **AS_IT_IS}),
    Configuration(
        name="deitsec tf32 compile",
        options={"precision": "tf32", "compile": True, **FIXED_WORK},
        needs_gpu=True,
    ),
    Configuration(name="deitsec bf16", options={"precision": "bf16", **FIXED_WORK}),
    Configuration(name="deitsec bf16 compile", options={**FAST, **FIXED_WORK}),
    Configuration(name="deitsec fp32 first success", options={"precision": "fp32", **EARLY_STOP}),
    Configuration(name="deitsec bf16 compile first success", options={**FAST, **EARLY_STOP}),
)


def attack_of(eps: float, steps: int) -> PGD:
    """PGD with the step size that all sides take."""
    return PGD(eps=eps, alpha=step_size(eps, steps), steps=steps)


def step_size(eps: float, steps: int) -> float:
    """2.5 eps / steps (Madry et al., arXiv:1706.06083, section 5): every point can be reached."""
    return 2.5 * eps / steps


def rows_by_step(backward: Tensor) -> list[int]:
    """Rows that took the first gradient step, the second, and so on; their sum is sample-steps."""
    return [int((backward > step).sum()) for step in range(int(backward.max()))]


def work(result: AttackResult) -> dict[str, Any]:
    """Forward and backward passes: most of a row, and summed over the rows."""
    queries = result.queries
    disagreement = result.disagreement  # NaN: nothing was confirmed
    return {
        "forwards": int(queries.forward.max()),
        "backwards": int(queries.backward.max()),
        "sample_forwards": int(queries.forward.sum()),
        "sample_steps": int(queries.backward.sum()),
        "rows_by_step": rows_by_step(queries.backward),
        "disagreement": None if math.isnan(disagreement) else disagreement,
        "peak_memory": result.peak_memory,
    }
