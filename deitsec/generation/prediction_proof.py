"""What the model says of the bytes on disk, against what the dataset states.

The dataset's batch size, fp32 and deterministic kernels are taken, so that on the same kind of
hardware the answers are the same bits. Elsewhere a sum may be taken in another order, and logits
differ in their last digits. A margin between two logits may then be off by `TOLERANCE` of the
largest logit of the row (of 1, where they are smaller): a class or a success that a margin within
that decides is borderline, and not wrong. The softmax p moves by p (1 - p) of the margin's error at
most, a quarter of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deitsec.attacks import Attack
from deitsec.data import to_float
from deitsec.engine import Engine
from deitsec.engine.checked_model import CheckedModel
from deitsec.engine.exact import ExactModel
from deitsec.engine.guard import attack_mode, calculation
from deitsec.engine.ladder import Ladder
from deitsec.engine.targets import choose_targets
from deitsec.generation.finding import Finding
from deitsec.generation.row_proof import Part, own_tensor
from deitsec.generation.shard_proof import Mask, rows_where
from deitsec.types import Goal

TOLERANCE = 1e-4  # of the largest logit of a row
_HALF = 16  # units in the last place, where the weights are of lower precision
_PROBABILITY = 1e-6  # that fp32 and its softmax may be off by

Answer = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Judge:
    """A model of the dataset, asked as the engine asks it.

    Attributes:
        model: its weights are those that the dataset names.
        attack: whose success is judged.
        batch_size: of the dataset.
        seed: of the dataset.
    """

    model: nn.Module
    attack: Attack
    batch_size: int
    seed: int

    @property
    def repeats(self) -> bool:
        """Whether the draws of a model that makes some can be made again: of a single try."""
        tries = self.attack.num_restarts * max(1, self.attack.num_targets)
        return not Engine(self.model).draws or (tries == 1 and len(self.attack.stages) == 1)

    def logits(self, images: Tensor, sample_ids: Tensor) -> tuple[Answer, float]:
        """(n, K) logits of uint8 images, and the tolerance of their dtype."""
        device = Engine(self.model).device
        ladder = Ladder(sizes=(self.batch_size,), fixed=True)
        # the label is none of the model's business: a wrong one is found elsewhere
        checked = CheckedModel(self.model, torch.zeros(1, dtype=torch.int64))
        exact = ExactModel(checked, self.model, ladder, self.seed)
        with attack_mode(self.model), calculation(device, deterministic=True):
            found = exact(to_float(images.to(device)), sample_ids.to(device))
        slack = max(TOLERANCE, _HALF * torch.finfo(found.dtype).eps)
        return found.double().cpu().numpy(), slack


def check_predictions(part: Part, judge: Judge) -> tuple[list[Finding], Mask, int]:
    """Predict again what the rows state.

    Returns:
        What is wrong; (n,) bool rows that are borderline; and how many confidences are the same
        bits.
    """
    ids = own_tensor(part.column("sample_id"))
    after, slack = judge.logits(part.images, ids)
    margin = slack * np.maximum(1, np.abs(after).max(1))
    findings, near = list[Finding](), np.zeros(len(after), bool)
    if part.known.any():
        before, _ = judge.logits(part.clean, ids)
        room = slack * np.maximum(1, np.abs(before).max(1))
        wrong, close = _classes(part, "clean_prediction", before, room, part.known)
        findings += wrong
        near |= close
        findings += _targets(part, judge, before, room)
    wrong, close = _classes(
        part, "adversarial_prediction", after, margin, np.ones(len(after), bool)
    )
    findings += wrong
    near |= close
    probability = _softmax(after)
    stated = part.column("confidence").astype(np.float64)
    again = _at(probability, part.column("adversarial_prediction"))
    off = ~(np.abs(stated - again) <= 0.25 * margin + _PROBABILITY)
    off &= np.isfinite(again) | np.isfinite(stated)

    def unsure(row: int) -> str:
        return f"stated as {stated[row]:.7g}, the model gives {again[row]:.7g}"

    findings += rows_where(part.loaded, off, "confidence", "confidence", unsure, start=part.start)
    wrong, close = _successes(part, judge, after, margin)
    exact = torch.from_numpy(after).float().softmax(1).numpy()
    same = int((_at(exact, part.column("adversarial_prediction")) == stated).sum())
    return [*findings, *wrong], near | close, same


def _classes(
    part: Part, column: str, logits: Answer, margin: Answer, which: Mask
) -> tuple[Iterator[Finding], Mask]:
    stated, again = part.column(column), logits.argmax(1)
    behind = logits.max(1) - _at(logits, stated)
    differs = which & (stated != again)
    close = differs & (behind <= margin)

    def other(row: int) -> str:
        return (
            f"stated as {stated[row]}, the model predicts {again[row]}, "
            f"ahead by {behind[row]:.3g} (tolerance {margin[row]:.3g})"
        )

    wrong = differs & ~close
    return rows_where(part.loaded, wrong, "prediction", column, other, start=part.start), close


def _successes(
    part: Part, judge: Judge, logits: Answer, margin: Answer
) -> tuple[Iterator[Finding], Mask]:
    stated, label = part.column("success"), part.column("label").astype(np.int64)
    target = part.column("target").astype(np.int64)
    reached, close = np.zeros(len(stated), bool), np.zeros(len(stated), bool)
    classes = logits.shape[1]
    for targeted in (False, True):
        y = target if targeted else label
        rows = np.flatnonzero(((target >= 0) == targeted) & (y >= 0) & (y < classes))
        goal = Goal(
            y=torch.from_numpy(y[rows]),
            targeted=targeted,
            confidence=judge.attack.confidence if targeted else 0.0,
            kappa=judge.attack.lead,
        )
        given = torch.from_numpy(logits[rows])
        reached[rows] = (goal.reached(given) & given.isfinite().all(1)).numpy()
        close[rows] = _narrow(goal, logits[rows], margin[rows])
    differs = stated != reached
    # the clean image is no success of an attack that found nothing, whatever the model says of it
    differs &= ~(~stated.astype(bool) & (part.column("l0") == 0))

    def other(row: int) -> str:
        return f"stated as {bool(stated[row])}, by the model's logits it is {bool(reached[row])}"

    wrong = differs & ~close
    found = rows_where(part.loaded, wrong, "success", "success", other, start=part.start)
    return found, differs & close


def _narrow(goal: Goal, logits: Answer, margin: Answer) -> Mask:
    """Whether a margin within the tolerance decides the goal."""
    y = goal.y.numpy()
    ours, others = _at(logits, y), logits.copy()
    others[np.arange(len(y)), y] = -np.inf
    lead = ours - others.max(1) + (-goal.kappa if goal.targeted else goal.kappa)
    narrow = np.abs(lead) <= margin
    if goal.targeted and goal.confidence > 0:
        sure = _at(_softmax(logits), y)
        narrow |= np.abs(sure - goal.confidence) <= 0.25 * margin + _PROBABILITY
    return narrow


def _targets(part: Part, judge: Judge, clean: Answer, margin: Answer) -> Iterator[Finding]:
    """The classes that rows are aimed at, by the attack's own rule."""
    stated, label = part.column("target").astype(np.int64), part.column("label").astype(np.int64)
    policy, classes = judge.attack.target, clean.shape[1]
    meant = np.full(len(stated), -1, np.int64)
    usable = part.known & (label >= 0) & (label < classes)
    if policy is not None:
        rows = np.flatnonzero(usable & (label != policy))
        ids = torch.from_numpy(part.column("sample_id")[rows].astype(np.int64))
        given = torch.from_numpy(label[rows]), torch.from_numpy(clean[rows]), ids, judge.seed
        meant[rows] = choose_targets(policy, *given).numpy()
    wrong = usable & (stated != meant)
    if policy == "least-likely":
        wrong &= ~(_at(clean, stated) - _at(clean, meant) <= margin)

    def other(row: int) -> str:
        return f"stated as {stated[row]}, the attack aims at {meant[row]} (-1: at none)"

    return rows_where(part.loaded, wrong, "target", "target", other, start=part.start)


def _at(values: NDArray[np.floating], index: NDArray[Any]) -> NDArray[np.floating]:
    """Of each row the value at a class; NaN where there is no such class."""
    index = index.astype(np.int64)
    inside = (index >= 0) & (index < values.shape[1])
    found = values[np.arange(len(values)), np.where(inside, index, 0)]
    return np.where(inside, found, np.nan)


def _softmax(logits: Answer) -> Answer:
    return torch.from_numpy(logits).softmax(1).numpy()
