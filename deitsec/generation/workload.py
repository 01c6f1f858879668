"""What a run works on: the data, the attacks and models, and the plan."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import deitsec
from deitsec.attacks import Attack, format_spec
from deitsec.data import ImageSet
from deitsec.engine import Engine
from deitsec.environment import package_version
from deitsec.generation.plan import Job, Plan
from deitsec.models import model_sha256
from deitsec.shards import (
    Configuration,
    ShardAbout,
    UnreadableRow,
    VariantRecord,
)

BATCH_ROWS = 256  # that go together, where nobody says how many


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Variant:
    """One attack on one model.

    Attributes:
        engine: deterministic, of a fixed batch size, with 8-bit images.
        attack: what is run.
        record: what the manifest says of them.
    """

    engine: Engine
    attack: Attack
    record: VariantRecord

    def takes(self, labels: Tensor) -> Tensor:
        """(n,) bool: rows that the attack can be run on; nobody impersonates the own class."""
        if isinstance(self.attack.target, int):
            return labels != self.attack.target
        return torch.ones_like(labels, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Workload:
    """Everything that a worker needs to make any shard.

    Attributes:
        images: the split that is attacked.
        plan: which rows go into which shard.
        variants: shard i is of variant i % len(variants).
        configuration: what the manifest says of all this.
        strict: whether a row that cannot be read stops the run.
    """

    images: ImageSet
    plan: Plan
    variants: tuple[Variant, ...]
    configuration: Configuration
    strict: bool = False

    def about(self, job: Job, unreadable: tuple[UnreadableRow, ...] = ()) -> ShardAbout:
        """What the shard of a job says of itself."""
        return shard_about(self.configuration, job.shard, unreadable)


def shard_about(
    configuration: Configuration, shard: int, unreadable: tuple[UnreadableRow, ...] = ()
) -> ShardAbout:
    """What a shard of a dataset says of itself."""
    source = configuration.source
    record = configuration.variants[shard % len(configuration.variants)]
    return ShardAbout(
        shard=shard,
        shape=source.shape,
        attack=record.attack,
        model={"name": record.model, "sha256": record.model_sha256},
        source={"name": source.name, "split": source.split, "sha256": source.sha256},
        seed=configuration.options["seed"],
        options=configuration.options,
        versions=configuration.versions,
        unreadable=tuple((row.row, row.reason) for row in unreadable),
        dataset=configuration.plain(),
    )


def make_variant(engine: Engine, attack: Attack) -> Variant:
    """Fix what an engine would measure, so that a shard has the same bytes wherever it is made."""
    size = BATCH_ROWS if engine.batch_size == "auto" else engine.batch_size
    fixed = dataclasses.replace(engine, deterministic=True, quantize=True, batch_size=size)
    record = VariantRecord(
        attack=format_spec(attack),
        norm=attack.traits.norm,
        eps=attack.radius,
        model=str(getattr(engine.model, "name", type(engine.model).__name__)),
        model_sha256=model_sha256(engine.model),
    )
    return Variant(engine=fixed, attack=attack, record=record)


def software_versions() -> Mapping[str, str]:
    """Of the software that decides the bytes of a shard."""
    packages = ("torch", "numpy", "pyarrow")
    return {
        "deitsec": deitsec.__version__,
        **{name: package_version(name) or "none" for name in packages},
    }


def engine_options(engine: Engine) -> Mapping[str, Any]:
    """The options that decide what is generated, as plain values."""
    names = ("seed", "batch_size", "stop", "precision", "compile", "compaction")
    return {name: getattr(engine, name) for name in names}
