"""CUDA graphs without a GPU: what is captured is played back operation by operation."""

import dataclasses
import warnings

import pytest
import torch
from attacks_for_tests import EVERY, light
from models_for_tests import HeavyBall, Toy, images_and_labels, mlp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deitsec.attacks import BIM, PGD, Attack
from deitsec.engine import Engine
from deitsec.engine.graphs import GraphSteps
from deitsec.engine.session import Session
from deitsec.engine.steps import EagerSteps


class Tape(TorchDispatchMode):
    """Notes the operations on tensors, as a graph does: Python is not run again."""

    def __init__(self):
        super().__init__()
        self.calls, self.before, self.made = [], {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            alias = argument.alias_info
            value = given.get(argument.name)
            if alias is not None and alias.is_write and isinstance(value, torch.Tensor):
                storage = value.untyped_storage().data_ptr()
                if storage not in self.made and storage not in self.before:
                    self.before[storage] = (value, value.clone())
        out = func(*args, **kwargs)
        ins = {leaf.untyped_storage().data_ptr() for leaf in _tensors((args, kwargs))}
        outs = [leaf for leaf in _tensors(out) if leaf.untyped_storage().data_ptr() not in ins]
        self.made.update(leaf.untyped_storage().data_ptr() for leaf in outs)
        self.calls.append((func, args, kwargs, out))
        return out

    def play(self):
        for func, args, kwargs, out in self.calls:
            ins = {leaf.untyped_storage().data_ptr() for leaf in _tensors((args, kwargs))}
            again = func(*args, **kwargs)
            for old, new in zip(_tensors(out), _tensors(again), strict=True):
                if old.untyped_storage().data_ptr() not in ins:
                    old.copy_(new)  # into the memory of the capture


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class FakeRecorder:
    """Records without doing: the memory that the work changed is put back."""

    def __init__(self):
        self.tapes, self.plays = [], 0

    def record(self, work):
        tape = Tape()
        with tape:
            work()
        for changed, values in tape.before.values():
            changed.copy_(values)
        self.tapes.append(tape)

        def replay():
            self.plays += 1
            with torch.no_grad():
                tape.play()

        return replay


class Refusing:
    def __init__(self, error):
        self.error = error

    def record(self, work):
        raise self.error


def _as_on_a_gpu(monkeypatch):
    """Look at the rows every few steps, fill batches up, and take steps from graphs."""
    course = Session._course

    def seldom(self, *args):
        return dataclasses.replace(course(self, *args), check_every=4)

    monkeypatch.setattr(Session, "_course", seldom)
    monkeypatch.setattr(Session, "_graphs_off", lambda self: None)


@pytest.fixture
def captured(monkeypatch):
    """Makes every engine take its steps from what this recorder records."""

    def use(recorder):
        class Steps(GraphSteps):
            def __init__(self, device):
                super().__init__(device, recorder)

        _as_on_a_gpu(monkeypatch)
        monkeypatch.setattr("deitsec.engine.session.GraphSteps", Steps)

    return use


def _many_steps(name):
    attack = light(name, eps=0.1)
    long = name in ("bim", "illc", "mifgsm", "pgd", "pgd_l1", "pgd_l2")
    return light(name, eps=0.1, steps=14) if long else attack


ATTACKS = [_many_steps(name) for name in EVERY] + [
    Toy(steps=14),
    HeavyBall(),
    PGD(eps=0.05, steps=8, restarts=3),
    PGD(eps=0.05, steps=8, num_targets=3),
    PGD(eps=0.05, steps=8, target="next"),
    BIM(eps=0.1, steps=9, target="next"),
]


def _equal(found, expected):
    for name in ("success", "steps", "finite", "driven", "claims", "refuted"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("adv", "logits", "clean_logits"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=0, atol=1e-12
        )
    assert torch.equal(found.queries.forward, expected.queries.forward)
    assert torch.equal(found.queries.backward, expected.queries.backward)


# every attack as it runs by default; the engine's options on attacks of each kind
REPLAYED = [(attack, {}) for attack in ATTACKS] + [
    (attack, options)
    for attack in ATTACKS
    if attack.name in ("toy", "heavy_ball", "pgd", "bim", "apgd", "fab", "deepfool", "jsma", "nes")
    for options in ({"compaction": False}, {"stop": "never"})
]


@pytest.mark.parametrize(
    ("attack", "options"),
    REPLAYED,
    ids=lambda value: value.name if isinstance(value, Attack) else str(value),
)
def test_replayed_steps_come_to_what_plain_ones_do(monkeypatch, captured, attack, options):
    model = mlp()
    images, labels = images_and_labels(model, rows=40)
    with monkeypatch.context() as patch:
        _as_on_a_gpu(patch)
        patch.setattr(Session, "_steps_of", lambda self, *_: EagerSteps())
        expected = Engine(model, batch_size=16, **options).run(attack, images, labels)
    recorder = FakeRecorder()
    captured(recorder)
    engine = Engine(model, batch_size=16, **options)
    _equal(engine.run(attack, images, labels), expected)
    if sum(times for _, times in attack.plan()) > 4:
        assert recorder.plays > 0
    plays, tapes = recorder.plays, len(recorder.tapes)
    again = engine.run(attack, images, labels)
    _equal(again, expected)
    assert len(recorder.tapes) == tapes  # what was captured is used again
    assert recorder.plays >= plays


def test_results_do_not_share_the_memory_of_a_capture(captured):
    model = mlp()
    images, labels = images_and_labels(model, rows=16)
    captured(FakeRecorder())
    engine = Engine(model, batch_size=16, stop="never")
    first = engine.run(PGD(eps=0.1), images, labels)
    kept = [value.clone() for value in (first.adv, first.logits, first.success)]
    engine.run(PGD(eps=0.1), images.flip(0), labels.flip(0))
    for value, before in zip((first.adv, first.logits, first.success), kept, strict=True):
        assert torch.equal(value, before)


def test_a_step_that_cannot_be_captured_is_taken_as_it_is(captured):
    model = mlp()
    images, labels = images_and_labels(model, rows=40)
    plain = Engine(model, batch_size=16).run(PGD(eps=0.1), images, labels)
    captured(Refusing(RuntimeError("operation not permitted\nwhen capturing")))
    engine = Engine(model, batch_size=16)
    with pytest.warns(UserWarning, match="operation not permitted") as caught:
        result = engine.run(PGD(eps=0.1), images, labels)
    assert len(caught) == 1
    said = engine.explain()["cuda_graphs"]
    assert said == "off: the step cannot be captured: operation not permitted"
    assert torch.equal(result.success, plain.success)
    torch.testing.assert_close(result.adv, plain.adv, rtol=0, atol=1e-12)


def test_memory_that_runs_out_in_a_capture_is_not_taken_for_a_refusal(captured):
    model = mlp()
    images, labels = images_and_labels(model, rows=16)
    captured(Refusing(torch.OutOfMemoryError("pretended")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(torch.OutOfMemoryError, match="pretended"):
            Engine(model, batch_size=16).run(PGD(eps=0.1), images, labels)


@pytest.mark.parametrize("side", [6, 3])
def test_images_of_another_shape_are_captured_anew(captured, side):
    class Mean(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(torch.nn.functional.interpolate(x[:, :1], size=(6, 6)))

    model = Mean(mlp())
    images, labels = images_and_labels(mlp(), rows=16)
    captured(FakeRecorder())
    engine = Engine(model, batch_size=16)
    engine.run(PGD(eps=0.1), images, labels)
    other = images[:, :, :side, :side].repeat(1, 3, 1, 1)
    found = engine.run(PGD(eps=0.1), other, labels)
    expected = Engine(model, batch_size=16).run(PGD(eps=0.1), other, labels)
    assert torch.equal(found.success, expected.success)


def test_a_capture_is_not_used_for_another_copy_of_the_model(captured):
    """Few images are not measured, many are: each has a copy, and only one follows the weights."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), mlp().float()).float().eval()
    images, _ = images_and_labels(mlp(), rows=64)
    images = images.float()
    labels = model(images).argmax(1)
    captured(FakeRecorder())
    engine = Engine(model, batch_size=16, precision="bf16", seed=3)
    attack = PGD(eps=0.1, steps=10)
    engine.run(attack, images[:16], labels[:16])
    with torch.no_grad():
        model[1][-1].weight.neg_()
    labels = model(images).argmax(1)
    found = engine.run(attack, images, labels)
    fresh = Engine(model, batch_size=16, precision="bf16", seed=3).run(attack, images, labels)
    assert torch.equal(found.success, fresh.success)
    assert torch.equal(found.adv, fresh.adv)


def test_a_capture_is_not_used_after_the_weights_were_replaced(captured):
    model = mlp()
    images, labels = images_and_labels(model, rows=16)
    recorder = FakeRecorder()
    captured(recorder)
    engine = Engine(model, batch_size=16)
    engine.run(PGD(eps=0.1), images, labels)
    model.load_state_dict(mlp(seed=4).state_dict(), assign=True)
    labels = model(images).argmax(1)
    found = engine.run(PGD(eps=0.1), images, labels)
    fresh = Engine(model, batch_size=16).run(PGD(eps=0.1), images, labels)
    assert torch.equal(found.success, fresh.success)
    torch.testing.assert_close(found.adv, fresh.adv, rtol=0, atol=1e-12)
