"""From a block of images to the rows of a shard: attack, round, and note what came of it."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitsec.data import to_float
from deitsec.engine import AttackResult
from deitsec.generation.distances import level_distances
from deitsec.generation.plan import Job
from deitsec.generation.reading import Block
from deitsec.generation.workload import Workload
from deitsec.shards import ShardRows, UnreadableRow

_FEED_ROWS, _FEED_VALUES = 1024, 1 << 23  # brought to float at a time
Tick = Callable[[int], None]
Column = NDArray[Any]

_KINDS = {  # of the columns that the engine's answer tells, beside the image
    "label": np.int32,
    "target": np.int32,
    "clean_prediction": np.int32,
    "adversarial_prediction": np.int32,
    "success": np.bool_,
    "confidence": np.float32,
    "linf_levels": np.int16,
    "l2": np.float32,
    "l1": np.float32,
    "l0": np.int32,
    "queries": np.int64,
    "gradients": np.int64,
    "sample_id": np.int64,
}


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
        MemoryError: a batch does not fit into memory; a smaller one gives other bytes, so the run
            does not go on with it by itself.
        RuntimeError: the engine returned images that 8 bits do not hold.
        ValueError: what `Engine.run` raises.
    """
    started = time.perf_counter()
    variant = work.variants[job.variant]
    block = block.take(variant.takes(block.labels))
    count = len(block.rows)
    image = np.empty((count, *work.images.shape), np.uint8)
    columns: dict[str, Column] = {name: np.empty(count, kind) for name, kind in _KINDS.items()}
    if count:
        engine, done = variant.engine, 0
        progress = None if tick is None else lambda done, _: tick(done)
        for result in engine.stream(variant.attack, _feed(block, engine.device), progress=progress):
            if result.batch_size != engine.batch_size:
                raise MemoryError(
                    f"{engine.batch_size} images do not fit into memory together, "
                    f"{result.batch_size} do: start again with --batch-size {result.batch_size}"
                )
            some = slice(done, done + len(result.labels))
            for name, tensor in _columns(result, block.images[some]).items():
                (image if name == "image" else columns[name])[some] = tensor.cpu().numpy()
            done = some.stop
        assert done == count
    seconds = time.perf_counter() - started
    clean = block.images.numpy() if work.configuration.clean_images else None
    rows = ShardRows(image=image, clean_image=clean, source_row=block.rows.numpy(), **columns)
    return Crafted(rows=rows, unreadable=block.unreadable, seconds=seconds)


def _feed(block: Block, device: torch.device) -> Iterator[dict[str, Tensor]]:
    size = max(1, min(_FEED_ROWS, _FEED_VALUES // math.prod(block.images.shape[1:])))
    for start in range(0, len(block.rows), size):
        some = slice(start, start + size)
        yield {
            "images": to_float(block.images[some].to(device)),
            "labels": block.labels[some].to(device),
            "sample_ids": block.sample_ids[some].to(device),
        }


def _columns(result: AttackResult, before: Tensor) -> dict[str, Tensor]:
    """The columns of some rows; the prediction is that of the 8-bit image, bit for bit."""
    image = (result.adv * 255).round_().to(torch.uint8)
    if not torch.equal(to_float(image), result.adv):
        raise RuntimeError("the engine returned images that 8 bits do not hold")
    linf, l2, l1, l0 = level_distances(image, before.to(image.device))
    predicted = result.logits.argmax(1)
    probability = result.logits.float().softmax(1).gather(1, predicted[:, None])[:, 0]
    nobody = torch.full_like(result.labels, -1)
    return {
        "image": image,
        "label": result.labels,
        "target": nobody if result.targets is None else result.targets,
        "clean_prediction": result.clean_logits.argmax(1),
        "adversarial_prediction": predicted,
        "success": result.success,
        "confidence": probability,
        "linf_levels": linf,
        "l2": l2,
        "l1": l1,
        "l0": l0,
        "queries": result.queries.forward,
        "gradients": result.queries.backward,
        "sample_id": result.sample_ids,
    }
