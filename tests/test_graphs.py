"""What is captured and replayed, on a recorder that needs no GPU; test_gpu.py has the real one."""

import dataclasses
import threading
import warnings
from typing import ClassVar

import pytest
import torch
from models_for_tests import images_and_labels, mlp
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from deitsec import ops
from deitsec.attacks import PGD, create_attack, list_attacks
from deitsec.attacks.attack import Attack
from deitsec.engine import Engine, graphs
from deitsec.engine.batch import Batch
from deitsec.engine.checked_model import CheckedModel
from deitsec.engine.driver import Driver
from deitsec.engine.fingerprint import fingerprint
from deitsec.engine.goal import Goal
from deitsec.engine.kept import Kept
from deitsec.engine.query import EngineQuery
from deitsec.engine.session import Session
from deitsec.engine.steps import EagerSteps, take_step
from deitsec.types import Problem, State, Traits


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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TwoPlaceState(State):
    earlier: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HeavyBall(Attack):
    """Remembers the iterate before: the fields of its state move from one to the other."""

    name: ClassVar[str] = "heavy_ball"
    traits: ClassVar[Traits] = Traits(norm="linf")
    eps: float = 0.1

    def init(self, p):
        return TwoPlaceState(x=p.x, earlier=p.x)

    def plan(self):
        return [(self.step, 12)]

    def step(self, p, s, query):
        grad = query.grad(s.x, p.y)
        ahead = (s.x + 0.5 * (s.x - s.earlier)).clamp(0, 1)
        return s.replace(x=ops.linf_step(ahead, grad, p.x, 0.02, self.eps), earlier=s.x)


EVERY = [HeavyBall()] + [create_attack(name) for name in list_attacks()]


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.name)
@pytest.mark.parametrize(
    "options",
    [{}, {"compaction": False}, {"stop": "never"}],
    ids=["compaction", "no-compaction", "never"],
)
def test_replayed_steps_are_the_steps(attack, options, pretended, monkeypatch):
    model = mlp()
    images, labels = images_and_labels(model)
    expected = without_graphs(monkeypatch, attack, model, images, labels, batch_size=10, **options)
    engine = Engine(model, batch_size=10, **options)
    assert_same(engine.run(attack, images, labels), expected)
    assert_same(engine.run(attack, images, labels), expected)
    captured = sum(len(steps.captured) for steps in engine._session._graphs.values())
    assert (captured == 0) == (sum(times for _, times in attack.plan()) < 4)
    assert torch.equal(images, images_and_labels(model)[0]), "the clean images were written to"


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


class Fails:
    def __init__(self, device=None):
        self.records = 0

    def record(self, work):
        self.records += 1
        try:
            raise RuntimeError("the reason\nand more")
        except RuntimeError:
            raise RuntimeError("ending the capture failed too")  # noqa: B904


def test_a_step_that_cannot_be_captured_is_taken_as_usual(pretended, monkeypatch):
    monkeypatch.setattr(graphs, "CudaRecorder", Fails)
    model = mlp()
    images, labels = images_and_labels(model)
    attack, engine = PGD(eps=0.1, steps=8), Engine(model)
    expected = without_graphs(monkeypatch, attack, model, images, labels)
    with pytest.warns(UserWarning, match="cuda_graphs: the step cannot be captured: the reason;"):
        assert_same(engine.run(attack, images, labels), expected)
    assert engine.explain()["cuda_graphs"] == "off: the step cannot be captured: the reason"


def test_memory_running_out_in_a_capture_halves_the_batch(pretended, monkeypatch):
    class Cramped(Replayed):
        def record(self, work):
            replay = super().record(work)
            if self.records == 1 and held == []:
                held.append(self)
                raise torch.OutOfMemoryError("pretended")
            return replay

    held = []
    monkeypatch.setattr(graphs, "CudaRecorder", Cramped)
    model = mlp()
    images, labels = images_and_labels(model)
    result = Engine(model, batch_size=24).run(PGD(eps=0.1, steps=8), images, labels)
    assert result.batch_size == 12
    assert result.success.any()


@pytest.mark.parametrize("name", list_attacks())
@pytest.mark.parametrize("loss_at", ["untargeted", "targeted"])
def test_a_step_on_a_pretended_gpu_reads_nothing_back(name, loss_at, monkeypatch):
    """Fake CUDA tensors have no values: whatever would wait for one raises."""
    # autograd asks the driver for the device, which is not there
    gradient = lambda output, leaf, dlogits: (torch.empty_like(leaf),)  # noqa: E731
    monkeypatch.setattr(torch.autograd, "grad", gradient)
    attack, targeted = create_attack(name), loss_at == "targeted"
    with FakeTensorMode():
        x = torch.empty(4, 3, 8, 8, device="cuda")
        y = torch.empty(4, dtype=torch.int64, device="cuda")
        layers = nn.Conv2d(3, 4, 3, device="cuda"), nn.Linear(144, 5, device="cuda")
        model = nn.Sequential(layers[0], nn.Flatten(), layers[1])
        problem = Problem(x=x, y=y, sample_ids=y, targeted=targeted)
        checked = CheckedModel.__new__(CheckedModel)  # its labels are read once, before any step
        checked.model, checked.labels, checked._highest = model.requires_grad_(False), y, 0
        batch = Batch(
            problem=problem,
            goal=Goal(y=y, targeted=targeted, confidence=0.5 * targeted),
            state=attack.init(problem),
            kept=Kept.nothing(x),
            rows=y,
            variants=y,
            real=y > 0,
        )
        query = EngineQuery(Driver(checked, scaled=True), batch, first=True)
        for step, _ in attack.plan():
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
