"""Several processes train what one would: their shares of each batch, their mean gradient."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from training_for_tests import QUICK, few_digits

from deitsec.cli import launch as launching
from deitsec.cli.app import run
from deitsec.cli.launch import run_together
from deitsec.models import wrap
from deitsec.training import AdversarialConfig, adversarial_fit, fit
from deitsec.training.feed import Feed
from deitsec.training.loop import STATE_FILE
from deitsec.training.processes import Processes, find_processes

HERE = Path(__file__).parent
# 160 rows in batches of 32, moved; no dropout, whose draws are each process's own
CONFIG = dataclasses.replace(QUICK, epochs=2, save_every=3)
METHODS = ("fit", "pgd", "free")


def smooth(seed=0):
    """Without batch norm and dropout, and without corners: rounding stays rounding."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten())
    module = nn.Sequential(*layers, nn.Linear(128, 10)).double()
    return wrap(module, mean=0.5, std=0.5, num_classes=10, in_chans=1)


def train(method, model, config, **more):
    if method == "fit":
        return fit(model, few_digits(), config, **more)
    plan = AdversarialConfig(
        fit=config, method=method, eps=0.1, steps=None if method == "free" else 2, replays=2,
        curve_every=None,
    )  # fmt: skip
    return adversarial_fit(model, few_digits(), plan, **more)


class Second(Processes):
    """The second of two, with nobody to talk to."""

    count, rank = 2, 1


def test_shares_are_the_batch_of_one_process():
    data = few_digits()
    rows = torch.arange(160)

    def batch(processes):
        generator = torch.Generator().manual_seed(3)
        feed = Feed(
            train=data.train, rows=rows, config=CONFIG, device=torch.device("cpu"),
            processes=processes,
        )  # fmt: skip
        return feed.batch(feed.order(generator), 1, generator), generator.get_state()

    (whole, stream), (half, its_stream) = batch(Processes()), batch(Second())
    for tensor, share in zip(whole, half, strict=True):
        torch.testing.assert_close(share, tensor[16:])
    assert torch.equal(stream, its_stream)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="a multiple of the 2 processes, got a batch of 33"):
        Feed(
            train=few_digits().train, rows=torch.arange(160), device=torch.device("cpu"),
            config=dataclasses.replace(CONFIG, batch_size=33), processes=Second(),
        )  # fmt: skip


def test_without_accelerate_several_processes_say_what_is_missing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"pip install 'deitsec\[accelerate\]'"):
        find_processes(torch.device("cpu"))


RUN = """
import dataclasses
import sys
from pathlib import Path
import torch
from test_training_processes import CONFIG, METHODS, smooth, train
from training_for_tests import network

torch.set_num_threads(1)
out = Path(sys.argv[1])
told = []
for method in METHODS:
    model = smooth()
    train(method, model, CONFIG, out=out / method, progress=told.append)
    rank = torch.distributed.get_rank()
    resumed = smooth(9)
    # only the first process's machine has the file
    folder = out / (f"elsewhere-{method}" if rank else method)
    train(method, resumed, CONFIG, out=folder, resume=True)
    torch.save((model.state_dict(), resumed.state_dict()), out / f"{method}-{rank}.pt")
for every in (3, None):
    model = network()
    train("pgd", model, dataclasses.replace(CONFIG, save_every=every), out=out / f"every-{every}")
    torch.save(model.state_dict(), out / f"every-{every}-{rank}.pt")
(out / f"told-{rank}").write_text(str(len(told)))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes came to, by method and rank."""
    pytest.importorskip("accelerate", reason="needs Accelerate: pip install 'deitsec[accelerate]'")
    out = tmp_path_factory.mktemp("two")
    script = out / "script.py"
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(out)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_the_weights_of_one(two, method):
    alone = smooth()
    train(method, alone, CONFIG)
    (first, first_again), (second, second_again) = (
        torch.load(two / f"{method}-{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    for name, tensor in alone.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        assert torch.equal(first[name], first_again[name]), name
        assert torch.equal(first[name], second_again[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_saving_leaves_the_running_statistics_of_batch_norms_alone(two):
    saved, unsaved, second = (
        torch.load(two / f"every-{name}.pt", weights_only=True) for name in ("3-0", "None-0", "3-1")
    )
    for name, tensor in saved.items():
        assert torch.equal(tensor, unsaved[name]), name
        assert torch.equal(tensor, second[name]), name


@pytest.mark.slow
def test_only_the_first_process_writes_and_tells(two):
    assert (int((two / "told-0").read_text()) > 0, (two / "told-1").read_text()) == (True, "0")
    for method in METHODS:
        assert [file.name for file in (two / method).iterdir()] == [STATE_FILE]
        saved = torch.load(two / method / STATE_FILE, weights_only=True)
        assert (saved["identity"]["processes"], len(saved["random_streams"][0])) == (2, 2)
    delta = torch.load(two / "free" / STATE_FILE, weights_only=True)["method"]["delta"]
    assert delta.shape == (32, 1, 8, 8)  # of the whole batch


ONE_FAILS = """
import os, sys, time
rank = int(os.environ["RANK"])
print(f"rank {rank} of {os.environ['WORLD_SIZE']}", file=sys.stderr)
if rank == int(sys.argv[1]):
    sys.exit(2)
time.sleep(600)
"""


@pytest.mark.parametrize("failing", [0, 1])
def test_when_one_process_fails_the_rest_are_ended(monkeypatch, capfd, failing):
    monkeypatch.setattr(launching, "_GRACE", 1.0)
    assert run_together([sys.executable, "-c", ONE_FAILS, str(failing)], 2) == 2
    said = capfd.readouterr().err.splitlines()
    assert said == ["rank 0 of 2", "rank 1 of 2"][: 1 + failing]


def test_processes_on_the_cpu_need_no_gpus(monkeypatch):
    pytest.importorskip("accelerate", reason="needs Accelerate: pip install 'deitsec[accelerate]'")
    commands = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(launching, "run_together", lambda *given: commands.append(given) or 0)
    words = ["train", "--accelerate", "2"]
    assert run([*words, "--device", "cpu"]) == 0
    assert commands == [([sys.executable, "-m", "deitsec", *words, "--device", "cpu"], 2)]
    assert run(words) == 2


@pytest.mark.slow
def test_the_command_starts_them(tmp_path):
    pytest.importorskip("accelerate", reason="needs Accelerate: pip install 'deitsec[accelerate]'")
    out = tmp_path / "model.safetensors"
    words = ["train", "--model", "logistic_regression", "--epochs", "1", "--accelerate", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "deitsec", *words, "--device", "cpu", "--out", str(out), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checkpoint"] == str(out)  # printed once
    assert out.exists()
