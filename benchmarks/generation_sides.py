"""The sides of a measurement of `deitsec generate`: all of it, and the attack alone."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deitsec.attacks import Attack
from deitsec.data import DataSource, to_float
from deitsec.engine import Engine
from deitsec.generation import Settings, generate
from deitsec.generation.workload import make_variants

ATTACK, GENERATE = "attack only", "deitsec generate"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One dataset that is made again and again.

    Attributes:
        engine: of the model.
        attack: what is run.
        source: the data, in memory.
        rows: of the dataset.
        shard_rows: of each shard; several, or nothing would overlap.
    """

    engine: Engine
    attack: Attack
    source: DataSource
    rows: int
    shard_rows: int

    @property
    def settings(self) -> Settings:
        """Of the run."""
        return Settings(rows=self.rows, shard_rows=self.shard_rows)


def sides(case: Case) -> dict[str, Callable[[], Any]]:
    """Both sides by name; each call makes the whole dataset."""
    return {ATTACK: attack_only(case), GENERATE: whole(case)}


def attack_only(case: Case) -> Callable[[], Any]:
    """The very engine of the run on images that lie ready as floats; results are thrown away."""
    (variant,) = make_variants([case.engine], [case.attack], case.source.test.shape)
    rows = torch.arange(case.rows) % len(case.source.test)
    device = case.engine.device
    images = to_float(case.source.test.images(rows).to(device))
    labels, ids = case.source.test.labels[rows].to(device), torch.arange(case.rows, device=device)

    def run() -> None:
        for start in range(0, case.rows, case.shard_rows):
            some = slice(start, start + case.shard_rows)
            given = (images[some], labels[some], None, ids[some])
            for _ in variant.engine.stream(variant.attack, *given):
                pass

    return run


def whole(case: Case) -> Callable[[], Any]:
    """From the source to the synced shards and the manifest."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            generate(case.engine, case.attack, case.source, out=out, settings=case.settings)

    return run
