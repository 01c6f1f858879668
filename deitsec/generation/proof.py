"""`deitsec.generation.verify_dataset`: is a dataset what it says it is, row by row?"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import nn

from deitsec.data import DataSource
from deitsec.generation.evidence import Evidence, gather
from deitsec.generation.finding import Finding, Ledger, Proof
from deitsec.generation.shard_proof import Loaded, load_shard
from deitsec.generation.survey import Survey
from deitsec.generation.witnesses import judges_of, open_source, split_of
from deitsec.shards import MANIFEST, shard_name

KEEP = 20
Progress = Callable[[int, int], None]


def verify_dataset(
    folder: str | Path,
    *,
    data: DataSource | str | None = None,
    models: nn.Module | Sequence[nn.Module] = (),
    keep: int | None = KEEP,
    progress: Progress | None = None,
) -> Proof:
    """Hold every shard and every row of an adversarial dataset to what is said of them.

    Without a source and models this proves that the files are those of the manifest, that every row
    of the plan is there once, and, where clean images are stored, how far each image is from its
    own. The source proves the clean images, labels and distances; a model proves predictions,
    confidences and successes, from the bytes on disk.

    One shard is looked at while the next is read, so that memory hangs on the size of a shard.

    Args:
        folder: of the dataset.
        data: what was attacked; by default what the manifest names, if it is still there.
        models: those that were attacked, told apart by their weights, on the device to ask them on.
        keep: how many findings of a kind are kept; None keeps all.
        progress: called with (rows done, rows in all).

    Raises:
        DataError: the data given cannot be opened.
        ShardError: the folder holds no dataset, or nothing says what it should be.
        ValueError: the data or a model is not that of the dataset.
    """
    evidence = gather(Path(folder))
    return prove(evidence, data=data, models=models, keep=keep, progress=progress)


def prove(
    evidence: Evidence,
    *,
    data: DataSource | str | None,
    models: nn.Module | Sequence[nn.Module],
    keep: int | None,
    progress: Progress | None = None,
    only: Iterable[int] | None = None,
) -> Proof:
    """Look at the shards, or at `only` some of them; see `verify_dataset`."""
    started = time.perf_counter()
    configuration = evidence.configuration
    source, why = open_source(configuration, data)
    given = [models] if isinstance(models, nn.Module) else list(models)
    judges, notes = judges_of(configuration, given)
    images = None if source is None else split_of(source, configuration)
    survey = Survey(evidence=evidence, source=images, judges=judges, ledger=Ledger(keep))
    survey.ledger.take(evidence.findings)
    numbers = [number for number in evidence.numbers if number < evidence.total]
    survey.ledger.take(_whole(evidence))
    if only is not None:
        numbers = sorted(set(only) & set(numbers))
    total = _planned_rows(evidence, numbers)
    for loaded in _read_ahead(evidence, numbers):
        for _ in survey.look(loaded):
            if progress is not None:
                progress(survey.checked["rows"], total)
    return Proof(
        folder=str(evidence.folder),
        shards=len(numbers),
        rows=survey.checked["rows"],
        findings=tuple(survey.ledger.kept),
        counts=dict(survey.ledger.counts),
        wrong_shards=tuple(sorted(survey.ledger.wrong_shards)),
        wrong_entries=tuple(sorted(survey.ledger.wrong_entries)),
        borderline=survey.borderline,
        borderline_rows=tuple(survey.near),
        checked=dict(survey.checked),
        unchecked=(*survey.unchecked(why), *notes),
        seconds=time.perf_counter() - started,
    )


def _whole(evidence: Evidence) -> Iterator[Finding]:
    """Shards that are missing, and files that are none of the dataset's."""
    there = set(evidence.numbers)
    missing = [number for number in range(evidence.total) if number not in there]
    for number in missing:
        text = f"{shard_name(number)} is missing"
        yield Finding(kind="missing", fault="shard", shard=number, message=text)
    for number in evidence.numbers:
        if number >= evidence.total:
            text = f"{shard_name(number)} is none of the {evidence.total} shards of the dataset"
            yield Finding(kind="extra", fault="extra", shard=number, message=text)
    if evidence.manifest is None:
        return
    for number in sorted(set(evidence.entries) - there):
        if number >= evidence.total:
            text = f"{MANIFEST} lists {shard_name(number)}, which is none of the dataset's"
            yield Finding(kind="manifest", fault="manifest", shard=number, message=text)
    if evidence.manifest.complete != (len(evidence.entries) == evidence.total):
        said = "complete" if evidence.manifest.complete else "not complete: go on with --resume"
        text = f"{MANIFEST} says the dataset is {said}, and lists {len(evidence.entries)} of "
        text += f"{evidence.total} shards"
        yield Finding(kind="manifest", fault="manifest", column="complete", message=text)


def _planned_rows(evidence: Evidence, numbers: Sequence[int]) -> int:
    plan, variants = evidence.configuration.plan, len(evidence.configuration.variants)
    starts = [number // variants * plan.shard_rows for number in numbers]
    return sum(min(plan.shard_rows, plan.rows - start) for start in starts)


def _read_ahead(evidence: Evidence, numbers: Sequence[int]) -> Iterator[Loaded]:
    """The shards in their order, the next one on its way."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="deitsec-read") as reader:
        coming = [reader.submit(load_shard, evidence, number) for number in numbers[:1]]
        for following in [*numbers[1:], None]:
            if not coming:
                return
            loaded = coming.pop().result()
            if following is not None:
                coming.append(reader.submit(load_shard, evidence, following))
            yield loaded
