"""What the Ray runner is made of, without Ray: the desk, the parcel, the worker, its checks."""

import itertools
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from models_for_tests import conv

from deitsec.attacks import parse_spec
from deitsec.data import ArrayImageSet, DataSource
from deitsec.engine import Engine
from deitsec.generation import Settings, generate
from deitsec.generation.job_desk import JobDesk
from deitsec.generation.local import produce
from deitsec.generation.plan import Job, Plan
from deitsec.generation.ray_connection import _remove_abandoned, _threads
from deitsec.generation.ray_runner import RayRunner
from deitsec.generation.shard_worker import ShardWorker, _portable
from deitsec.generation.site import prepared_site
from deitsec.generation.workload import Workload
from deitsec.shards.layout import shard_name, unfinished_files

pytest.importorskip("filelock", reason="needs filelock: pip install 'deitsec[shards]'")
pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'deitsec[shards]'")


def _plan(shards: int, variants: int = 1) -> Plan:
    return Plan(
        rows=10 * (shards // variants), shard_rows=10, variants=variants, source_rows=10 * shards
    )


def _desk(shards: int, *, variants: int = 1, attempts: int = 3) -> JobDesk:
    plan = _plan(shards, variants)
    return JobDesk(map(plan.job, range(plan.shards)), attempts=attempts)


def _taken(desk: JobDesk, worker: int) -> int | None:
    job = desk.take(worker)
    return None if job is None else job.shard


def test_a_block_goes_to_one_worker_until_there_is_no_other():
    desk = _desk(6, variants=3)
    assert _taken(desk, 0) == 0
    assert _taken(desk, 1) == 3
    assert [_taken(desk, 0), _taken(desk, 0)] == [1, 2]
    # no block is left: from the end of what the other has not begun
    assert [_taken(desk, 0), _taken(desk, 1), _taken(desk, 1)] == [5, 4, None]


def test_jobs_are_looked_at_when_they_are_wanted():
    looked: list[int] = []

    def jobs():
        plan = Plan(rows=10**8, shard_rows=4096, variants=2, source_rows=10_000)
        for shard in range(plan.shards):
            looked.append(shard)
            yield plan.job(shard)

    desk = JobDesk(jobs(), attempts=3)
    assert not desk.finished
    assert [_taken(desk, worker) for worker in (0, 1, 0, 1)] == [0, 2, 1, 3]
    # the first of the next block is where the one before is seen to end
    assert max(looked) == 4


def test_a_desk_is_finished_when_the_last_job_in_hand_is():
    desk = _desk(2)
    first, second = desk.take(0), desk.take(1)
    assert first is not None
    assert second is not None
    desk.finish(0, first.shard)
    assert not desk.finished
    assert desk.take(0) is None
    desk.lose(1)
    assert not desk.finished
    assert desk.take(0) == second
    desk.finish(0, second.shard)
    assert desk.finished
    assert desk.given_up == ()


def test_the_shards_of_a_lost_worker_are_made_alone():
    desk = _desk(6)
    assert [_taken(desk, 0), _taken(desk, 0), _taken(desk, 1)] == [0, 1, 2]
    assert [job.shard for job in desk.lose(0)] == [0, 1]
    assert _taken(desk, 1) is None  # first what it has in hand
    desk.finish(1, 2)
    assert _taken(desk, 1) == 0
    assert _taken(desk, 1) is None
    assert _taken(desk, 2) == 1
    desk.finish(1, 0)
    assert [_taken(desk, 1), _taken(desk, 1)] == [3, 4]  # no suspect any more


def test_only_the_shard_that_kills_is_given_up():
    desk = _desk(5, attempts=3)
    workers = itertools.count()
    deaths = 0
    made: list[int] = []
    while not desk.finished:
        worker = next(workers)
        while True:
            in_hand = [job for job in (desk.take(worker), desk.take(worker)) if job]
            shards = [job.shard for job in in_hand]
            if 1 in shards:
                desk.lose(worker)
                deaths += 1
                break
            for shard in shards:
                desk.finish(worker, shard)
                made.append(shard)
            if not shards:
                break
    assert deaths == 3
    assert desk.given_up == (1,)
    assert sorted(made) == [0, 2, 3, 4]


def test_threads_are_shared_out_over_the_machines_that_have_room():
    def node(cpus: float, gpus: float = 0, *, alive: bool = True) -> dict:
        return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}

    assert _threads([node(8)], 2, 0) == 4
    assert _threads([node(8), node(8), node(0)], 3, 0) == 4
    assert _threads([node(2)], 8, 0) == 1
    assert _threads([node(64), node(16, 4)], 4, 1) == 4
    with pytest.raises(ValueError, match="no machine of the Ray cluster has a CPU core and 1 GPU"):
        _threads([node(8), node(8, 4, alive=False)], 2, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_folders_of_killed_runs_are_removed(tmp_path: Path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], **_TOLD)
    names = [f"deitsec-ray-{gone.stdout.strip()}-a", f"deitsec-ray-{os.getpid()}-b", "other"]
    for name in names:
        (tmp_path / name / "session").mkdir(parents=True)
    _remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


_TOLD = {"check": True, "capture_output": True, "text": True}


def _images(rows: int = 300) -> ArrayImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (rows, 1, 6, 6), dtype=torch.uint8, generator=generator)
    return ArrayImageSet(pixels=pixels, labels=torch.arange(rows) % 4)


@pytest.fixture
def work(tmp_path: Path) -> Workload:
    """A workload as a runner is given it, after the local runner has used its engine."""
    caught: list[Workload] = []

    def runner(work, jobs, folder, tick=None):
        caught.append(work)
        return produce(work, jobs, folder, tick)

    images = _images()
    generate(
        Engine(conv(), batch_size=50, seed=3),
        parse_spec("pgd:eps=0.1,steps=2"),
        DataSource(uri="rows", name="rows", train=None, test=images, class_names=tuple("abcd")),
        out=tmp_path / "local",
        settings=Settings(shard_rows=100),
        runner=runner,
    )
    return caught[0]


def test_an_engine_travels_without_what_it_learnt(work: Workload):
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs cloudpickle")
    engine = work.variants[0].engine
    assert "rows" in str(engine._session.__dict__)
    assert engine._session._prepared
    again = cloudpickle.loads(cloudpickle.dumps(engine))
    assert again._session._prepared == {}
    assert again._session.options is again
    names = ("batch_size", "seed", "deterministic", "quantize", "precision", "stop")
    assert [getattr(again, name) for name in names] == [getattr(engine, name) for name in names]
    weights = zip(engine.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in weights)


def test_a_parcel_brings_everything_and_shares_large_arrays(work: Workload):
    pytest.importorskip("ray", reason="needs ray: pip install 'deitsec[ray]'")
    from deitsec.generation.parcel import pack, unpack

    large = _images(3000)
    parcel = pack(replace(work, images=large))
    assert [array.nbytes for array in parcel.pixels] == [3000 * 36]
    assert len(parcel.images) < 3000 * 36
    again = unpack(parcel, "cpu")
    rows = torch.tensor([2999, 0, 7])
    assert torch.equal(again.images.images(rows), large.images(rows))
    assert torch.equal(again.images.labels, large.labels)
    assert again.images.pixels.data_ptr() == parcel.pixels[0].ctypes.data
    assert again.configuration == work.configuration
    assert again.variants[0].record == work.variants[0].record


def test_two_models_that_share_weights_still_do_when_they_arrive(work: Workload):
    pytest.importorskip("ray", reason="needs ray: pip install 'deitsec[ray]'")
    from deitsec.generation.parcel import pack, unpack

    twice = replace(work, variants=work.variants * 2)
    first, second = unpack(pack(twice), "cpu").variants
    assert first.engine.model is second.engine.model


def test_what_cannot_travel_is_said_before_anything_starts(work: Workload):
    pytest.importorskip("ray", reason="needs ray: pip install 'deitsec[ray]'")
    from deitsec.generation.parcel import pack

    with pytest.raises(ValueError, match="cannot be sent to a worker"):
        pack(replace(work, images=(line for line in "ab")))  # a generator


def test_a_worker_pulls_jobs_and_makes_the_bytes_of_the_local_runner(
    work: Workload, tmp_path: Path
):
    pytest.importorskip("ray", reason="needs ray: pip install 'deitsec[ray]'")
    from deitsec.generation.parcel import pack

    out = tmp_path / "out"
    out.mkdir()
    worker, jobs = ShardWorker(), [work.plan.job(shard) for shard in range(3)]
    done: list[int] = []
    with prepared_site(work, out) as site:
        worker.open(pack(work), site, "cpu", torch.get_num_threads())
        answer: Job | str | None = None
        while len(done) < 3:
            report = worker.report(answer)
            assert report.failure is None
            done += [entry.shard for entry in report.entries]
            answer = None
            if report.wants:
                answer = jobs.pop(0) if jobs else "none for now"
    assert done == [0, 1, 2]
    for name in map(shard_name, done):
        assert (out / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert unfinished_files(out) == []


def test_a_site_is_refused_for_what_differs(work: Workload, tmp_path: Path):
    with prepared_site(work, tmp_path) as site:
        site.check(work)
        assert [path.name for path in unfinished_files(tmp_path)] == [site.probe]
        with pytest.raises(ValueError, match="does not see /nowhere: choose a folder that all"):
            replace(site, folder=Path("/nowhere")).check(work)
        with pytest.raises(ValueError, match="reads another image in row 0"):
            replace(site, pixels=site.pixels ^ 1).check(work)
        other = replace(work.configuration, versions={"torch": "1.0"})
        with pytest.raises(ValueError, match=r"has torch .* and the run 1\.0: install the same"):
            site.check(replace(work, configuration=other))
    assert unfinished_files(tmp_path) == []


def test_an_error_survives_the_journey_whatever_its_class():
    @dataclass
    class OddError(Exception):
        first: int
        second: int

        def __str__(self) -> str:
            return f"{self.first} of {self.second}"

    error = _portable(FileNotFoundError(2, "could not be read", "/a/b"))
    assert isinstance(error, FileNotFoundError)
    assert error.filename == "/a/b"
    assert str(_portable(OddError(1, 2))) == "OddError: 1 of 2"


def test_options_are_checked_when_the_runner_is_made():
    pytest.importorskip("ray", reason="needs ray: pip install 'deitsec[ray]'")
    with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
        RayRunner(workers=0)
    with pytest.raises(ValueError, match=r"gpus_per_worker must be in \[0, 1\], got 2"):
        RayRunner(gpus_per_worker=2)


def test_without_ray_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'deitsec\[ray\]'"):
        RayRunner()


def test_nothing_to_do_starts_no_ray(work: Workload, tmp_path: Path):
    pytest.importorskip("ray", reason="needs ray: pip install 'deitsec[ray]'")
    before = "ray._private.worker" in sys.modules
    assert list(RayRunner()(work, iter(()), tmp_path)) == []
    assert ("ray._private.worker" in sys.modules) == before
