"""A run that was stopped within an epoch goes on at the step: the same weights, bit for bit."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_for_tests import (
    QUICK,
    InterruptError,
    assert_same_weights,
    few_digits,
    network,
    weights,
    without_seconds,
)

from deitsec.training import (
    AdversarialConfig,
    DistillConfig,
    TrainingDiverged,
    adversarial_fit,
    distill,
    fit,
)
from deitsec.training.loop import STATE_FILE

# 160 rows in batches of 8: 20 steps an epoch
SHORT = dataclasses.replace(QUICK, epochs=2, batch_size=8)
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def data():
    return few_digits()


def by_labels(model, data, config, **more):
    return fit(model, data, config, **more)


def by_teacher(model, data, config, **more):
    return distill(model, network(5), data, DistillConfig(fit=config, method="study"), **more)


def against(method, **changes):
    def train(model, data, config, **more):
        plan = AdversarialConfig(
            fit=config, method=method, eps=0.1, curve_every=None, overfit_gap=None, **changes
        )
        return adversarial_fit(model, data, plan, **more)

    return train


WAYS = {
    "fit": by_labels,
    "distill": by_teacher,
    "mixture": against("mixture"),
    "pgd": against("pgd", steps=2),
    "pgd-l2": against("pgd", steps=2, norm="l2"),
    "trades": against("trades", steps=2),
    "fast": against("fast"),
    "free": against("free", replays=3),
}


class Stopping:
    """Stops a run at a forward pass in train mode, wherever in a step that is."""

    def __init__(self, model, at):
        self.left = at
        model.register_forward_pre_hook(self)

    def __call__(self, model, given):
        self.left -= model.training
        if self.left == 0:
            raise InterruptError


@pytest.mark.parametrize(("way", "save_every"), [("fit", 1), *((way, 7) for way in WAYS)])
def test_resumed_at_a_random_step_equals_uninterrupted(data, tmp_path, way, save_every):
    train, config = WAYS[way], dataclasses.replace(SHORT, save_every=save_every)
    whole, fresh = network(), network(seed=9)
    expected = train(whole, data, config)
    place = random.Random(f"{way} {save_every}")
    passes = {"mixture": 2, "trades": 2}.get(way, 1)  # forward passes of a step
    stopped_at = []
    for seed in (0, 7, 8):  # and stopped again, wherever it had got to, each time a fresh model
        parts = network(seed)
        Stopping(parts, passes * place.randrange(save_every + 2, 20))
        try:
            train(parts, data, config, out=tmp_path, resume=True)
        except InterruptError:
            saved = torch.load(tmp_path / STATE_FILE, weights_only=True)
            stopped_at.append((len(saved["history"]), saved["step"]))
    result = train(fresh, data, config, out=tmp_path, resume=True)
    assert any(step for _, step in stopped_at), stopped_at
    assert_same_weights(weights(whole), weights(fresh))
    assert without_seconds(result) == without_seconds(expected)


def test_a_callback_may_stop_it_too(data, tmp_path):
    config = dataclasses.replace(SHORT, batch_size=4, save_every=3)  # progress is told at step 20

    def stop(event):
        if (event.epoch, event.step) == (2, 20):
            raise InterruptError

    whole, fresh = network(), network(seed=9)
    fit(whole, data, config)
    with pytest.raises(InterruptError):
        fit(network(), data, config, out=tmp_path, progress=stop)
    saved = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert (len(saved["history"]), saved["step"]) == (1, 18)
    fit(fresh, data, config, out=tmp_path, resume=True)
    assert_same_weights(weights(whole), weights(fresh))


def test_another_save_every_may_go_on(data, tmp_path):
    config = dataclasses.replace(SHORT, save_every=4)
    whole, parts, fresh = network(), network(), network(seed=9)
    fit(whole, data, config)
    Stopping(parts, 30)
    with pytest.raises(InterruptError):
        fit(parts, data, config, out=tmp_path)
    fit(fresh, data, dataclasses.replace(config, save_every=None), out=tmp_path, resume=True)
    assert_same_weights(weights(whole), weights(fresh))


def test_where_it_is_saved_changes_nothing(data, tmp_path):
    seldom, often = network(), network()
    fit(seldom, data, SHORT)
    fit(often, data, dataclasses.replace(SHORT, save_every=1), out=tmp_path)
    assert_same_weights(weights(seldom), weights(often))


def test_a_diverged_state_is_never_saved(data, tmp_path):
    model = network()

    def spoil(module, given, output):
        model.calls = getattr(model, "calls", 0) + module.training
        return output * float("nan") if model.calls == 26 else output

    model.register_forward_hook(spoil)
    config = dataclasses.replace(SHORT, save_every=2)
    with pytest.raises(TrainingDiverged, match=r"good weights \(epoch 1\) were restored") as caught:
        fit(model, data, config, out=tmp_path)
    assert (caught.value.epoch, caught.value.step, caught.value.kept_epoch) == (2, 6, 1)
    saved = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert (len(saved["history"]), saved["step"]) == (1, 4)
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())
    resumed, expected = network(seed=9), network()
    fit(expected, data, config)
    fit(resumed, data, config, out=tmp_path, resume=True)
    assert_same_weights(weights(expected), weights(resumed))


def test_a_negative_save_every_is_refused():
    with pytest.raises(ValueError, match="save_every must be >= 1, got 0"):
        dataclasses.replace(SHORT, save_every=0)


KILLED = """
import dataclasses, os, signal, sys
from pathlib import Path
import torch
from test_training_steps import SHORT, WAYS
from training_for_tests import few_digits, network

torch.use_deterministic_algorithms(True, warn_only=True)
model, out = network(), Path(sys.argv[1])
seen = []

def kill(module, given):
    seen.append(module.training)
    if sum(seen) == 31:
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "kill":
    model.register_forward_pre_hook(kill)
config = dataclasses.replace(SHORT, save_every=5)
WAYS["pgd"](model, few_digits(), config, out=out, resume=True)
torch.save(model.state_dict(), out / "weights.pt")
"""


def test_killed_and_resumed_in_another_process(data, tmp_path):
    def start(what):
        command = [sys.executable, "-c", KILLED, str(tmp_path), what]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert start("kill").returncode == -signal.SIGKILL
    saved = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert (len(saved["history"]), saved["step"]) == (1, 10)
    again = start("go on")
    assert again.returncode == 0, again.stderr
    whole = network()
    WAYS["pgd"](whole, data, dataclasses.replace(SHORT, save_every=5))
    assert_same_weights(weights(whole), torch.load(tmp_path / "weights.pt", weights_only=True))
