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
from deitsec.engine.goal import Goal
from deitsec.engine.guard import attack_mode
from deitsec.report import Example

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
        norms: (N, 4) L-infinity, L2, L1 and L0 of the perturbation.
        queries: (N, 2) int64 forward and backward passes.
        seconds: of the attack alone.
        labels: (N,) int64.
    """

    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    clean_predicted: Tensor
    success: Tensor
    targeted_before: Tensor
    survives: Tensor
    finite: Tensor
    norms: Tensor
    queries: Tensor
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
    examples: list[Example] | None = None,
) -> Outcome:
    """Attack the test images of some rows.

    Args:
        engine: runs the attack.
        attack: what is run.
        data: where the images are.
        rows: (N,) int64 rows of the test split; they are the sample ids too.
        tick: told how many rows were done.
        examples: pictures for the report are added here.
    """
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
        parts.append(_outcome(result, reread.reached))
        if examples is not None and not examples:
            examples.extend(_pictures(attack, result, chunk, levels, quantized, reread))
    return Outcome.concatenate(parts)


def _quantize(attack: Attack, result: AttackResult, clean: Tensor) -> Tensor:
    eps = getattr(attack, "eps", None)
    budget = 255 if eps is None or attack.traits.norm != "linf" else ops.grey_levels(eps)
    return ops.quantize_uint8(result.adv, clean, budget)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reread:
    """What the model says of the 8-bit images: predicted class, its softmax, and the goal."""

    predicted: Tensor
    confidence: Tensor
    reached: Tensor


def _reread(engine: Engine, attack: Attack, result: AttackResult, quantized: Tensor) -> _Reread:
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
    return _Reread(
        predicted=top.indices,
        confidence=top.values,
        reached=goal.reached(logits, top.indices),
    )


def _outcome(result: AttackResult, survives: Tensor) -> Outcome:
    top = result.logits.float().softmax(1).max(1)
    clean_predicted = result.clean_logits.argmax(1)
    before = ~result.clean_correct
    if result.targets is not None:
        before = clean_predicted == result.targets
    norms = ops.row_norms(result.adv, result.clean)
    return Outcome(
        labels=result.labels,
        predicted=top.indices,
        confidence=top.values,
        clean_predicted=clean_predicted,
        success=result.success,
        targeted_before=before,
        survives=survives,
        finite=result.finite,
        norms=torch.stack(norms, 1),
        queries=torch.stack([result.queries.forward, result.queries.backward], 1),
        seconds=result.seconds,
    )


def _pictures(
    attack: Attack,
    result: AttackResult,
    rows: Tensor,
    clean: Tensor,
    quantized: Tensor,
    reread: _Reread,
) -> list[Example]:
    """One example a class, ten at most: a success on a row that was right before, where any."""
    wanted = (reread.reached & result.clean_correct).tolist()
    places: dict[int, int] = {}
    for place, label in enumerate(result.labels.tolist()):
        if label not in places or (wanted[place] and not wanted[places[label]]):
            places[label] = place
    before = result.clean_logits.float().softmax(1).max(1)
    return [
        Example(
            row=int(rows[place]),
            label=label,
            clean=clean[place].permute(1, 2, 0).numpy(),
            adversarial=quantized[place].permute(1, 2, 0).numpy(),
            clean_prediction=int(before.indices[place]),
            clean_confidence=float(before.values[place]),
            adversarial_prediction=int(reread.predicted[place]),
            adversarial_confidence=float(reread.confidence[place]),
            attack=attack.name,
        )
        for label, place in sorted(places.items())[:10]
    ]
