import sys

import pytest
import torch
from models_for_tests import Counting, conv, images_and_labels, mlp
from torch import nn

from deitsec.attacks import FGSM, PGD
from deitsec.engine import Engine
from deitsec.engine import memory as memory_module
from deitsec.engine.checked_model import CheckedModel
from deitsec.engine.driver import Driver
from deitsec.engine.memory import MOST_ROWS, bytes_per_row, rows_by_size, rows_that_fit

WIDTH, SIDE = 16, 8


def _known(extra=0):
    """Two convolutions with a ReLU between, and weights that no row pays for."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(WIDTH * SIDE * SIDE, 4 + extra),
    )
    return model.eval().requires_grad_(False)


def _measured(model, rows):
    driver = Driver(CheckedModel(model, torch.zeros(1, dtype=torch.int64)), module=model)
    return bytes_per_row(driver, model.parameters(), torch.rand(rows, 3, SIDE, SIDE))


def test_a_row_takes_what_its_activations_do():
    pixels = 4 * SIDE * SIDE
    # the ReLUs save their results, the gradient needs two of them at once; a run holds images
    by_hand = 2 * 2 * WIDTH * pixels + 8 * 3 * pixels
    assert by_hand / 2 <= _measured(_known(), 8) <= by_hand * 2


def test_a_row_takes_the_same_in_a_larger_batch_and_beside_heavier_weights():
    assert _measured(_known(), 16) == pytest.approx(_measured(_known(), 4), rel=0.05)
    logits = 4 * 500 * 4
    heavier = _measured(_known(extra=500), 8)  # 2 MB of weights more
    assert heavier <= _measured(_known(), 8) + logits


@pytest.mark.parametrize("row", [0, 1, 1 << 20, 1 << 26, 1 << 50])
@pytest.mark.parametrize("free", [1 << 20, 1 << 30, 1 << 40])
def test_rows_that_fit_have_a_least_and_a_most(monkeypatch, row, free):
    monkeypatch.setattr(memory_module, "available", lambda: free)
    rows = rows_that_fit(row, torch.device("cpu"))
    assert 1 <= rows <= MOST_ROWS
    assert rows == 1 or rows * row <= min(1 << 30, free // 4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 32, 32), (3, 224, 224), (3, 4000, 4000)])
def test_rows_by_size_have_a_least_and_a_most(shape):
    assert 8 <= rows_by_size(shape) <= MOST_ROWS


@pytest.mark.parametrize(("steps", "measured"), [(1, False), (20, True)])
def test_a_batch_is_measured_only_where_there_is_work(steps, measured):
    model = conv()
    images = torch.rand(40, 1, 6, 6)
    engine = Engine(model, channels_last=False)
    engine.run(PGD(steps=steps), images, torch.zeros(40, dtype=torch.int64))
    assert ("measured on 64" in engine.explain()["batch_size"]) is measured


class Cramped(nn.Module):
    """Memory runs out for more than `limit` rows from the call number `calls` on."""

    def __init__(self, model, limit, calls, error):
        super().__init__()
        self.model, self.limit, self.calls, self.error = model, limit, calls, error

    def forward(self, x):
        self.calls -= 1
        if self.calls < 0 and len(x) > self.limit:
            raise self.error
        return self.model(x)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("pretended"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["device", "cpu"],
)
@pytest.mark.parametrize("calls", [0, 1, 5, 11])
@pytest.mark.parametrize("options", [{}, {"deterministic": True}, {"stop": "never"}], ids=str)
def test_memory_that_runs_out_half_way_costs_nothing_but_time(error, calls, options):
    model = mlp()
    images, labels = images_and_labels(model, rows=40)
    attack = PGD(eps=0.1, steps=6, restarts=2)
    whole = Engine(model, batch_size=16, **options).run(attack, images, labels)
    cramped = Cramped(model, limit=5, calls=calls, error=error)
    told = []
    found = Engine(cramped, batch_size=16, **options).run(
        attack, images, labels, progress=lambda done, rows: told.append(done)
    )
    assert told == sorted(told)
    assert found.batch_size <= 5
    assert torch.equal(found.success, whole.success)
    assert torch.equal(found.steps, whole.steps)
    torch.testing.assert_close(found.adv, whole.adv, rtol=0, atol=1e-12)


def test_what_does_not_fit_in_any_batch_is_raised_as_it_is():
    images, labels = images_and_labels(mlp())
    cramped = Cramped(mlp(), limit=0, calls=3, error=torch.OutOfMemoryError("pretended"))
    with pytest.raises(torch.OutOfMemoryError, match="pretended"):
        Engine(cramped, batch_size=8).run(PGD(eps=0.1), images, labels)
    other = Cramped(mlp(), limit=0, calls=0, error=RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        Engine(other, batch_size=8).run(PGD(eps=0.1), images, labels)


def test_batches_after_that_stay_small():
    images, labels = images_and_labels(mlp(), rows=40)
    counting = Counting(Cramped(mlp(), 5, 0, torch.OutOfMemoryError("pretended")))
    result = Engine(counting, batch_size=8, compaction=False).run(FGSM(), images, labels)
    assert counting.sizes.count(8) == 1  # tried once in the run
    assert result.batch_size == 4


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_most_memory_in_use_is_told():
    model = mlp()
    images, labels = images_and_labels(model)
    peak = Engine(model).run(FGSM(), images, labels).peak_memory
    assert 1 << 20 < peak < 1 << 40
