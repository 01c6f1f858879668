"""What a run works on: the data, the attacks and models, and the plan."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

import deitsec
from deitsec.attacks import Attack, format_spec
from deitsec.data import ImageSet
from deitsec.engine import Engine
from deitsec.engine.access import check_access
from deitsec.engine.rows import check_aim
from deitsec.environment import package_version
from deitsec.generation.plan import Job, Plan
from deitsec.generation.provenance import attack_file_sha256, preparation_of
from deitsec.models import model_sha256
from deitsec.shards import (
    Configuration,
    ShardAbout,
    UnreadableRow,
    VariantRecord,
)


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
        source={"split": source.split, "sha256": source.sha256},
        seed=configuration.options["seed"],
        options=configuration.options,
        versions=configuration.versions,
        unreadable=tuple((row.row, row.reason) for row in unreadable),
        dataset=configuration.plain(),
    )


def make_variants(
    engines: Sequence[Engine], attacks: Sequence[Attack], shape: tuple[int, int, int]
) -> tuple[Variant, ...]:
    """Every attack on every model, with what an engine would measure fixed.

    So a shard has the same bytes wherever it is made.

    Args:
        engines: one for each model.
        attacks: what is run.
        shape: (C, H, W) of the images.

    Raises:
        ValueError: an attack that no model can be attacked with so, engines of several options, or
            an attack or a model that is given twice.
    """
    fixed = [dataclasses.replace(one, deterministic=True, quantize=True) for one in engines]
    size = min(engine.rows_together(shape) for engine in fixed)
    variants = tuple(
        _variant(dataclasses.replace(engine, batch_size=size), attack)
        for engine, attack in product(fixed, attacks)
    )
    wanted = engine_options(engines[0])
    for engine in engines[1:]:
        for name, value in engine_options(engine).items():
            if value != wanted[name]:
                raise ValueError(
                    f"all engines must have one {name}, got {wanted[name]!r} and {value!r}"
                )
    _check_distinct(variants)
    return variants


def _check_distinct(variants: Sequence[Variant]) -> None:
    """Refuse copies, and models that the manifest could not tell apart."""
    records = [variant.record for variant in variants]
    for place, record in enumerate(records):
        if record in records[:place]:
            raise ValueError(
                f"{record.attack} on {record.model} ({record.model_sha256[:8]}) is there twice: "
                "give each attack and each model once"
            )


def _variant(engine: Engine, attack: Attack) -> Variant:
    check_aim(attack, None)
    check_access(attack, engine.model, engine.surrogate)
    record = VariantRecord(
        attack=format_spec(attack),
        norm=attack.traits.norm,
        eps=attack.radius,
        model=_model_name(engine.model),
        model_sha256=model_sha256(engine.model),
        target=attack.target if isinstance(attack.target, int) else None,
        file_sha256=attack_file_sha256(attack),
        preparation=preparation_of(engine.model),
    )
    # an engine for each attack: what it captured of the model is kept from shard to shard
    return Variant(engine=dataclasses.replace(engine), attack=attack, record=record)


def _model_name(model: nn.Module) -> str:
    name, head = getattr(model, "name", None), getattr(model, "head", None)
    if not isinstance(name, str):
        return type(model).__name__
    return f"{name} (head {head})" if head in ("class", "distillation") else name


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
    layout = ("channels_last", "attention")
    surrogate = None if engine.surrogate is None else model_sha256(engine.surrogate)
    return {
        **{name: getattr(engine, name) for name in (*names, *layout)},
        "surrogate_sha256": surrogate,
    }
