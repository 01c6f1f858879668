"""What a run survives: kill -9, a full disk, a second run. The real command, in processes."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deitsec.models import load_model, save_checkpoint
from deitsec.shards import read_manifest, shard_name
from deitsec.shards.layout import shard_numbers, unfinished_files
from tests.generation_for_tests import digests, rows_of

pytest.importorskip("pyarrow", reason="shards are written with pyarrow")
pytestmark = pytest.mark.slow

ROWS, SHARD_ROWS = 1500, 24  # the second half takes the thousand images of the source again
SHARDS = 2 * -(-ROWS // SHARD_ROWS)
OPTIONS = (
    f"--data digits --attack pgd:eps=26/255,steps=4 --attack rfgsm --rows {ROWS} "
    f"--shard-rows {SHARD_ROWS} --batch-size 24 --device cpu --seed 5"
).split()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_checkpoint(load_model("logistic_regression", num_classes=10, in_chans=1), path)
    return path


def start(checkpoint: Path, out: Path, *more: str, **popen) -> subprocess.Popen:
    words = ["generate", *OPTIONS, "--checkpoint", str(checkpoint), "--out", str(out), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "deitsec", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **popen,
    )


def finish(checkpoint: Path, out: Path, *more: str, **popen) -> tuple[int, str]:
    """Exit code and what was said."""
    process = start(checkpoint, out, *more, **popen)
    said = process.communicate(timeout=240)[1]
    return process.returncode, " ".join(said.split())


def wait_until(process: subprocess.Popen, holds: Callable[[], bool]) -> bool:
    """Whether it holds before the process ends."""
    while not holds():
        try:
            process.wait(timeout=0.002)
        except subprocess.TimeoutExpired:
            continue
        return holds()
    return True


def reached(out: Path, shards: int) -> bool:
    """Whether a run is under way and has made so many shards."""
    return (out / "manifest.json").is_file() and shards_in(out) >= shards


def shards_in(out: Path) -> int:
    return len(shard_numbers(out)) if out.is_dir() else 0


@pytest.fixture(scope="module")
def undisturbed(checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert finish(checkpoint, out)[0] == 0
    assert shards_in(out) == SHARDS
    return out


def assert_same(out: Path, undisturbed: Path) -> None:
    """The bytes of every shard, each row once, and a manifest that says so."""
    assert digests(out) == digests(undisturbed)
    manifest = read_manifest(out)
    assert manifest.complete
    assert {entry.name: entry.sha256 for entry in manifest.shards} == digests(out)
    assert manifest.rows == 2 * ROWS
    for variant in range(2):
        found = rows_of(out, variant, 2).sample_id
        np.testing.assert_array_equal(found, np.arange(ROWS))
    assert not unfinished_files(out)


def test_killed_at_ten_random_moments(checkpoint, undisturbed, tmp_path):
    out, chance, kept = tmp_path / "out", random.Random(0), []
    for number in range(10):
        process = start(checkpoint, out, "--resume")
        # from before its first shard to after its eleventh; then at any point of making one
        wanted = shards_in(out) + number + chance.randrange(2)
        assert wait_until(process, lambda wanted=wanted: reached(out, wanted))
        try:
            process.wait(timeout=chance.uniform(0, 0.06))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        now = digests(out)
        assert now.items() <= digests(undisturbed).items()
        kept.append(len(now))
    assert kept == sorted(kept)
    assert kept[-1] < SHARDS
    code, said = finish(checkpoint, out, "--resume")
    assert code == 0, said
    assert_same(out, undisturbed)


def test_interrupted_by_the_keyboard(checkpoint, undisturbed, tmp_path):
    out = tmp_path / "out"
    process = start(checkpoint, out)
    assert wait_until(process, lambda: shards_in(out) >= 1)
    for one in (signal.SIGSTOP, signal.SIGINT, signal.SIGCONT):  # so that it is surely still there
        process.send_signal(one)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "go on with --resume" in said
    assert "Traceback" not in said
    manifest = read_manifest(out)
    assert not manifest.complete
    assert not unfinished_files(out)
    assert finish(checkpoint, out, "--resume")[0] == 0
    assert_same(out, undisturbed)


def test_two_runs_at_once(checkpoint, undisturbed, tmp_path):
    out = tmp_path / "out"
    first = start(checkpoint, out)
    assert wait_until(first, lambda: shards_in(out) >= 1)
    first.send_signal(signal.SIGSTOP)  # so that it is surely still there
    for more in ((), ("--resume",)):
        code, said = finish(checkpoint, out, *more)
        assert code == 2
        assert "is being written by another run" in said
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=240)
    assert first.returncode == 0
    assert_same(out, undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1.3 MB: less than the dataset takes, more than some of its shards."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("needs the program mount")
    words = ["mount", "-t", "tmpfs", "-o", "size=1300k", "tmpfs", str(folder)]
    found = subprocess.run(words, capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"needs the right to mount a small disk ({found.stderr.strip()})")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up(checkpoint, undisturbed, small_disk):
    out = small_disk / "out"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 600_000)
    code, said = finish(checkpoint, out)
    assert code == 1
    assert "the disk is full at" in said
    assert "Traceback" not in said
    found = digests(out)
    assert 0 < len(found) < SHARDS
    assert found.items() <= digests(undisturbed).items()
    assert not unfinished_files(out)
    code, said = finish(checkpoint, out, "--resume")  # still full
    assert code == 1
    assert "the disk is full at" in said
    assert found.items() <= digests(out).items() <= digests(undisturbed).items()
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    code, said = finish(checkpoint, out, "--resume")
    assert code == 0, said
    assert_same(out, undisturbed)


def test_a_file_that_may_not_grow(checkpoint, undisturbed, tmp_path):
    """The same where no disk can be mounted: the system refuses to write past some bytes."""
    out = tmp_path / "out"
    most = min((undisturbed / shard_name(number)).stat().st_size for number in range(10)) - 1

    def limit() -> None:
        # Python ignores SIGXFSZ, so that writing fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    code, said = finish(checkpoint, out, preexec_fn=limit)
    assert code == 1
    assert f"{shard_name(0)}" in said
    assert "could not be written" in said
    assert digests(out) == {}
    assert not unfinished_files(out)
    assert finish(checkpoint, out, "--resume")[0] == 0
    assert_same(out, undisturbed)


def test_a_changed_model_or_option_is_refused_with_the_difference(
    checkpoint, undisturbed, tmp_path
):
    import torch

    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_checkpoint(load_model("logistic_regression", num_classes=10, in_chans=1), other)
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("[!.]*")}
    for model, more, difference in (
        (other, (), "variants[0].model_sha256 was"),
        (checkpoint, ("--seed", "6"), "options.seed was 5 and is 6"),
        (checkpoint, ("--eps", "8/255"), "variants[1].attack was rfgsm"),
    ):
        code, said = finish(model, undisturbed, "--resume", *more)
        assert code == 2
        assert difference in said
    assert {path: path.stat().st_mtime_ns for path in undisturbed.glob("[!.]*")} == before


def test_the_command_is_on_record(checkpoint, undisturbed):
    document = json.loads((undisturbed / "manifest.json").read_text())
    words = ["--checkpoint", str(checkpoint), "--out", str(undisturbed)]
    assert document["command"] == ["deitsec", "generate", *OPTIONS, *words]
