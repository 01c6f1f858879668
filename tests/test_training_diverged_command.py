"""What the commands leave behind when a training diverges: the last good weights, written once."""

import pytest
from training_for_tests import few_digits, network

from deitsec import training
from deitsec.cli import trained
from deitsec.cli.app import run
from deitsec.training import TrainingDiverged, processes
from deitsec.training.processes import Processes


class Second(Processes):
    count, rank = 2, 1


def diverge(*_, **__):
    raise TrainingDiverged("the loss", epoch=3, step=1, lr=0.1, kept_epoch=2)


@pytest.mark.parametrize(("who", "written"), [(Processes, True), (Second, False)])
def test_the_first_process_alone_keeps_the_last_good_weights(monkeypatch, tmp_path, who, written):
    monkeypatch.setattr(processes, "find_processes", lambda device: who())
    out = tmp_path / "model.safetensors"
    with pytest.raises(TrainingDiverged), trained.last_good_kept(network(), few_digits(), out):
        diverge()
    assert out.exists() == written


def test_a_distillation_that_diverges_keeps_the_last_good_weights(monkeypatch, tmp_path, capsys):
    teacher, out = tmp_path / "teacher.safetensors", tmp_path / "student.safetensors"
    model = ["--model", "logistic_regression", "--epochs", "1", "--device", "cpu"]
    assert run(["train", *model, "--out", str(teacher)]) == 0
    monkeypatch.setattr(training, "distill", diverge)
    words = ["distill", "--teacher", str(teacher), *model, "--save-every", "5", "--out", str(out)]
    assert run(words) == 1
    assert out.exists()
    assert f"the weights of epoch 2 are in {out}" in capsys.readouterr().err
