"""A run that was interrupted goes on as if it had not been."""

import dataclasses

import pytest
from training_for_tests import (
    QUICK,
    InterruptError,
    assert_same_weights,
    few_digits,
    interrupt_at,
    micro,
    network,
    relabelled,
    weights,
    without_seconds,
)

from deitsec.training import (
    DistillConfig,
    distill,
    fit,
)
from deitsec.training.loop import STATE_FILE


@pytest.fixture(scope="module")
def data():
    return few_digits()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"optimizer": "sgd", "schedule": "step", "decay_epochs": 1, "channels_last": True},
        {"validation": 0.0, "warmup_epochs": 1.5},
    ],
)
def test_resumed_equals_uninterrupted(data, tmp_path, changes):
    config = dataclasses.replace(QUICK, epochs=4, **changes)
    whole, parts = network(), network()
    expected = fit(whole, data, config)
    with pytest.raises(InterruptError):
        fit(parts, data, config, out=tmp_path, progress=interrupt_at(3))
    fresh = network(seed=9)
    result = fit(fresh, data, config, out=tmp_path, resume=True)
    assert_same_weights(weights(whole), weights(fresh))
    assert without_seconds(result) == without_seconds(expected)
    assert result.best_epoch == expected.best_epoch


def test_resuming_a_finished_run_takes_no_step(data, tmp_path):
    first, second = network(), network(seed=9)
    done = fit(first, data, QUICK, out=tmp_path)
    again = fit(second, data, QUICK, out=tmp_path, resume=True, progress=interrupt_at(1))
    assert again == done
    assert_same_weights(weights(first), weights(second))


def test_an_interrupted_write_leaves_the_last_state_whole(data, tmp_path, monkeypatch):
    with pytest.raises(InterruptError):
        fit(network(), data, QUICK, out=tmp_path, progress=interrupt_at(2))
    before = (tmp_path / STATE_FILE).read_bytes()

    def fsync(descriptor):
        raise InterruptError

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(InterruptError):
        fit(network(), data, QUICK, out=tmp_path, resume=True)
    assert [file.name for file in tmp_path.iterdir()] == [STATE_FILE]
    assert (tmp_path / STATE_FILE).read_bytes() == before


def test_another_recipe_is_refused_by_its_differences(data, tmp_path):
    fit(network(), data, QUICK, out=tmp_path)
    other = dataclasses.replace(QUICK, lr=0.25, augmentation=None)
    with pytest.raises(ValueError, match=r"lr was 0\.005 and is 0\.25") as caught:
        fit(network(), data, other, out=tmp_path, resume=True)
    assert "augmentation" in str(caught.value)


def test_other_data_or_another_teacher_is_refused(data, tmp_path):
    config = DistillConfig(fit=dataclasses.replace(QUICK, epochs=1))
    distill(network(), network(1), data, config, out=tmp_path)
    with pytest.raises(ValueError, match=r"teacher\.sha256 was"):
        distill(network(), network(2), data, config, out=tmp_path, resume=True)
    other = relabelled(data, data.train.labels.flip(0))
    with pytest.raises(ValueError, match=r"data\.sha256 was"):
        distill(network(), network(1), other, config, out=tmp_path, resume=True)


def test_a_state_file_is_not_overwritten_unasked(data, tmp_path):
    fit(network(), data, QUICK, out=tmp_path)
    with pytest.raises(ValueError, match=r"resume it \(--resume, or resume=True\)"):
        fit(network(), data, QUICK, out=tmp_path)


def test_a_broken_state_file_is_one_clear_error(data, tmp_path):
    (tmp_path / STATE_FILE).write_bytes(b"not a state")
    with pytest.raises(ValueError, match="cannot be read as a training state"):
        fit(network(), data, QUICK, out=tmp_path, resume=True)


def test_distillation_resumes_too(data, tmp_path):
    config = DistillConfig(method="study", fit=dataclasses.replace(QUICK, epochs=4))
    whole, fresh = micro(), micro(3)
    teacher = network()
    distill(whole, teacher, data, config)
    with pytest.raises(InterruptError):
        distill(micro(), teacher, data, config, out=tmp_path, progress=interrupt_at(3))
    distill(fresh, teacher, data, config, out=tmp_path, resume=True)
    assert_same_weights(weights(whole), weights(fresh))
