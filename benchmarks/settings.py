"""What `python -m benchmarks` tells the measurements, through the environment."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROUNDS, QUICK, OUT = (f"DEITSEC_BENCHMARK_{name}" for name in ("ROUNDS", "QUICK", "OUT"))
KEEP = "DEITSEC_BENCHMARK_KEEP"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured, and where it is written.

    Attributes:
        rounds: interleaved rounds of each measurement.
        quick: tiny shapes, to see that everything runs; such figures are not published.
        out: the result file; None writes none.
        keep: whether rows of the file that are not measured now stay in it.
    """

    rounds: int = 5
    quick: bool = False
    out: Path | None = None
    keep: bool = False

    @classmethod
    def found(cls) -> Self:
        """The settings of this process."""
        out = os.environ.get(OUT)
        return cls(
            rounds=int(os.environ.get(ROUNDS, "5")),
            quick=os.environ.get(QUICK) == "1",
            out=Path(out) if out else None,
            keep=os.environ.get(KEEP) == "1",
        )

    def export(self) -> None:
        """Leave the settings to the tests that this process starts."""
        os.environ[ROUNDS] = str(self.rounds)
        os.environ[QUICK] = "1" if self.quick else "0"
        os.environ[OUT] = str(self.out or "")
        os.environ[KEEP] = "1" if self.keep else "0"
