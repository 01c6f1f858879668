"""Runs one attack over the rows of a data source and keeps what the report needs of each row."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks import Attack
from deitsec.data import DataSource, to_float
from deitsec.engine import AttackResult, Engine
from deitsec.engine.guard import attack_mode
from deitsec.types import Goal
from deitsec.verification.gallery import Gallery, Reread

_CHUNK = 512  # rows whose images are in memory at once
Tick = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What the model says of some images.

    Attributes:
        labels: (N,) int64 true classes.
        predicted: (N,) int64.
        confidence: (N,) fp32 softmax of the predicted class.
    """

    labels: Tensor
    predicted: Tensor
    confidence: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What an attack came to, row by row.

    Attributes:
        predicted, confidence: (N,) at the adversarial images.
        clean_predicted: (N,) before the attack.
        success: (N,) bool, the goal was reached.
        targeted_before: (N,) bool, the goal held before the attack already.
        survives: (N,) bool, the goal is reached after rounding to 8 bits too.
        finite: (N,) bool.
        driven: (N,) bool, some gradient was not 0.
        norms: (N, 4) L-infinity, L2, L1 and L0 of the perturbation.
        queries: (N, 2) int64 forward and backward passes.
        claims: (N,) int64 successes in lower precision that fp32 was asked about.
        refuted: (N,) int64 those that it did not confirm.
        seconds: of the attack alone.
        rows: (N,) int64 rows of the test split, ascending.
        labels: (N,) int64.
    """

    rows: Tensor
    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    clean_predicted: Tensor
    success: Tensor
    targeted_before: Tensor
    survives: Tensor
    finite: Tensor
    driven: Tensor
    norms: Tensor
    queries: Tensor
    claims: Tensor
    refuted: Tensor
    seconds: float

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """Join the outcomes of consecutive chunks."""
        names = [field.name for field in dataclasses.fields(cls) if field.name != "seconds"]
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return cls(**joined, seconds=sum(part.seconds for part in parts))


def predict(engine: Engine, data: DataSource, rows: Tensor, tick: Tick) -> Predictions:
    """Classify the clean test images of some rows; `tick` is told how many are done."""
    predicted: list[Tensor] = []
    confidence: list[Tensor] = []
    with attack_mode(engine.model), torch.no_grad():
        for chunk in rows.split(engine.rows_together(data.test.shape)):
            images = to_float(data.test.images(chunk)).to(engine.device)
            top = engine.model(images).float().softmax(1).max(1)
            predicted.append(top.indices.cpu())
            confidence.append(top.values.cpu())
            tick(len(chunk))
    return Predictions(
        labels=data.test.labels[rows],
        predicted=torch.cat(predicted),
        confidence=torch.cat(confidence),
    )


def measure(
    engine: Engine,
    attack: Attack,
    data: DataSource,
    rows: Tensor,
    tick: Tick,
    *,
    gallery: Gallery | None = None,
) -> Outcome:
    """Attack the test images of some rows.

    Where the attack aims at one class, the rows of that class are left out: there is nobody to be
    impersonated.

    Args:
        engine: runs the attack.
        attack: what is run.
        data: where the images are.
        rows: (N,) int64 rows of the test split; they are the sample ids too.
        tick: told how many rows were done.
        gallery: shown every image.

    Raises:
        ValueError: what `Engine.run` raises, or no row is left.
    """
    if isinstance(attack.target, int):
        rows = rows[data.test.labels[rows] != attack.target]
    parts: list[Outcome] = []
    for chunk in rows.split(_CHUNK):
        levels = data.test.images(chunk)
        done = 0

        def advance(now: int, _all: int) -> None:
            nonlocal done
            tick(now - done)
            done = now

        result = engine.run(
            attack,
            to_float(levels),
            data.test.labels[chunk],
            sample_ids=chunk,
            progress=advance,
        )
        quantized = _quantize(attack, result, levels)
        reread = _reread(engine, attack, result, quantized)
        parts.append(_outcome(chunk, result, reread.reached))
        if gallery is not None:
            gallery.show(attack, result, chunk, quantized, reread)
    return Outcome.concatenate(parts)


def _quantize(attack: Attack, result: AttackResult, clean: Tensor) -> Tensor:
    radius = attack.radius
    budget = 255 if radius is None or attack.traits.norm != "linf" else ops.grey_levels(radius)
    return ops.quantize_uint8(result.adv, clean, budget)


def _reread(engine: Engine, attack: Attack, result: AttackResult, quantized: Tensor) -> Reread:
    """Classify the images as they would be read from a file."""
    parts: list[Tensor] = []
    with attack_mode(engine.model), torch.no_grad():
        for images in quantized.split(engine.rows_together(quantized.shape[1:])):
            logits = engine.model(to_float(images).to(engine.device))
            parts.append(logits.float().cpu())
    logits = torch.cat(parts)
    goal = Goal(
        y=result.labels if result.targets is None else result.targets,
        targeted=result.targets is not None,
        confidence=attack.confidence,
    )
    top = logits.softmax(1).max(1)
    return Reread(
        predicted=top.indices,
        confidence=top.values,
        reached=goal.reached(logits, top.indices),
    )


def _outcome(rows: Tensor, result: AttackResult, survives: Tensor) -> Outcome:
    top = result.logits.float().softmax(1).max(1)
    clean_predicted = result.clean_logits.argmax(1)
    before = ~result.clean_correct
    if result.targets is not None:
        before = clean_predicted == result.targets
    norms = ops.row_norms(result.adv, result.clean)
    return Outcome(
        rows=rows,
        labels=result.labels,
        predicted=top.indices,
        confidence=top.values,
        clean_predicted=clean_predicted,
        success=result.success,
        targeted_before=before,
        survives=survives,
        finite=result.finite,
        driven=result.driven,
        norms=torch.stack(norms, 1),
        queries=torch.stack([result.queries.forward, result.queries.backward], 1),
        claims=result.claims,
        refuted=result.refuted,
        seconds=result.seconds,
    )
