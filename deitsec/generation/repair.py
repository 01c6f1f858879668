"""`deitsec.generation.repair_dataset`: makes exactly what is wrong or missing again."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from deitsec.attacks import parse_spec
from deitsec.data import DataSource
from deitsec.engine import Engine
from deitsec.environment import environment
from deitsec.generation.evidence import Evidence, gather
from deitsec.generation.finding import Proof
from deitsec.generation.folder import locked, taken_up
from deitsec.generation.local import produce
from deitsec.generation.plan import Job
from deitsec.generation.proof import KEEP, prove
from deitsec.generation.run import Runner
from deitsec.generation.selection import Pick, pack_selection, select_rows, selection_sha256
from deitsec.generation.witnesses import judges_of, open_source, split_of
from deitsec.generation.workload import Variant, Workload, make_variants, software_versions
from deitsec.models import model_sha256
from deitsec.shards import (
    MANIFEST,
    Manifest,
    ShardEntry,
    SourceRecord,
    VariantRecord,
    shard_name,
    write_manifest,
)
from deitsec.shards.layout import SELECTION, unfinished_files
from deitsec.whole_files import replace_files

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """What was wrong with a dataset, and what was done.

    Attributes:
        before: what was found.
        after: what was found then, in the shards that were made again and in the manifest.
        remade: numbers of the shards that were made again.
        notes: what else was done, and what it could not bring back, a line each.
    """

    before: Proof
    after: Proof
    remade: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong any more."""
        return self.after.sound

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"sound": self.sound, **asdict(self)}


def repair_dataset(
    folder: str | Path,
    *,
    data: DataSource | str | None = None,
    models: nn.Module | Sequence[nn.Module] = (),
    keep: int | None = KEEP,
    runner: Runner = produce,
    progress: Progress | None = None,
) -> Repair:
    """Verify a dataset, and make again what is wrong or missing, and nothing else.

    On the kind of hardware that made the dataset the bytes are the original ones. A shard whose
    hash alone is wrong is made again too: nobody can say whether file or hash has changed. A file
    that is none of the dataset's shards is renamed, `shard-00099.parquet.extra`. A manifest that is
    lost or wrong is written from what each shard carries; its command, and the seconds of the
    shards, are lost with it.

    Args:
        folder: of the dataset.
        data: what was attacked; by default what the manifest names.
        models: all that were attacked, where a shard has to be made again.
        keep: how many findings of a kind are kept; None keeps all.
        runner: where shards are made.
        progress: called with (what is done, rows done, rows in all).

    Raises:
        DataError: the data given cannot be opened.
        OSError: the folder cannot be written.
        ShardError: nothing says what the dataset should be.
        ValueError: the data, a model or the software is not that of the dataset, or is missing, or
            another run is writing into the folder.
    """
    path = Path(folder)
    given = [models] if isinstance(models, nn.Module) else list(models)
    gather(path)  # a folder that holds no dataset is left alone: no lock is put into it
    with locked(path):
        mend = _Mend(gather(path), data, given, keep, progress)
        return mend.run(runner)


class _Mend:
    """One repair."""

    def __init__(
        self,
        evidence: Evidence,
        data: DataSource | str | None,
        models: Sequence[nn.Module],
        keep: int | None,
        progress: Progress | None,
    ) -> None:
        self.evidence = evidence
        self.models = models
        self.keep = keep
        self.progress = progress
        self.source, self.no_source = open_source(evidence.configuration, data)
        judges_of(evidence.configuration, models)  # refuses other models
        self.notes: list[str] = []

    def run(self, runner: Runner) -> Repair:
        """Verify, mend, verify again."""
        if self.evidence.plan is None:
            self._restore_selection()
        before = self._prove("verify", None)
        if before.sound:
            return Repair(before=before, after=before, remade=(), notes=tuple(self.notes))
        remade: dict[int, ShardEntry] = {}
        if before.wrong_shards:
            work = self._workload(before.wrong_shards)
            jobs = map(work.plan.job, before.wrong_shards)
            # closed before the lock goes, whatever ends it: its threads write into the folder
            with closing(runner(work, jobs, self.evidence.folder, self._tick(work))) as entries:
                for entry in entries:
                    remade[entry.shard] = entry
        self._clear_away()
        self._write_manifest(before, remade)
        self._compare(remade)
        self.evidence = gather(self.evidence.folder)
        after = self._prove("verify again", sorted(remade))
        return Repair(
            before=before, after=after, remade=tuple(sorted(remade)), notes=tuple(self.notes)
        )

    def _prove(self, stage: str, only: Sequence[int] | None) -> Proof:
        tell = self.progress
        return prove(
            self.evidence,
            data=self.source,
            models=self.models,
            keep=self.keep,
            progress=None if tell is None else lambda done, total: tell(stage, done, total),
            only=only,
        )

    def _tick(self, work: Workload) -> Callable[[Job, int], None]:
        done: dict[int, int] = {}

        def tick(job: Job, rows: int) -> None:
            done[job.shard] = rows
            if self.progress is not None:
                self.progress("make again", sum(done.values()), 0)

        return tick

    def _workload(self, wrong: Sequence[int]) -> Workload:
        """What the run was, from the manifest; refused where it cannot be that."""
        configuration, plan = self.evidence.configuration, self.evidence.plan
        assert plan is not None
        need = f"{len(wrong)} shards have to be made again"
        if self.source is None:
            raise ValueError(f"{need}, which needs the data that was attacked; {self.no_source}")
        variants = tuple(self._variant(record, need) for record in configuration.variants)
        images = split_of(self.source, configuration)
        here = dataclasses.replace(
            configuration,
            source=SourceRecord(
                uri=configuration.source.uri,
                name=self.source.name,
                split=configuration.source.split,
                sha256=self.source.sha256,
                rows=len(images),
                shape=images.shape,
                class_names=self.source.class_names,
            ),
            variants=tuple(variant.record for variant in variants),
            versions=software_versions(),
        )
        if changes := configuration.differences(here):
            raise ValueError(
                f"{need}, and would not be the same: {'; '.join(changes)}. Repair it with what "
                "made it, or generate the dataset again"
            )
        return Workload(images=images, plan=plan, variants=variants, configuration=configuration)

    def _variant(self, record: VariantRecord, need: str) -> Variant:
        model = self._model(record.model_sha256)
        if model is None:
            raise ValueError(
                f"{need}, which needs every model of the dataset: give the checkpoint of "
                f"{record.model} ({record.model_sha256})"
            )
        options = dict(self.evidence.configuration.options)
        driver = options.pop("surrogate_sha256", None)
        surrogate = None if driver is None else self._model(driver)
        if driver is not None and surrogate is None:
            raise ValueError(f"{need}, which needs the surrogate too, whose sha256 is {driver}")
        engine = Engine(model, surrogate=surrogate, **options)
        shape = self.evidence.configuration.source.shape
        (made,) = make_variants([engine], [parse_spec(record.attack)], shape)
        # whatever it is called here: the weights are the same
        named = dataclasses.replace(made.record, model=record.model)
        return dataclasses.replace(made, record=named)

    def _model(self, sha256: str) -> nn.Module | None:
        return next((model for model in self.models if model_sha256(model) == sha256), None)

    def _restore_selection(self) -> None:
        """Pick the rows again; they have the hash that the manifest knows, or are refused."""
        configuration = self.evidence.configuration
        if self.source is None:
            raise ValueError(
                f"{SELECTION} is lost, and to pick the rows again needs the data that was "
                f"attacked; {self.no_source}"
            )
        pick = Pick(
            rows=configuration.plan.rows,
            per_class=configuration.plan.per_class,
            only_correct=configuration.plan.only_correct,
        )
        engines = [
            self._variant(record, f"{SELECTION} is lost").engine
            for record in (configuration.variants if pick.only_correct else ())
        ]
        images = split_of(self.source, configuration)
        found = select_rows(images, engines, pick, num_classes=self.source.num_classes).rows
        if found is None or selection_sha256(found) != configuration.plan.selection_sha256:
            raise ValueError(
                f"{SELECTION} is lost, and other rows were picked now than then: bring back a copy "
                "of the file, or generate the dataset again"
            )
        replace_files({self.evidence.folder / SELECTION: pack_selection(found)})
        self.notes.append(f"{SELECTION} was written again: the same rows")
        self.evidence = gather(self.evidence.folder)

    def _clear_away(self) -> None:
        folder = self.evidence.folder
        for leftover in unfinished_files(folder):
            leftover.unlink()
        for number in self.evidence.numbers:
            if number >= self.evidence.total:
                path = folder / shard_name(number)
                os.replace(path, path.with_name(f"{path.name}.extra"))
                self.notes.append(
                    f"{path.name} is none of the dataset's: renamed to {path.name}.extra"
                )

    def _write_manifest(self, before: Proof, remade: dict[int, ShardEntry]) -> None:
        evidence, old = self.evidence, self.evidence.manifest
        configuration = evidence.configuration
        if not configuration.source.uri and self.source is not None:
            uri, name = self.source.uri, self.source.name
            where = dataclasses.replace(configuration.source, uri=uri, name=name)
            configuration = dataclasses.replace(configuration, source=where)
        entries: list[ShardEntry] = []
        for number in range(evidence.total):
            entry = remade.get(number) or evidence.entries.get(number)
            if number not in remade and (entry is None or number in before.wrong_entries):
                found = taken_up(evidence.folder, number, configuration)
                seconds = None if entry is None else entry.seconds
                entry = None if found is None else dataclasses.replace(found, seconds=seconds)
            if entry is not None:
                entries.append(entry)
        device = Engine(self.models[0]).device if self.models else "cpu"
        manifest = Manifest(
            configuration=configuration,
            shards=tuple(entries),
            complete=len(entries) == evidence.total,
            command=() if old is None else old.command,
            environment=environment(device) if old is None or remade else old.environment,
            unreadable=() if old is None else old.unreadable,
        )
        write_manifest(evidence.folder, manifest)
        if old is None:
            self.notes.append(
                f"{MANIFEST} was written again from the shards, without the command, the seconds "
                "and rows that could not be read when rows were picked"
            )
        elif before.counts.get("manifest") or before.wrong_entries:
            self.notes.append(f"{MANIFEST} was written again")

    def _compare(self, remade: dict[int, ShardEntry]) -> None:
        """Say where a shard that was made again is not the one that the manifest knew."""
        for number, entry in sorted(remade.items()):
            known = self.evidence.entries.get(number)
            if known is not None and known.sha256 != entry.sha256:
                self.notes.append(
                    f"{shard_name(number)} has other bytes than the manifest stated: that was "
                    "wrong, or the dataset was made on other hardware"
                )
