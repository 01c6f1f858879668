"""What is saved where finished rows leave the batch, and what it costs where none does.

PGD-40 that stops at the first success of each row, with compaction and without, and torchattacks,
which always takes every step. Where nothing falls, compaction has nothing to give: its overhead.
"""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from benchmarks.engines import Configuration, step_size
from benchmarks.models import NETWORKS, QUICK, Network
from benchmarks.peers import PEERS
from benchmarks.pgd_measurement import held, measure
from benchmarks.pgd_sides import Engines, PGDSide, Sides, fixed_work, our_side
from benchmarks.record import Record
from benchmarks.repeat import Repeat
from benchmarks.settings import Settings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IS_QUICK = Settings.found().quick
STEPS = 3 if IS_QUICK else 40
ROWS = 8 if IS_QUICK else {"cpu": 512, "cuda": 1000}[DEVICE]
BATCH = ROWS // 4  # several batches, so that the room of finished rows can be filled again
TINY_EPS = 1e-4
ON, OFF = "deitsec compaction", "deitsec no compaction"
CONFIGURATIONS = tuple(
    Configuration(
        name=name,
        options={"precision": "fp32", "stop": "first_success", "compaction": compaction},
    )
    for name, compaction in ((ON, True), (OFF, False))
)
CASES: dict[str, Network] = (
    {"quick": QUICK}
    if IS_QUICK
    else {
        "undefended": NETWORKS["small_cnn 28"],
        "adversarially trained": NETWORKS["small_cnn 28 adversarial"],
        "nothing falls": dataclasses.replace(NETWORKS["small_cnn 28 adversarial"], eps=TINY_EPS),
    }
)


def peer_side(engines: Engines) -> PGDSide | str:
    """torchattacks, batch after batch, or why it is not there."""
    peer = PEERS[0]
    reason = peer.missing()
    if reason is not None:
        return reason
    subject = engines.subject
    alpha = step_size(subject.eps, STEPS)
    attack = peer.make(copy.deepcopy(subject.model), subject.eps, alpha, STEPS)

    def run() -> Tensor:
        parts = zip(subject.images.split(BATCH), subject.labels.split(BATCH), strict=True)
        return torch.cat([attack(images, labels) for images, labels in parts])

    return PGDSide(
        run=run, facts={"version": peer.version, **fixed_work(STEPS, len(subject.images))}
    )


@pytest.mark.parametrize("name", CASES, ids=lambda name: name.replace(" ", "-"))
def test_compaction(name: str, record: Record, repeat: Repeat) -> None:
    """Sample-steps and wall time, on and off."""
    engines = Engines(CASES[name].subject(DEVICE, ROWS))
    ready = {c.name: our_side(engines, c, STEPS, BATCH) for c in CONFIGURATIONS}
    missing: dict[str, str] = {}
    match peer_side(engines):
        case str(reason):
            missing[PEERS[0].name] = reason
        case side:
            ready[PEERS[0].name] = side
    case = {
        "kind": "compaction",
        "network": name,
        "steps": STEPS,
        "device": DEVICE,
        "rows_together": BATCH,
    }
    row = measure(engines.subject, Sides(ready=ready, missing=missing), repeat, case, floor=False)
    if row["gate"]["passed"] and {ON, OFF} <= row["sides"].keys():
        seconds = {side: row["sides"][side]["seconds"] for side in (ON, OFF)}
        row["overhead_of_compaction"] = seconds[ON] / seconds[OFF] - 1
    record.add(row)
    held(row)
