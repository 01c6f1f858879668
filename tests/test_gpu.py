"""What only a GPU can show; `pytest -m gpu`. The ops' device cases are in test_ops.py."""

import contextlib
import copy
import dataclasses

import pytest
import torch
from attacks_for_tests import EVERY, light
from models_for_tests import problem
from torch import nn

from deitsec import ops
from deitsec.attacks import PGD
from deitsec.attacks.starts import l1_start, l2_start
from deitsec.engine import Engine, graphs, steps
from deitsec.engine.compaction import Compaction
from deitsec.models import EOT
from deitsec.models.transforms import Compose, GaussianNoise, Shift

pytestmark = pytest.mark.gpu
ROWS, BATCH = 192, 64  # three whole batches: the same shapes with graphs and without
LONG = PGD(eps=0.05, steps=12)
EXACT = ("adv", "success", "logits", "steps", "finite", "driven")


def network(width=8, side=16, seed=0):
    """Of layers whose gradients are deterministic on a GPU; pooling's are not."""
    torch.manual_seed(seed)
    left = (side - 3) // 2 + 1
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * left * left, 10),
    )
    with torch.no_grad():
        model[-1].weight.mul_(8)
    return model.cuda().eval()


def images_for(model, rows=ROWS, side=16, seed=1, device="cuda"):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(rows, 3, side, side, generator=generator).cuda()
    with torch.no_grad():
        labels = torch.cat([model(part).argmax(1) for part in images.split(32)])
    return images.to(device), labels.to(device)


def assert_same(found, expected):
    for name in EXACT:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.queries.forward, expected.queries.forward)
    assert torch.equal(found.queries.backward, expected.queries.backward)


@pytest.fixture
def at_once(monkeypatch):
    """Rows that are done are counted at once; else the time of a copy decides who goes with whom,
    and the last bits of a matrix product depend on the number of its rows.
    """

    def count(self, active):
        return int(torch.stack([stays.sum() for stays in active]).sum())

    monkeypatch.setattr(Compaction, "_count", count)


@contextlib.contextmanager
def no_wait():
    """Whatever waits for the GPU raises."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("options", [{}, {"compaction": False}, {"stop": "never"}], ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_graphs_give_what_eager_steps_give(name, options, at_once):
    model, attack = network(), light(name, shape=(3, 16, 16), classes=10)
    images, labels = images_for(model)
    eager = Engine(model, batch_size=BATCH, cuda_graphs=False, **options)
    captured = Engine(model, batch_size=BATCH, **options)
    expected = eager.run(attack, images, labels)
    assert_same(captured.run(attack, images, labels), expected)
    assert_same(captured.run(attack, images, labels), expected)  # from the graphs of the first
    assert captured.explain()["cuda_graphs"].startswith("on: ")


def test_graphs_of_targeted_attacks_and_of_halves_agree_too(at_once):
    model = network()
    images, labels = images_for(model)
    attack = dataclasses.replace(LONG, target="next", confidence=0.3)
    for precision in ("fp32", "bf16"):
        options = {"batch_size": BATCH, "precision": precision}
        eager = Engine(model, cuda_graphs=False, **options).run(attack, images, labels)
        assert_same(Engine(model, **options).run(attack, images, labels), eager)


def test_a_replay_waits_for_nothing(monkeypatch):
    model = network()
    images, labels = images_for(model)
    replay, times = graphs.GraphSteps._replay, []

    def watched(*args):
        with no_wait():
            replay(*args)
        times.append(args[-1])

    monkeypatch.setattr(graphs.GraphSteps, "_replay", staticmethod(watched))
    Engine(model, batch_size=BATCH).run(LONG, images, labels)
    assert sum(times) > 0


@pytest.mark.parametrize("name", EVERY)
def test_an_eager_step_waits_for_nothing(name, monkeypatch):
    model = network()
    images, labels = images_for(model)
    take_step, watched = steps.take_step, []

    def strict(step, query):
        if query.batch.forwards == 0:  # kernels are loaded
            return take_step(step, query)
        watched.append(step)
        with no_wait():
            return take_step(step, query)

    monkeypatch.setattr(steps, "take_step", strict)
    attack = light(name, shape=(3, 16, 16), classes=10)
    Engine(model, batch_size=BATCH, cuda_graphs=False).run(attack, images, labels)
    assert watched or sum(times for _, times in attack.plan()) == 1


def test_compaction_changes_no_byte_in_deterministic_mode():
    model = network()
    images, labels = images_for(model)
    found = [
        Engine(model, batch_size=BATCH, deterministic=True, compaction=on).run(LONG, images, labels)
        for on in (True, False)
    ]
    for name in ("adv", "success", "logits"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_draws_are_the_bits_of_the_cpu(dtype):
    x0 = torch.rand(37, 3, 9, 7).to(dtype)
    ids = torch.arange(37) * ((1 << 40) + 12345)
    with ops.use("reference"):
        expected = ops.random_start(x0, ids, 8 / 255, -(1 << 62) + 5, 3)
        on_gpu = ops.random_start(x0.cuda(), ids.cuda(), 8 / 255, -(1 << 62) + 5, 3)
    assert torch.equal(on_gpu.cpu(), expected)
    assert torch.equal(ops.random_start(x0.cuda(), ids.cuda(), 8 / 255, -(1 << 62) + 5, 3), on_gpu)


@pytest.mark.parametrize("start", [l2_start, l1_start], ids=lambda f: f.__name__)
def test_starts_are_those_of_the_cpu(start):
    x = torch.rand(21, 3, 9, 7)
    here = problem(x, torch.zeros(21).long(), seed=7)
    there = problem(x.cuda(), here.y.cuda(), seed=7)
    # the draws are equal to the bit; ndtri, log1p and pow of both libraries are so to a few ulp
    torch.testing.assert_close(start(there, 0.5).cpu(), start(here, 0.5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_a_success_in_lower_precision_stands_in_fp32(precision):
    model = network(32)
    images, labels = images_for(model)
    engine = Engine(model, batch_size=BATCH, precision=precision)
    result = engine.run(LONG, images, labels)
    assert engine.explain()["precision"].startswith(precision)
    assert result.claims.sum() > 0
    with torch.no_grad():
        fooled = torch.cat([model(part).argmax(1) for part in result.adv.split(32)]) != labels
    assert torch.equal(result.success, fooled & result.success), "a success that is none"
    assert result.success.any()


@pytest.mark.parametrize("graphs_on", [True, False], ids=["graphs", "eager"])
def test_memory_does_not_grow_over_a_thousand_steps(graphs_on):
    model = network()
    images, labels = images_for(model, rows=BATCH)
    engine = Engine(model, batch_size=BATCH, stop="never", cuda_graphs=graphs_on)
    attack = PGD(eps=0.05, alpha=0.001, steps=1000)
    seen = []
    note = lambda *_: seen.append(torch.cuda.memory_allocated())  # noqa: E731
    engine.run(attack, images, labels, progress=note)
    assert len(seen) >= 250
    middle = seen[20:-5]
    assert max(middle) - min(middle) <= 1 << 20
    after = torch.cuda.memory_allocated()
    engine.run(attack, images, labels)
    assert torch.cuda.memory_allocated() - after <= 1 << 20


def test_a_stream_from_the_cpu_is_a_run_on_the_gpu():
    model = network()
    images, labels = images_for(model, rows=3 * ROWS)
    options = {"batch_size": BATCH, "compaction": False}
    expected = Engine(model, **options).run(LONG, images, labels)
    parts = zip(images.cpu().split(50), labels.cpu().split(50), strict=True)
    found = list(Engine(model, **options).stream(LONG, parts))
    assert len(found) > 2
    for name in EXACT:
        joined = torch.cat([getattr(part, name) for part in found])
        assert joined.device.type == "cpu"
        assert torch.equal(joined, getattr(expected, name).cpu()), name


def test_memory_running_out_halves_the_batch():
    model = network(64, side=64)
    images, labels = images_for(model, rows=256, side=64)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + (400 << 20)
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        result = Engine(model, batch_size=256).run(LONG, images, labels)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.batch_size < 256
    assert result.peak_memory <= room
    with torch.no_grad():
        fooled = torch.cat([model(part).argmax(1) for part in result.adv.split(32)]) != labels
    assert (result.success == fooled).double().mean() > 0.99
    assert result.distance("linf").max() <= 0.05 + 1e-6


def test_peak_memory_is_the_gpus():
    model = network()
    images, labels = images_for(model)
    result = Engine(model, batch_size=BATCH).run(LONG, images, labels)
    assert images.nbytes < result.peak_memory <= torch.cuda.max_memory_allocated()


def test_expectation_over_transformations_draws_on_a_gpu_as_on_a_cpu():
    model = network()
    images, labels = images_for(model)
    transform = Compose(transforms=(GaussianNoise(std=0.05), Shift(pixels=1)))
    eot = EOT(model, transform, num_samples=3).eval()
    here, found = copy.deepcopy(eot).cpu(), []
    torch.testing.assert_close(eot(images).cpu(), here(images.cpu()), rtol=1e-3, atol=1e-3)
    for size in (64, 96):
        engine = Engine(eot, batch_size=size, compaction=False)
        found.append(engine.run(LONG, images, labels))
        assert engine.explain()["cuda_graphs"].startswith("off: the model draws")
    assert (found[0].success == found[1].success).double().mean() > 0.98


class Reads(nn.Module):
    """Reads a value back in its forward pass, which no graph can hold."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) * (1.0 if x.sum().item() > 0 else 2.0)


def test_a_model_that_cannot_be_captured_runs_eagerly_and_leaves_nothing_behind(at_once):
    model = network()
    images, labels = images_for(model)
    expected = Engine(Reads(model), batch_size=BATCH, cuda_graphs=False).run(LONG, images, labels)
    engine = Engine(Reads(model), batch_size=BATCH)
    with pytest.warns(UserWarning, match="cuda_graphs: the step cannot be captured"):
        found = engine.run(LONG, images, labels)
    assert_same(found, expected)
    assert "waits for the GPU" in engine.explain()["cuda_graphs"]
    # a capture that failed would have left the generator and the allocator in its middle
    assert torch.rand(4, device="cuda").isfinite().all()
    other = Engine(model, batch_size=BATCH)
    assert_same(other.run(LONG, images, labels), expected)
    assert other.explain()["cuda_graphs"].startswith("on: ")


def test_results_are_no_memory_of_a_graph(at_once):
    model = network()
    images, labels = images_for(model)
    engine = Engine(model, batch_size=BATCH)
    first = engine.run(LONG, images, labels)
    before = {name: getattr(first, name).clone() for name in EXACT}
    engine.run(LONG, *images_for(model, seed=5))
    for name, value in before.items():
        assert torch.equal(getattr(first, name), value), name


def test_graphs_follow_the_weights(at_once):
    model = network()
    images, labels = images_for(model)
    engine = Engine(model, batch_size=BATCH)
    engine.run(LONG, images, labels)
    with torch.no_grad():
        model[0].weight.mul_(0.7)  # in place
    expected = Engine(model, batch_size=BATCH, cuda_graphs=False).run(LONG, images, labels)
    assert_same(engine.run(LONG, images, labels), expected)
    model[-1].weight = nn.Parameter(-model[-1].weight.detach())  # other memory
    expected = Engine(model, batch_size=BATCH, cuda_graphs=False).run(LONG, images, labels)
    assert_same(engine.run(LONG, images, labels), expected)


@pytest.mark.slow
def test_a_compiled_model_is_captured(at_once):
    model = network()
    images, labels = images_for(model)
    eager = Engine(model, batch_size=BATCH, compile=True, cuda_graphs=False)
    expected = eager.run(LONG, images, labels)
    engine = Engine(model, batch_size=BATCH, compile=True)
    assert_same(engine.run(LONG, images, labels), expected)
    assert engine.explain()["compile"] == "on"
    assert engine.explain()["cuda_graphs"].startswith("on: ")
