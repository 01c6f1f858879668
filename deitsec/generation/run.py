"""`deitsec.generate`: adversarial datasets in bulk."""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from deitsec.attacks import Attack
from deitsec.data import DataSource, ImageSet, load_data
from deitsec.data.image_set import UNLABELLED
from deitsec.engine import Engine
from deitsec.engine.guard import attack_mode, warn_of_training
from deitsec.environment import environment
from deitsec.generation.folder import (
    Folder,
    check_free,
    check_same,
    is_dataset,
    locked,
    resume_folder,
    start_folder,
    stored_selection,
)
from deitsec.generation.local import RowTick, produce
from deitsec.generation.plan import Job, Plan
from deitsec.generation.selection import Pick, Selection, select_rows, selection_sha256
from deitsec.generation.workload import (
    Variant,
    Workload,
    engine_options,
    make_variants,
    software_versions,
)
from deitsec.shards import (
    Configuration,
    Manifest,
    PlanRecord,
    ShardEntry,
    SourceRecord,
    read_manifest,
)
from deitsec.shards.extra import require_extra

MOST_SHARD_ROWS, LEAST_SHARD_ROWS = 4096, 64
_SHARD_BYTES = 64_000_000  # of images, about: several shards are in memory


def usual_shard_rows(shape: tuple[int, int, int]) -> int:
    """Rows of a shard where none are asked for: 4096, of large images as many as are 64 MB.

    Args:
        shape: (C, H, W) of the images.
    """
    fitting = _SHARD_BYTES // max(1, math.prod(shape))
    return min(MOST_SHARD_ROWS, max(LEAST_SHARD_ROWS, fitting))


class Runner(Protocol):
    """Makes shards somewhere."""

    def __call__(
        self, work: Workload, jobs: Iterable[Job], folder: Path, tick: RowTick | None = None
    ) -> Generator[ShardEntry]:
        """Make the shards of some jobs, and give the entry of each one that is done.

        The order of the entries is free. When it is closed, nothing writes into the folder any
        more. See `deitsec.generation.local.produce`.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationEvent:
    """Where a run stands.

    Attributes:
        rows: done with, of all variants, those of shards that were there before among them.
        total: rows of the whole dataset.
        resumed: rows that were there before.
        successes: of the finished shards.
        finished_rows: rows that the finished shards hold: those left out are not among them.
    """

    rows: int
    total: int
    resumed: int
    successes: int
    finished_rows: int


Progress = Callable[[GenerationEvent], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What of a source is attacked, and how it is kept.

    Attributes:
        rows: of each attack and model; None for all that are picked. More than those take them
            several times, with other random draws.
        shard_rows: rows of a shard, >= 1; None for `usual_shard_rows`.
        per_class: the first so many of each class; None for all.
        only_correct: leave out the rows that a model gets wrong.
        split: `test` or `train`.
        clean_images: store the clean images too.
        strict: a row that cannot be read is an error, instead of being listed.

    Raises:
        ValueError: a number below 1, or another split.
    """

    rows: int | None = None
    shard_rows: int | None = None
    per_class: int | None = None
    only_correct: bool = False
    split: str = "test"
    clean_images: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("rows", "shard_rows", "per_class"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.split not in ("test", "train"):
            raise ValueError(f"split must be test or train, got {self.split!r}")


def generate(
    engine: Engine | Sequence[Engine],
    attack: Attack | Sequence[Attack],
    source: DataSource | str,
    *,
    out: str | Path,
    settings: Settings | None = None,
    resume: bool = False,
    runner: Runner = produce,
    progress: Progress | None = None,
    command: Sequence[str] = (),
) -> Manifest:
    """Attack a source and write the adversarial images as Parquet shards.

    Every attack is run on every model. The images are uint8, judged after rounding, and each file
    is read back before it gets its name. The same arguments give the same bytes on the same kind
    of hardware, whatever the runner and however often the run was stopped.

    Args:
        engine: one for each model; it is run deterministically, with 8-bit images.
        attack: what is run.
        source: the data, or its URI.
        out: the folder.
        settings: which rows, how many a shard.
        resume: go on with what the folder holds.
        runner: where shards are made.
        progress: told where the run stands.
        command: the command line, for the manifest.

    Returns:
        The manifest, complete.

    Raises:
        ImportError: a package is missing; the message says how to get it.
        DataError: the source cannot be used, or a row cannot be read and the run is strict.
        MemoryError: a batch does not fit into memory.
        OSError: the folder cannot be written.
        ShardError: what the folder holds is broken.
        ValueError: another run is in the folder or writes into it, or an option is out of range.
    """
    require_extra("shards", "pyarrow", "filelock")
    path, settings = Path(out), settings or Settings()
    data = load_data(source) if isinstance(source, str) else source
    engines = [engine] if isinstance(engine, Engine) else list(engine)
    attacks = [attack] if isinstance(attack, Attack) else list(attack)
    if not engines or not attacks:
        raise ValueError("generate needs at least one engine and one attack")
    variants = make_variants(engines, attacks, data.test.shape)
    models = [model for one in engines for model in one.models]
    for model in models:
        warn_of_training(model, stacklevel=2)  # once, not for each shard
    with locked(path), attack_mode(*models):
        if not (resume and is_dataset(path)):
            check_free(path)
        work, folder = _open(path, data, variants, settings, command, resume=resume)
        jobs = [number for number in range(work.plan.shards) if number not in folder.done]
        if not jobs and folder.manifest.complete:
            return folder.manifest
        watch = _Watch(work.plan, folder, progress)
        try:
            # closed before the lock goes, whatever ends it: its threads write into the folder
            with closing(runner(work, map(work.plan.job, jobs), path, watch.tick)) as entries:
                for entry in entries:
                    folder.add(entry)
                    watch.finished(entry)
        except BaseException:
            _save_what_is_done(folder)
            raise
        return folder.save(complete=len(folder.done) == work.plan.shards)


def _save_what_is_done(folder: Folder) -> None:
    """Write the manifest of a run that ends early, if the disk lets us: shards count without it."""
    try:
        folder.save()
    except OSError:
        return


def _open(
    path: Path,
    data: DataSource,
    variants: tuple[Variant, ...],
    settings: Settings,
    command: Sequence[str],
    *,
    resume: bool,
) -> tuple[Workload, Folder]:
    """Work out what is to be done, and open the folder for it."""
    images = _split(data, settings.split)
    here = environment(variants[0].engine.device)
    stored = read_manifest(path).configuration if resume and is_dataset(path) else None
    if stored is not None:
        selection = Selection(rows=stored_selection(path, stored))
    else:
        pick = Pick(
            rows=settings.rows,
            per_class=settings.per_class,
            only_correct=settings.only_correct,
            strict=settings.strict,
        )
        engines = [variant.engine for variant in variants]
        selection = select_rows(images, engines, pick, num_classes=data.num_classes)
    configuration = _configuration(data, images, variants, settings, selection.rows)
    if stored is not None:
        check_same(path, stored, configuration)
    plan = Plan.of(configuration, selection.rows)
    _check_repeats(plan, variants)
    work = Workload(
        images=images,
        plan=plan,
        variants=variants,
        configuration=configuration,
        strict=settings.strict,
    )
    if stored is not None:
        return work, resume_folder(path, work, here)
    folder = start_folder(
        path,
        configuration,
        selection=selection.rows,
        unreadable=selection.unreadable,
        command=command,
        environment=here,
    )
    return work, folder


def _split(data: DataSource, split: str) -> ImageSet:
    if split == "test":
        return data.test
    if data.train is None:
        raise ValueError(f"{data.uri} has no training split")
    if int(data.train.labels.min()) == UNLABELLED:
        raise ValueError(f"the training split of {data.uri} has images without a label")
    return data.train


def _configuration(
    data: DataSource,
    images: ImageSet,
    variants: tuple[Variant, ...],
    settings: Settings,
    selection: Tensor | None,
) -> Configuration:
    picked = len(images) if selection is None else len(selection)
    return Configuration(
        source=SourceRecord(
            uri=data.uri,
            name=data.name,
            split=settings.split,
            sha256=data.sha256,
            rows=len(images),
            shape=images.shape,
            class_names=data.class_names,
        ),
        plan=PlanRecord(
            rows=settings.rows or picked,
            shard_rows=settings.shard_rows or usual_shard_rows(images.shape),
            per_class=settings.per_class,
            only_correct=settings.only_correct,
            selection_sha256=None if selection is None else selection_sha256(selection),
        ),
        variants=tuple(variant.record for variant in variants),
        options=engine_options(variants[0].engine),
        clean_images=settings.clean_images,
        versions=software_versions(),
    )


def _check_repeats(plan: Plan, variants: Sequence[Variant]) -> None:
    """Refuse to make copies: an attack that draws nothing gives the same image each time."""
    if plan.rows <= plan.picked:
        return
    for variant in variants:
        draws = variant.engine.draws or getattr(variant.attack, "num_restarts", 1) > 1
        if not any(not stage.traits.deterministic for stage in variant.attack.stages) and not draws:
            raise ValueError(
                f"rows must be <= {plan.picked}, the rows picked, got {plan.rows}: "
                f"{variant.record.attack} draws no random number, so that further rows would be "
                "copies"
            )


class _Watch:
    """Adds up where a run stands."""

    def __init__(self, plan: Plan, folder: Folder, progress: Progress | None) -> None:
        self._progress, self._plan = progress, plan
        self._total = plan.rows * plan.variants
        # rows that are left out, as they cannot be read or aimed at, are done with too
        self._resumed = sum(self._planned(shard) for shard in folder.done)
        self._done = self._resumed
        self._finished, self._successes = folder.manifest.rows, folder.manifest.successes
        self._going: dict[int, int] = {}
        self._tell()

    def tick(self, job: Job, rows: int) -> None:
        self._going[job.shard] = rows
        self._tell()

    def finished(self, entry: ShardEntry) -> None:
        self._going.pop(entry.shard, None)
        self._done += self._planned(entry.shard)
        self._finished += entry.rows
        self._successes += entry.successes
        self._tell()

    def _planned(self, shard: int) -> int:
        job = self._plan.job(shard)
        return job.stop - job.start

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(
                GenerationEvent(
                    rows=min(self._total, self._done + sum(self._going.values())),
                    total=self._total,
                    resumed=self._resumed,
                    successes=self._successes,
                    finished_rows=self._finished,
                )
            )
