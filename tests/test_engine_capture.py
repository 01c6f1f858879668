"""What a capture takes as given, and what it may not do; test_gpu.py has the real one."""

import dataclasses
import threading
import warnings

import pytest
import torch
from attacks_for_tests import EVERY, light
from models_for_tests import images_and_labels, mlp, problem
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from deitsec.attacks import PGD
from deitsec.engine import Engine, graphs
from deitsec.engine.batch import Batch
from deitsec.engine.checked_model import CheckedModel
from deitsec.engine.driver import Driver
from deitsec.engine.fingerprint import fingerprint
from deitsec.engine.kept import Kept
from deitsec.engine.preference import Preference
from deitsec.engine.query import EngineQuery
from deitsec.engine.session import Session
from deitsec.engine.steps import EagerSteps, take_step


class Replayed:
    """Does at each replay what was recorded, on the memory that it was recorded on."""

    def __init__(self, device=None):
        self.records = 0

    def record(self, work):
        self.records += 1
        work()  # a capture warms up
        work()
        return work


@pytest.fixture
def pretended(monkeypatch):
    """Engines go about a CPU as about a GPU: four steps at a time, and graphs."""
    course = Session._course

    def four_steps(self, *args):
        return dataclasses.replace(course(self, *args), check_every=4)

    monkeypatch.setattr(Session, "_course", four_steps)
    monkeypatch.setattr(Session, "_graphs_off", lambda self: None)
    monkeypatch.setattr(graphs, "CudaRecorder", Replayed)


def without_graphs(monkeypatch, attack, model, images, labels, targets=None, **options):
    with monkeypatch.context() as patched:
        patched.setattr(Session, "_steps_of", lambda self, *_: EagerSteps())
        return Engine(model, **options).run(attack, images, labels, targets)


def assert_same(found, expected):
    for name in ("adv", "success", "logits", "steps", "finite", "driven"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.queries.forward, expected.queries.forward)
    assert torch.equal(found.queries.backward, expected.queries.backward)


def test_what_a_capture_takes_as_given_is_never_stale(pretended, monkeypatch):
    model = mlp()
    images, labels = images_and_labels(model)
    attack, engine = PGD(eps=0.1, steps=8), Engine(model)

    def check(*more):
        wanted = without_graphs(monkeypatch, attack, model, images, labels, *more)
        assert_same(engine.run(attack, images, labels, *more), wanted)

    check()
    check((labels + 1) % 5)  # targeted
    check()
    with torch.no_grad():
        model[1].weight.mul_(0.5)
    check()
    (steps,) = engine._session._graphs.values()
    model[1].weight = nn.Parameter(model[1].weight.detach() * 3)
    check()
    assert list(engine._session._graphs.values()) != [steps], "graphs of freed weights were kept"


def test_a_model_is_told_by_what_a_graph_holds_of_it():
    model = mlp()
    first = fingerprint(model)
    with torch.no_grad():
        model[1].weight.mul_(2)
    assert fingerprint(model) == first
    model[4].p = 0.1
    assert fingerprint(model) != first
    model[4].p = 0.5
    assert fingerprint(model) == first
    hook = model[1].register_forward_hook(lambda *_: None)
    assert fingerprint(model) != first
    hook.remove()
    model[1].bias.data = model[1].bias.data.clone()
    assert fingerprint(model) != first


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("loss_at", ["untargeted", "targeted"])
def test_a_step_on_a_pretended_gpu_reads_nothing_back(name, loss_at, monkeypatch):
    """Fake CUDA tensors have no values: whatever would wait for one raises."""
    # autograd asks the driver for the device, which is not there
    gradient = lambda output, leaf, *_, **__: (torch.empty_like(leaf),)  # noqa: E731
    monkeypatch.setattr(torch.autograd, "grad", gradient)
    targeted = loss_at == "targeted"
    attack = light(name, shape=(3, 8, 8), aimed=targeted)
    with FakeTensorMode(allow_non_fake_inputs=True):  # weights that come from a file are real
        x = torch.empty(4, 3, 8, 8, device="cuda")
        y = torch.empty(4, dtype=torch.int64, device="cuda")
        layers = nn.Conv2d(3, 4, 3, device="cuda"), nn.Linear(144, 5, device="cuda")
        model = nn.Sequential(layers[0], nn.Flatten(), layers[1])
        asked = problem(x, y, sample_ids=y, targeted=targeted, confidence=0.5 * targeted)
        checked = CheckedModel.__new__(CheckedModel)  # its labels are read once, before any step
        checked.model, checked.labels, checked._highest = model.requires_grad_(False), y, 0
        driver = Driver(checked, scaled=True, module=model)
        for stage in attack.stages:
            many = stage.num_targets > 0  # each try aims at a class, for the label to lose
            tried = dataclasses.replace(asked, targeted=targeted or many)
            batch = Batch(
                problem=tried,
                state=stage.init(tried),
                kept=Kept.nothing(x),
                rows=y,
                variants=y,
                real=y > 0,
            )
            query = EngineQuery(driver, batch, preference=Preference(first=True))
            for step, _ in stage.plan():
                take_step(step, query)
                take_step(step, query)
            assert batch.state.x.device.type == "cuda"
            assert batch.kept.logits is not None


def test_waits_are_noticed_in_this_thread_and_other_warnings_pass(monkeypatch):
    """PyTorch warns of each wait, in the thread that waits."""
    said = "called a synchronizing CUDA operation"
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with warnings.catch_warnings(record=True) as others, graphs._waits_noticed() as waits:
        elsewhere = threading.Thread(target=warnings.warn, args=(said,))
        elsewhere.start()
        elsewhere.join()
        assert waits == []
        warnings.warn(said, stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert len(waits) == 1
    assert __file__ in waits[0]
    assert [str(other.message) for other in others] == ["something else"]
    assert modes == [0, 1, 0]
