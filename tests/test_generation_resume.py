"""A folder is its own checkpoint: what is kept, what is made again, and what is refused."""

import dataclasses
import errno
import shutil
import threading

import pytest
import torch

from deitsec import FGSM, PGD
from deitsec.generation import Settings, generate, local
from deitsec.generation.folder import locked
from deitsec.shards import read_manifest, shard_name, write_manifest
from tests.generation_for_tests import CLASSES, digests, engine, source
from tests.models_for_tests import conv

pytest.importorskip("pyarrow", reason="shards are written with pyarrow")
EPS = 16 / 255
ATTACKS = (PGD(eps=EPS, steps=3), FGSM(eps=EPS))
SHARDS = Settings(shard_rows=4)  # ten shards


def make(out, *, attacks=ATTACKS, settings=SHARDS, **options):
    return generate(engine(), attacks, source(), out=out, settings=settings, **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    make(folder)
    return folder


class Stop(BaseException):
    """What no code of the project knows."""


def stop_after(rows):
    def progress(event):
        if event.rows >= rows:
            raise Stop

    return progress


@pytest.mark.parametrize("rows", [0, 1, 9, 23, 39, 40])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path, undisturbed, rows):
    threads = threading.active_count()
    with pytest.raises(Stop):
        make(tmp_path, progress=stop_after(rows))
    assert threading.active_count() == threads
    assert not read_manifest(tmp_path).complete
    before = {path: path.stat().st_ino for path in tmp_path.glob("*.parquet")}
    assert len(before) >= rows // 4 - 2
    manifest = make(tmp_path, resume=True)
    assert digests(tmp_path) == digests(undisturbed)
    assert manifest.complete
    assert all(path.stat().st_ino == number for path, number in before.items())
    same = [dataclasses.replace(entry, seconds=None) for entry in manifest.shards]
    whole = read_manifest(undisturbed).shards
    assert same == [dataclasses.replace(entry, seconds=None) for entry in whole]


def test_shards_that_the_manifest_has_not_heard_of_are_taken_up(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    whole = read_manifest(tmp_path)
    write_manifest(tmp_path, dataclasses.replace(whole, shards=whole.shards[:3], complete=False))
    before = {path: path.stat().st_ino for path in tmp_path.glob("*.parquet")}
    manifest = make(tmp_path, resume=True)
    assert all(path.stat().st_ino == number for path, number in before.items())
    unknown = [dataclasses.replace(entry, seconds=None) for entry in whole.shards[3:]]
    assert manifest.shards == (*whole.shards[:3], *unknown)


def test_nothing_is_written_where_all_is_there(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*")}
    assert make(tmp_path, resume=True) == read_manifest(undisturbed)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*")} == before


@pytest.mark.parametrize("fault", ["missing", "truncated", "empty", "of another seed", "renamed"])
def test_a_shard_that_is_not_the_one_is_made_again(tmp_path, undisturbed, fault):
    shutil.copytree(undisturbed, tmp_path / "here")
    out, place = tmp_path / "here", tmp_path / "here" / shard_name(3)
    known = read_manifest(out)
    shards = tuple(entry for entry in known.shards if entry.shard != 3)
    write_manifest(out, dataclasses.replace(known, shards=shards))  # it has not heard of this one
    match fault:
        case "missing":
            place.unlink()
        case "truncated":
            place.write_bytes(place.read_bytes()[:-10])
        case "empty":
            place.write_bytes(b"")
        case "of another seed":
            generate(engine(seed=4), ATTACKS, source(), out=tmp_path / "4", settings=SHARDS)
            shutil.copy(tmp_path / "4" / place.name, place)
        case "renamed":
            shutil.copy(out / shard_name(5), place)
    assert make(out, resume=True).complete
    assert digests(out) == digests(undisturbed)


def test_files_beyond_the_plan_are_no_part_of_the_dataset(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / shard_name(9), tmp_path / shard_name(11))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".shard-00002.parquet.0123abcd.part").write_bytes(b"half")
    (tmp_path / shard_name(0)).unlink()
    manifest = make(tmp_path, resume=True)
    assert [entry.shard for entry in manifest.shards] == list(range(10))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".*.part"))


def test_a_dataset_is_not_written_over(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="holds a dataset: go on with --resume"):
        make(tmp_path)
    (tmp_path / "manifest.json").unlink()
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"holds shards but no manifest\.json"):
            make(tmp_path, resume=resume)
    assert digests(tmp_path) == digests(undisturbed)


def test_a_run_that_made_no_shard_is_no_obstacle(tmp_path, undisturbed):
    with pytest.raises(Stop):
        generate(engine(seed=9), ATTACKS, source(), out=tmp_path, progress=stop_after(0))
    make(tmp_path)
    assert digests(tmp_path) == digests(undisturbed)


def other_weights():
    model = conv(CLASSES)
    with torch.no_grad():
        model[0].bias[0] += 1e-3
    return model


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"engine": engine(seed=4)}, "options.seed was 3 and is 4"),
        ({"engine": engine(batch_size=4)}, "options.batch_size was 8 and is 4"),
        ({"engine": engine(other_weights())}, r"variants\[0\].model_sha256 was \w+ and is \w+"),
        ({"attacks": [PGD(eps=EPS, steps=4), ATTACKS[1]]}, r"variants\[0\].attack was pgd:"),
        ({"attacks": ATTACKS[:1]}, r"variants\[1\].attack was fgsm:\S+ and is absent"),
        ({"settings": Settings(shard_rows=5)}, "plan.shard_rows was 4 and is 5"),
        ({"settings": Settings(shard_rows=4, rows=19)}, "plan.rows was 20 and is 19"),
        ({"settings": Settings(shard_rows=4, only_correct=True)}, "only_correct was False and is"),
        ({"settings": Settings(shard_rows=4, clean_images=True)}, "clean_images was False and is"),
        ({"source": source(wrong=4)}, "source.sha256 was"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_another_run_is_refused_with_the_difference(tmp_path, undisturbed, changed, message):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    made = {"engine": engine(), "attacks": ATTACKS, "source": source(), "settings": SHARDS}
    given = made | changed
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*")}
    with pytest.raises(ValueError, match=message):
        generate(
            given["engine"],
            given["attacks"],
            given["source"],
            out=tmp_path,
            settings=given["settings"],
            resume=True,
        )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*")} == before


def test_other_versions_are_refused_since_their_bytes_may_be_others(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    known = read_manifest(tmp_path)
    old = {**known.configuration.versions, "pyarrow": "1.0"}
    configuration = dataclasses.replace(known.configuration, versions=old)
    write_manifest(tmp_path, dataclasses.replace(known, configuration=configuration))
    with pytest.raises(ValueError, match=r"versions\.pyarrow was 1\.0 and is"):
        make(tmp_path, resume=True)


def test_where_the_data_lies_does_not_count(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    moved = source(uri="folder:elsewhere")
    again = generate(engine(), ATTACKS, moved, out=tmp_path, settings=SHARDS, resume=True)
    assert again.complete
    assert again.shards == read_manifest(undisturbed).shards


def test_a_folder_takes_one_run_at_a_time(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="is being written by another run"):
        make(tmp_path)
    make(tmp_path)


def test_the_rows_picked_are_those_of_the_first_run(tmp_path):
    settings = Settings(shard_rows=4, only_correct=True)
    with pytest.raises(Stop):
        make(tmp_path, settings=settings, progress=stop_after(20))
    stored = (tmp_path / "selection.npy").read_bytes()
    (tmp_path / "selection.npy").write_bytes(stored[:-8] + b"\1" + b"\0" * 7)
    with pytest.raises(ValueError, match=r"selection\.npy is not the one"):
        make(tmp_path, settings=settings, resume=True)
    (tmp_path / "selection.npy").write_bytes(stored)
    assert make(tmp_path, settings=settings, resume=True).complete


@pytest.mark.parametrize("slow", [False, True])
def test_a_full_disk_ends_the_run_at_once(tmp_path, undisturbed, monkeypatch, slow):
    write, full = local.write_shard, threading.Event()

    def fill_up(folder, rows, about):
        if about.shard == 2:
            full.set()
            raise OSError(errno.ENOSPC, "could not be written (full)", str(folder))
        return write(folder, rows, about)

    craft, crafted = local.craft, []

    def slowly(work, job, block, tick):
        if slow and job.shard == 3:
            assert full.wait(10)
        crafted.append(job.shard)
        return craft(work, job, block, tick)

    monkeypatch.setattr(local, "write_shard", fill_up)
    monkeypatch.setattr(local, "craft", slowly)
    threads = threading.active_count()
    with pytest.raises(OSError, match="could not be written") as caught:
        make(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert threading.active_count() == threads
    assert max(crafted) <= (3 if slow else 5)
    assert shard_name(2) not in digests(tmp_path)
    monkeypatch.undo()
    assert make(tmp_path, resume=True).complete
    assert digests(tmp_path) == digests(undisturbed)


def test_progress_counts_what_was_there_before_and_ends_with_all(tmp_path):
    with pytest.raises(Stop):
        make(tmp_path, progress=stop_after(24))
    kept = 4 * len(digests(tmp_path))
    events = []
    manifest = make(tmp_path, resume=True, progress=events.append)
    assert {event.resumed for event in events} == {kept}
    assert events[0].rows == kept
    assert {event.total for event in events} == {40}
    assert [event.rows for event in events] == sorted(event.rows for event in events)
    assert (events[-1].rows, events[-1].finished_rows) == (40, 40)
    assert events[-1].successes == manifest.successes
