"""Shards made on Ray: the bytes of the local runner, whatever is killed meanwhile."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from models_for_tests import conv
from torch import Tensor

from deitsec.attacks import parse_spec
from deitsec.data import ArrayImageSet, DataError, DataSource
from deitsec.engine import Engine
from deitsec.generation import Settings, generate
from deitsec.generation.folder import is_dataset
from deitsec.generation.ray_runner import RayRunner, WorkerLostError
from deitsec.shards.layout import shard_name, shard_numbers, unfinished_files

ray = pytest.importorskip("ray", reason="needs ray: pip install 'deitsec[ray]'")
pytest.importorskip("filelock", reason="needs filelock: pip install 'deitsec[shards]'")
pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'deitsec[shards]'")

pytestmark = pytest.mark.slow

ROWS, SHARD_ROWS = 120, 20
TRAPPED = 25  # a row of the second block
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True, kw_only=True, eq=False)
class Trap:
    """Images that do something to the worker that reads the trapped row.

    Attributes:
        within: the images.
        act: `kill` the process, `hang`, or `refuse` the row.
        flags: a folder; a file is left in it each time.
        times: how often it acts; after that the row is read as any other.
        home: the process in which it never does.
    """

    within: ArrayImageSet
    act: str
    flags: Path
    times: int
    home: int

    @property
    def labels(self) -> Tensor:
        return self.within.labels

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.within.shape

    def __len__(self) -> int:
        return len(self.within)

    def feed(self, hasher) -> None:
        self.within.feed(hasher)

    def images(self, rows: Tensor) -> Tensor:
        if os.getpid() != self.home and TRAPPED in rows.tolist():
            acted = len(list(self.flags.iterdir()))
            if acted < self.times:
                (self.flags / str(acted)).touch()
                self._act()
        return self.within.images(rows)

    def _act(self) -> None:
        if self.act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.act == "hang":
            threading.Event().wait()
        raise DataError("row 25 is no image: replace or remove it")


def _images() -> ArrayImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (ROWS, 1, 6, 6), dtype=torch.uint8, generator=generator)
    return ArrayImageSet(pixels=pixels, labels=torch.arange(ROWS) % 4)


ATTACKS = ("pgd:eps=0.1,steps=4", "fgsm:eps=0.1")


def _run(out: Path, images, runner=None, *, attacks=ATTACKS, strict: bool = False):
    more = {} if runner is None else {"runner": runner}
    return generate(
        Engine(conv(), batch_size=SHARD_ROWS, seed=3),
        [parse_spec(attack) for attack in attacks],
        DataSource(uri="rows", name="rows", train=None, test=images, class_names=tuple("abcd")),
        out=out,
        settings=Settings(shard_rows=SHARD_ROWS, strict=strict),
        **more,
    )


def _shards(folder: Path) -> dict[str, bytes]:
    assert unfinished_files(folder) == []
    return {
        shard_name(shard): (folder / shard_name(shard)).read_bytes()
        for shard in shard_numbers(folder)
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("local")
    _run(folder, _images())
    return _shards(folder)


@pytest.fixture
def trap(tmp_path: Path):
    def lay(act: str, times: int) -> Trap:
        flags = tmp_path / "flags"
        flags.mkdir()
        return Trap(within=_images(), act=act, flags=flags, times=times, home=os.getpid())

    return lay


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes, of which the first, where the driver is, has room for no worker."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.second = made.add_node(num_cpus=2)
    yield made
    ray.shutdown()
    made.shutdown()


def test_an_embedded_ray_gives_the_bytes_of_the_local_runner_and_leaves_nothing(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    before = _ray_folders()
    manifest = _run(tmp_path / "out", _images(), RayRunner(workers=2))
    assert manifest.complete
    assert _shards(tmp_path / "out") == undisturbed
    assert not ray.is_initialized()
    assert _ray_folders() == before
    assert _processes_of("deitsec-ray-") == []


def test_the_shards_of_a_killed_worker_are_made_by_another(
    tmp_path: Path, undisturbed: dict[str, bytes], cluster, trap
) -> None:
    images = trap("kill", times=1)
    with pytest.warns(UserWarning, match="a worker was lost"):
        manifest = _run(tmp_path / "out", images, RayRunner(address=cluster.address, workers=2))
    assert len(list(images.flags.iterdir())) == 1
    assert manifest.complete
    assert _shards(tmp_path / "out") == undisturbed


def test_a_shard_that_kills_every_worker_is_named_and_the_others_are_made(
    tmp_path: Path, cluster, trap
) -> None:
    images = trap("kill", times=100)
    runner = RayRunner(address=cluster.address, workers=1, attempts=2)
    with (
        pytest.warns(UserWarning, match="a worker was lost"),
        pytest.raises(WorkerLostError, match=r"^shard-00001\.parquet lost the worker .* 2 times"),
    ):
        _run(tmp_path / "out", images, runner, attacks=["fgsm:eps=0.1"])
    assert len(list(images.flags.iterdir())) == 2
    _run(tmp_path / "local", _images(), attacks=["fgsm:eps=0.1"])
    expected = _shards(tmp_path / "local")
    del expected[shard_name(1)]
    assert _shards(tmp_path / "out") == expected


def test_bad_input_is_told_as_it_is_and_not_tried_again(tmp_path: Path, cluster, trap) -> None:
    images = trap("refuse", times=100)
    with pytest.raises(DataError, match=r"^row 25 is no image: replace or remove it$"):
        _run(tmp_path / "out", images, RayRunner(address=cluster.address, workers=1), strict=True)
    assert len(list(images.flags.iterdir())) == 1
    assert is_dataset(tmp_path / "out")


def test_a_node_that_goes_is_made_up_for_by_one_that_comes(
    tmp_path: Path, undisturbed: dict[str, bytes], cluster, trap
) -> None:
    images = trap("hang", times=1)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    # nodes can be started from the main thread only
    with ThreadPoolExecutor(1) as beside, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a worker was lost
        run = beside.submit(_run, tmp_path / "out", images, RayRunner(workers=1))
        _wait_for(lambda: any(images.flags.iterdir()))  # the worker never comes to the end
        cluster.remove_node(cluster.second, allow_graceful=False)
        cluster.second = cluster.add_node(num_cpus=2)
        assert run.result().complete
    assert ray.is_initialized()  # it was before
    assert _shards(tmp_path / "out") == undisturbed


def test_a_run_whose_driver_was_killed_is_ended_by_the_local_runner(tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    words = [
        "--data",
        "digits",
        "--rows",
        "3000",
        "--shard-rows",
        "50",
        "--attack",
        "rfgsm:eps=0.1",
    ]
    words += ["--model", "small_cnn", "--batch-size", "50", "--out"]
    on_ray = [str(tmp_path / "out"), "--runner", "ray", "--workers", "1"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "deitsec", "generate", *words, *on_ray],
        env=os.environ | {"TMPDIR": str(place)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        shards = "shard-*.parquet"
        _wait_for(lambda: driver.poll() or len(list((tmp_path / "out").glob(shards))) >= 2)
        assert driver.poll() is None
        driver.kill()
        driver.wait()
        _wait_for(lambda: _processes_of(str(place)) == [])
        made = shard_numbers(tmp_path / "out")
        assert 2 <= len(made) < 60
    finally:
        driver.kill()
        shutil.rmtree(place, ignore_errors=True)
    from deitsec.cli.app import run

    assert run(["generate", *words, str(tmp_path / "out"), "--resume"]) == 0
    assert run(["generate", *words, str(tmp_path / "again")]) == 0
    assert _shards(tmp_path / "out") == _shards(tmp_path / "again")
    assert len(_shards(tmp_path / "out")) == 60


def _ray_folders() -> set[str]:
    return {path.name for path in Path("/tmp").glob("deitsec-ray-*")}


def _processes_of(words: str) -> list[str]:
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in line:
            found.append(line)
    return found


def _wait_for(reached, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)
