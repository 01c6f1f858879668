"""The heavy attacks against their peers: one run of each side a round, at equal success.

Every side's images are judged by the model in fp32: how many rows fell, and how far their images
had to be changed. No speed is reported for a side of ours that attacks less than the best peer.
"""

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import frozen
from benchmarks.interleave import Interleaved, Side, synchronize
from benchmarks.models import Subject
from benchmarks.peers import PEERS
from deitsec.attacks import Attack
from deitsec.engine import AttackResult, Engine
from deitsec.engine.precision import full_fp32
from deitsec.types import NORMS, Norm

OURS = "deitsec"
FLOOR = "model floor"
LONG_ROUND, LONG_CASE = 40.0, 150.0  # seconds, as in pgd_measurement
SUCCESS_SHORT, DISTANCE_OVER = 0.01, 0.02

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One attack on one network, by us and by others.

    Attributes:
        name: of the row.
        attack: ours.
        subject: network, images, labels, radius.
        batch: rows that go together.
        targets: (B,) where the attack aims.
        peers: name -> (subject, targets) -> adversarial images.
        norm: in which distances are compared; None compares success only.
        radius: distance beyond which an image does not count; None counts any.
        backwards_a_forward: gradients that a step takes, for the floor.
        floor: whether the model alone is a side.
    """

    name: str
    attack: Attack
    subject: Subject
    batch: int
    targets: Tensor | None = None
    peers: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    norm: Norm | None = None
    radius: float | None = None
    backwards_a_forward: int = 1
    floor: bool = False


def installed(name: str) -> bool:
    """Whether a peer can be used here; by its name in `PEERS`, or that of its module."""
    known = {peer.name: peer for peer in PEERS}
    return known[name].missing() is None if name in known else find_spec(name) is not None


def torchattack(name: str, subject: Subject, batch: int, **options: Any) -> Callable[[], Tensor]:
    """An attack of torchattacks, batch after batch, as its documentation calls it."""
    attack = getattr(import_module("torchattacks"), name)(frozen(subject.model), **options)

    def run() -> Tensor:
        parts = zip(subject.images.split(batch), subject.labels.split(batch), strict=True)
        return torch.cat([attack(images, labels).detach() for images, labels in parts])

    return run


def reference_autoattack(subject: Subject, batch: int, seed: int) -> Callable[[], Tensor]:
    """The standard protocol by its authors' code, as the package pyautoattack carries it."""
    device = subject.images.device.type
    library = import_module("pyautoattack.autoattack")
    attack = library.AutoAttack(
        frozen(subject.model), norm="Linf", eps=subject.eps, seed=seed, device=device
    )

    def run() -> Tensor:
        found = attack.run_standard_evaluation(subject.images, subject.labels, batch_size=batch)
        return (found if isinstance(found, Tensor) else found[0]).detach()

    return run


def foolbox_attack(attack: Any, subject: Subject, batch: int) -> Callable[[], Tensor]:
    """A minimum-norm attack of foolbox; rows that it does not break come back as they were."""
    library = import_module("foolbox")
    device = subject.images.device
    wrapped = library.PyTorchModel(frozen(subject.model), bounds=(0, 1), device=device)

    def run() -> Tensor:
        parts = zip(subject.images.split(batch), subject.labels.split(batch), strict=True)
        done: list[Tensor] = []
        for images, labels in parts:
            _, found, success = attack(wrapped, images, labels, epsilons=None)
            done.append(torch.where(success[:, None, None, None], found, images))
        return torch.cat(done)

    return run


def measure(contest: Contest, rounds: int) -> Row:
    """Judge every side, then time them turn by turn."""
    subject = contest.subject
    engine = Engine(subject.model, batch_size=contest.batch)
    found: dict[str, Any] = {}

    def ours() -> AttackResult:
        given = (subject.images, subject.labels, contest.targets)
        found[OURS] = engine.run(contest.attack, *given)
        return found[OURS]

    sides: dict[str, Callable[[], Any]] = {OURS: ours, **contest.peers}
    failed: dict[str, str] = {}
    first: dict[str, float] = {}
    for name, run in list(sides.items()):
        torch.manual_seed(0)
        start = time.perf_counter()
        try:
            found[name] = run()
        except Exception as error:  # whatever a library raises
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            del sides[name]
            continue
        synchronize()
        first[name] = time.perf_counter() - start
    result = found[OURS]
    figures = {
        name: judged(contest, out.adv if isinstance(out, AttackResult) else out)
        for name, out in found.items()
    }
    figures[OURS] |= {
        "forwards": int(result.queries.forward.sum()),
        "backwards": int(result.queries.backward.sum()),
        "peak_memory": result.peak_memory,
    }
    faults = compared(figures)
    row: Row = {
        "kind": "strong",
        "case": contest.name,
        "attack": contest.attack.name,
        "device": subject.images.device.type,
        "rows": len(subject.labels),
        "batch": contest.batch,
        "eps": contest.radius,
        "weights": subject.weights,
        "failed": failed,
        "sides": figures,
        "gate": {"passed": not faults, "faults": faults},
    }
    if not faults:
        if contest.floor:
            sides[FLOOR] = floor_of(contest, engine, result)
            first[FLOOR] = first[OURS]
            figures[FLOOR] = {}
        add_times(row, sides, sum(first.values()), rounds)
    return row


def floor_of(contest: Contest, engine: Engine, result: AttackResult) -> Callable[[], None]:
    """The model alone, on full batches, for as many passes as the rows had together.

    Its memory format is the one that the engine chose, or the floor would be above us.
    """
    subject = contest.subject
    images, model = subject.images[: contest.batch], frozen(subject.model)
    if str(engine.explain()["channels_last"]).startswith("on"):
        model = copy.deepcopy(model).to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    each = contest.backwards_a_forward
    steps = round(int(result.queries.backward.sum()) / each / len(images))
    plain = round(int(result.queries.forward.sum()) / len(images)) - steps
    with torch.no_grad():
        logits = model(images)
    into = torch.full_like(logits, 1 / logits.numel())

    def run() -> None:
        leaf = images.detach().requires_grad_()
        with full_fp32():
            for _ in range(steps):
                output = model(leaf)
                for number in range(each):
                    torch.autograd.grad(output, leaf, into, retain_graph=number < each - 1)
            with torch.no_grad():
                for _ in range(max(0, plain)):
                    model(images)

    return run


@torch.no_grad()
def judged(contest: Contest, adv: Tensor) -> Row:
    """Success and median distance of some adversarial images."""
    subject = contest.subject
    with full_fp32():
        parts = [subject.model(x).argmax(1) for x in adv.split(128)]
    predicted = torch.cat(parts)
    fallen = predicted != subject.labels
    if contest.targets is not None:
        fallen = predicted == contest.targets
    change = (adv - subject.images).flatten(1)
    if contest.radius is not None and contest.norm is not None:
        fallen &= length(change, contest.norm) <= contest.radius * (1 + 1e-5)
    row: Row = {"success": fallen.double().mean().item()}
    if contest.norm is not None and contest.radius is None and fallen.any():
        row["median_distance"] = length(change, contest.norm)[fallen].median().item()
    return row


def length(change: Tensor, norm: Norm) -> Tensor:
    """(B,) of rows (B, n)."""
    order = dict(zip(NORMS, (float("inf"), 2.0, 1.0, 0.0), strict=True))[norm]
    return torch.linalg.vector_norm(change, order, dim=1)


def compared(figures: Mapping[str, Row]) -> dict[str, str]:
    """What is wrong with ours, beside the best of the others."""
    ours, others = figures[OURS], [row for name, row in figures.items() if name != OURS]
    faults: dict[str, str] = {}
    best = max((row["success"] for row in others), default=0.0)
    if ours["success"] < best - SUCCESS_SHORT:
        faults["success"] = f"{ours['success']:.3f}, a peer {best:.3f}"
    # a side that breaks fewer rows breaks the near ones
    near = [
        row["median_distance"]
        for row in others
        if "median_distance" in row and row["success"] >= ours["success"] - SUCCESS_SHORT
    ]
    if near and ours.get("median_distance", 0.0) > min(near) * (1 + DISTANCE_OVER):
        faults["distance"] = f"{ours['median_distance']:.4f}, a peer {min(near):.4f}"
    return faults


def add_times(row: Row, sides: Mapping[str, Callable[[], Any]], once: float, rounds: int) -> None:
    """Interleaved rounds; fewer of a long case, which the row says."""
    timing = Interleaved({name: Side(run=run) for name, run in sides.items()}, calls=1)
    most = rounds if once <= LONG_ROUND else max(1, min(rounds, int(LONG_CASE / once)))
    for _ in range(most):
        timing.round()
    for name, times in timing.times.items():
        row["sides"][name]["seconds"] = statistics.median(times)
    row["times"], row["rounds"], row["rounds_wanted"] = timing.times, most, rounds
    row["disturbed"] = timing.disturbed
