import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import Counting, Toy, ToyState, conv, images_and_labels, mlp

from deitsec.attacks import BIM, MIFGSM, PGD, PGDL2
from deitsec.engine import Engine
from deitsec.engine.ladder import make_ladder
from deitsec.engine.row_batch import clone_record, join_rows, slice_rows, take_rows


def _rows(model, rows=48, dtype=torch.float64):
    images, _ = images_and_labels(mlp(), rows=rows)
    images = images.to(dtype)
    with torch.no_grad():
        return images, model(images).argmax(1)


@pytest.mark.parametrize(
    ("make", "dtype", "deterministic"),
    [(mlp, torch.float64, False), (mlp, torch.float64, True), (conv, torch.float32, True)],
    ids=["fp64", "fp64-deterministic", "fp32-deterministic"],
)
@pytest.mark.parametrize("attack", [PGD(eps=0.1), BIM(eps=0.1), MIFGSM(eps=0.1), PGDL2(eps=0.4)])
def test_rows_that_leave_change_nothing_for_the_others(make, dtype, deterministic, attack):
    model = make()
    images, labels = _rows(model, dtype=dtype)
    on, off = (
        Engine(model, batch_size=16, compaction=c, deterministic=deterministic).run(
            attack, images, labels
        )
        for c in (True, False)
    )
    assert 0 < on.success.sum() < len(images)
    assert torch.equal(on.success, off.success)
    assert torch.equal(on.steps, off.steps)
    # PyTorch's norms of fp64 rows depend on their number in the last bit
    rounding = 0 if attack.traits.norm == "linf" and attack.name != "mifgsm" else 1e-12
    torch.testing.assert_close(on.adv, off.adv, rtol=0, atol=0 if deterministic else rounding)


def test_rows_really_leave_and_every_query_is_counted():
    model = Counting(mlp())
    images, labels = _rows(model.model)
    seen = {}
    for compaction in (True, False):
        model.sizes.clear()
        model.differentiated = 0
        engine = Engine(model, batch_size=16, compaction=compaction)
        result = engine.run(PGD(eps=0.2, steps=20), images, labels)
        seen[compaction] = (model.differentiated, sum(model.sizes))
        slots = model.differentiated
        assert int(result.queries.backward.sum()) <= slots
    assert seen[True][0] < 0.7 * seen[False][0]
    assert seen[False][0] == 20 * len(images)


@pytest.mark.parametrize("restarts", [1, 3])
def test_queries_are_what_the_model_saw_where_nothing_is_filled_up(restarts):
    model = Counting(mlp())
    images, labels = _rows(model.model, rows=32)
    # batches of one size that divides all: no row is there to fill a batch
    engine = Engine(model, batch_size=1, channels_last=False)
    result = engine.run(PGD(eps=0.05, steps=6, restarts=restarts), images[:12], labels[:12])
    assert int(result.queries.backward.sum()) == model.differentiated
    assert int(result.queries.forward.sum()) == sum(model.sizes)


@given(top=st.integers(1, 300), rows=st.integers(1, 2000), kind=st.sampled_from(range(8)))
@settings(max_examples=200, deadline=None)
def test_every_row_has_one_place_on_the_ladder(top, rows, kind):
    ladder = make_ladder(
        top, deterministic=bool(kind & 1), compiled=bool(kind & 2), graphs=bool(kind & 4)
    )
    assert len(ladder.sizes) <= 8
    assert list(ladder.sizes) == sorted(set(ladder.sizes), reverse=True)
    assert ladder.top == top
    for places in (ladder.start(rows), ladder.pack(rows)):
        assert sum(number for number, _ in places) == rows
        assert all(0 < number <= size <= top for number, size in places)
    assert all(size in ladder.sizes for _, size in ladder.pack(rows))
    if ladder.fixed:
        assert all(size in ladder.sizes for _, size in ladder.start(rows))
    slots = sum(size for _, size in ladder.pack(rows))
    left = max(0, rows - max(0, slots // 8 - 1))
    if sum(size for _, size in ladder.pack(left)) > slots * 7 / 8:
        assert not ladder.worth(left, slots)
    assert ladder.worth(0, slots)


def test_nothing_is_moved_for_less_than_an_eighth():
    ladder = make_ladder(64, deterministic=False, compiled=False, graphs=False)
    assert not ladder.worth(57, 64)
    assert not ladder.worth(49, 64)  # the next size holds 48
    assert ladder.worth(48, 64)


def _toy_state(rows, clock=3):
    return ToyState(
        x=torch.rand(rows, 1, 2, 2),
        momentum=torch.rand(rows, 1, 2, 2),
        turns=torch.arange(rows),
        clock=torch.tensor(clock),
    )


def test_rows_of_a_state_are_taken_sliced_joined_and_cloned():
    state = _toy_state(6)
    index = torch.tensor([4, 0, 4])
    taken = take_rows(state, index)
    for name in ("x", "momentum", "turns"):
        assert torch.equal(getattr(taken, name), getattr(state, name)[index]), name
    part = slice_rows(state, 2, 5)
    assert part.turns.tolist() == [2, 3, 4]
    joined = join_rows([slice_rows(state, 0, 2), slice_rows(state, 2, 6)])
    assert torch.equal(joined.momentum, state.momentum)
    copy = clone_record(state)
    for other in (taken, part, joined, copy):
        assert isinstance(other, ToyState)
        other.clock.add_(1)  # a shared field belongs to one batch
        assert int(other.clock) == 4
    assert int(state.clock) == 3
    copy.x.zero_()
    assert state.x.any()


@pytest.mark.parametrize("options", [{"deterministic": True}, {}])
def test_an_attack_with_fields_of_its_own_runs_the_same_in_every_batch(options):
    model = mlp()
    images, labels = _rows(model)
    runs = [
        Engine(model, batch_size=size, compaction=compaction, **options).run(Toy(), images, labels)
        for size in (48, 16, 7, 1)
        for compaction in (True, False)
    ]
    assert 0 < runs[0].success.sum() < len(images)
    for run in runs[1:]:
        # a matrix product rounds by its shape, and the attack takes signs
        assert torch.equal(run.success, runs[0].success)
        assert torch.equal(run.steps, runs[0].steps)
        torch.testing.assert_close(run.adv, runs[0].adv, rtol=0, atol=1e-12)


def test_clean_logits_asked_for_late_are_those_of_every_row():
    model = mlp()
    images, labels = _rows(model)
    result = Engine(model, batch_size=16).run(Toy(look=6), images, labels)
    assert result.success.any()
    with torch.no_grad():
        torch.testing.assert_close(result.clean_logits, model(images))
    assert result.clean_correct.all()


def test_never_stopping_keeps_every_row():
    model = Counting(mlp())
    images, labels = _rows(model.model)
    engine = Engine(model, batch_size=16, stop="never", channels_last=False)
    result = engine.run(PGD(eps=0.2), images, labels)
    assert result.success.any()
    assert result.queries.backward.tolist() == [10] * len(images)
    assert model.differentiated == 10 * len(images)


@pytest.mark.parametrize("rows", [1, 5, 16, 17, 33])
def test_rows_come_back_in_order_where_batches_are_filled_up(rows):
    model = mlp()
    images, labels = _rows(model)
    whole = Engine(model, batch_size=48).run(PGD(eps=0.1), images, labels)
    engine = Engine(model, batch_size=16, deterministic=True)
    part = engine.run(PGD(eps=0.1), images[:rows], labels[:rows])
    assert part.sample_ids.tolist() == list(range(rows))
    assert torch.equal(part.clean, images[:rows])
    assert torch.equal(part.success, whole.success[:rows])
    torch.testing.assert_close(part.adv, whole.adv[:rows], rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(part.logits, model(part.adv))
