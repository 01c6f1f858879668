"""The sides of a PGD measurement: ours, the other libraries and tuned PyTorch."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from benchmarks.engines import CONFIGURATIONS, Configuration, attack_of, step_size, work
from benchmarks.floor import frozen, in_bf16, tuned_pgd
from benchmarks.models import Subject
from benchmarks.peers import PEERS
from deitsec.engine import AttackResult, Engine

TUNED, TUNED_BF16 = "eager fp32", "eager bf16"


@dataclass(frozen=True, kw_only=True)
class PGDSide:
    """One way of running the attack.

    Attributes:
        run: runs it; adversarial images, or a result that carries them.
        precision: of the gradients.
        facts: what the result file says of it beside the times.
        engine: ours.
    """

    run: Callable[[], Tensor | AttackResult]
    precision: str = "fp32"
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    engine: Engine | None = None


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The sides that can be measured, and why the others cannot."""

    ready: dict[str, PGDSide]
    missing: dict[str, str]


class Engines:
    """Engines of one network, kept so that a model is compiled once for all its measurements."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.kept: dict[str, Engine] = {}

    def get(self, configuration: Configuration, batch: int | None = None) -> Engine:
        """The engine of a configuration, on a copy of the model; all rows together by default."""
        if configuration.name not in self.kept:
            model = copy.deepcopy(self.subject.model)
            engine = configuration.engine(model, batch or len(self.subject.images))
            self.kept[configuration.name] = engine
        return self.kept[configuration.name]


def all_sides(engines: Engines, steps: int, device: str) -> Sides:
    """Every side of PGD with this many steps; each has a copy of the model to itself."""
    subject = engines.subject
    images, labels, eps = subject.images, subject.labels, subject.eps
    alpha = step_size(eps, steps)
    fixed = fixed_work(steps, len(images))
    ready: dict[str, PGDSide] = {}
    missing: dict[str, str] = {}
    for peer in PEERS:
        reason = peer.missing()
        if reason is not None:
            missing[peer.name] = reason
            continue
        attack = peer.make(copy.deepcopy(subject.model), eps, alpha, steps)
        ready[peer.name] = PGDSide(
            run=_call(attack, images, labels), facts={"version": peer.version, **fixed}
        )
    tuned = ((TUNED, "fp32", frozen), (TUNED_BF16, "bf16", in_bf16))
    for name, precision, copied in tuned:
        attack = tuned_pgd(copied(subject.model), eps, alpha, steps)
        ready[name] = PGDSide(run=_call(attack, images, labels), precision=precision, facts=fixed)
    for configuration in CONFIGURATIONS:
        reason = configuration.missing(device)
        if reason is not None:
            missing[configuration.name] = reason
            continue
        ready[configuration.name] = our_side(engines, configuration, steps)
    return Sides(ready=ready, missing=missing)


def fixed_work(steps: int, rows: int) -> dict[str, Any]:
    """The work of a PGD that does not look at success."""
    return {
        "forwards": steps,
        "backwards": steps,
        "sample_steps": steps * rows,
        "rows_by_step": [rows] * steps,
    }


def our_side(
    engines: Engines, configuration: Configuration, steps: int, batch: int | None = None
) -> PGDSide:
    """The engine in one configuration, all rows together by default."""
    subject, engine = engines.subject, engines.get(configuration, batch)
    attack = attack_of(subject.eps, steps)
    return PGDSide(
        run=lambda: engine.run(attack, subject.images, subject.labels),
        precision=configuration.precision,
        facts={"options": configuration.options},
        engine=engine,
    )


def facts_of(side: PGDSide, result: Tensor | AttackResult) -> dict[str, Any]:
    """What the result file says of a side, from its run at the gate."""
    facts = {"precision": side.precision, **side.facts}
    if isinstance(result, AttackResult):
        facts |= work(result)
    if side.engine is not None:
        facts["explain"] = side.engine.explain()
    return facts


def adversarial(result: Tensor | AttackResult) -> Tensor:
    """The images that a side came to."""
    return result.adv if isinstance(result, AttackResult) else result.detach()


def _call(
    attack: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor
) -> Callable[[], Tensor]:
    return lambda: attack(images, labels)
