"""From a block of images to the rows of a shard: attack, round, and note what came of it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deitsec.data import to_float
from deitsec.engine import AttackResult
from deitsec.generation.distances import level_distances
from deitsec.generation.plan import Job
from deitsec.generation.reading import Block
from deitsec.generation.workload import Workload
from deitsec.shards import ShardRows, UnreadableRow

_FEED_ROWS = 1024  # brought to float at a time
Tick = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Crafted:
    """The rows of a shard, before they are written.

    Attributes:
        rows: the columns.
        unreadable: rows that are missing.
        seconds: wall clock of the attack.
    """

    rows: ShardRows
    unreadable: tuple[UnreadableRow, ...]
    seconds: float


def craft(work: Workload, job: Job, block: Block, tick: Tick | None = None) -> Crafted:
    """Attack a block.

    Args:
        work: the attacks and models.
        job: which of them.
        block: the rows.
        tick: told how many rows of the block are done.

    Raises:
        RuntimeError: the engine returned images that 8 bits do not hold.
        ValueError: what `Engine.run` raises.
    """
    started = time.perf_counter()
    variant = work.variants[job.variant]
    block = block.take(variant.takes(block.labels))
    parts: list[dict[str, Any]] = []
    if len(block.rows):
        progress = None if tick is None else lambda done, _: tick(done)
        feed = _feed(block)
        for result in variant.engine.stream(variant.attack, feed, progress=progress):
            parts.append(_columns(result))
    seconds = time.perf_counter() - started
    columns = _join(parts, work.images.shape)
    clean = block.images.numpy() if work.configuration.clean_images else None
    rows = ShardRows(**columns, clean_image=clean, source_row=block.rows.numpy())
    return Crafted(rows=rows, unreadable=block.unreadable, seconds=seconds)


def _feed(block: Block) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(block.rows), _FEED_ROWS):
        some = slice(start, start + _FEED_ROWS)
        yield {
            "images": to_float(block.images[some]),
            "labels": block.labels[some],
            "sample_ids": block.sample_ids[some],
        }


def _columns(result: AttackResult) -> dict[str, Any]:
    """The columns of some rows; the prediction is that of the 8-bit image, bit for bit."""
    image = (result.adv * 255).round().to(torch.uint8)
    if not torch.equal(to_float(image), result.adv.float()):
        raise RuntimeError("the engine returned images that 8 bits do not hold")
    before = (result.clean * 255).round().to(torch.uint8)
    linf, l2, l1, l0 = level_distances(image, before)
    probability, predicted = result.logits.float().softmax(1).max(1)
    nobody = torch.full_like(result.labels, -1)
    columns: dict[str, tuple[Tensor, Any]] = {
        "image": (image, np.uint8),
        "label": (result.labels, np.int32),
        "target": (nobody if result.targets is None else result.targets, np.int32),
        "clean_prediction": (result.clean_logits.argmax(1), np.int32),
        "adversarial_prediction": (predicted, np.int32),
        "success": (result.success, np.bool_),
        "confidence": (probability, np.float32),
        "linf_levels": (linf, np.int16),
        "l2": (l2, np.float32),
        "l1": (l1, np.float32),
        "l0": (l0, np.int32),
        "queries": (result.queries.forward, np.int64),
        "gradients": (result.queries.backward, np.int64),
        "sample_id": (result.sample_ids, np.int64),
    }
    return {name: tensor.cpu().numpy().astype(kind) for name, (tensor, kind) in columns.items()}


def _join(parts: list[dict[str, Any]], shape: tuple[int, int, int]) -> dict[str, Any]:
    if not parts:
        parts = [_nothing(shape)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _nothing(shape: tuple[int, int, int]) -> dict[str, Any]:
    """The columns of no rows, for a shard whose rows are all unreadable."""
    integers = ("label", "target", "clean_prediction", "adversarial_prediction", "l0")
    columns: dict[str, Any] = {"image": np.empty((0, *shape), np.uint8)}
    columns |= {name: np.empty(0, np.int32) for name in integers}
    columns |= {name: np.empty(0, np.float32) for name in ("confidence", "l2", "l1")}
    columns |= {name: np.empty(0, np.int64) for name in ("queries", "gradients", "sample_id")}
    return columns | {"success": np.empty(0, np.bool_), "linf_levels": np.empty(0, np.int16)}
