"""`deitsec train-generator`: what it writes and prints, and what it refuses in a line."""

import json

import pytest
import torch

from deitsec.attacks import PerturbationGenerator
from deitsec.cli import main
from deitsec.data import load_data
from deitsec.models import load_model, model_sha256, save_checkpoint
from deitsec.training.recipes import new_model

WORDS = ["--device", "cpu", "--epochs", "1", "--width", "4", "--rows", "120", "--per-class", "2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_checkpoint(new_model("logistic_regression", load_data("digits"), seed=0), path)
    return path


def test_it_writes_a_generator_and_says_what_falls_to_each_attack(checkpoint, tmp_path, capsys):
    out = tmp_path / "g.safetensors"
    words = ["train-generator", "--checkpoint", str(checkpoint), *WORDS, "--eps", "8/255"]
    assert main([*words, "--seed", "3", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    made = PerturbationGenerator.load(out)
    assert (made.eps, made.shape, made.num_classes) == (8 / 255, (1, 32, 32), 10)
    assert made.model["sha256"] == model_sha256(load_model(checkpoint=checkpoint))
    assert made.training["settings"]["seed"] == 3
    assert made.training["data"]["sha256"] == load_data("digits").sha256
    assert [attack["name"] for attack in found["attacks"]] == ["advgan", "fgsm", "pgd"]
    for attack in found["attacks"]:
        assert attack["rows"] == 20
        assert attack["linf"] <= 8 / 255 * (1 + 1e-6)
        assert attack["images_per_second"] > 0
    assert found["attacks"][2]["spec"] == "pgd:eps=8/255"
    assert len(found["history"]) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["g.safetensors"]  # no state is left


def test_a_generator_is_used_by_its_file_and_another_model_is_said(checkpoint, tmp_path, capsys):
    out = tmp_path / "g.safetensors"
    words = ["--checkpoint", str(checkpoint), "--device", "cpu", "--per-class", "2"]
    assert main(["train-generator", *words, *WORDS, "--target", "any", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "images/s" in shown
    assert "success" in shown
    spec = f"advgan:generator={out},target=next"
    used = ["attack", *words, "--attack", spec, "--out", str(tmp_path / "a"), "--json"]
    assert main(used) == 0
    (summary,) = json.loads(capsys.readouterr().out)
    assert summary["rows"] == 20
    assert summary["made_for"].startswith("this model")
    torch.manual_seed(5)
    other = tmp_path / "other.safetensors"
    save_checkpoint(new_model("logistic_regression", load_data("digits"), seed=9), other)
    used[used.index(str(checkpoint))] = str(other)
    with pytest.warns(UserWarning, match="a transfer attack"):
        assert main(used) == 0
    (summary,) = json.loads(capsys.readouterr().out)
    assert summary["made_for"].startswith("another model, a transfer attack")


def test_an_interrupted_training_goes_on(checkpoint, tmp_path, monkeypatch, capsys):
    words = ["train-generator", "--checkpoint", str(checkpoint), *WORDS, "--epochs", "2"]
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    assert main([*words, "--out", str(whole)]) == 0

    def stop(self, stage, event):
        if "generator" in stage and event.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("deitsec.cli.display.Display.training", stop)
        assert main([*words, "--out", str(parts)]) == 130
    assert not parts.exists()
    assert main([*words, "--out", str(parts)]) == 2
    assert "resume it (--resume" in capsys.readouterr().err
    assert main([*words, "--out", str(parts), "--resume"]) == 0
    weights = [PerturbationGenerator.load(path).network.state_dict() for path in (whole, parts)]
    for name, tensor in weights[0].items():
        assert torch.equal(weights[1][name], tensor), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "g.pt"], "--out must end in .safetensors"),
        (["--target", "next"], "--target must be a class or any, got 'next'"),
        (["--target", "10"], "target must be in 0 to 9, got 10"),
        (["--eps", "2"], "eps must be in (0, 1]"),
        (["--eps", "big"], "--eps must be a number such as 8/255"),
        (["--width", "6"], "width must be a multiple of 4, got 6"),
        (["--gan-weight", "-1"], "gan_weight must be at least 0"),
        (["--checkpoint", "nothing.safetensors"], "nothing.safetensors"),
    ],
)
def test_bad_input_is_one_line(words, message, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train-generator", "--checkpoint", str(checkpoint), *WORDS, *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deitsec:")]
    assert len(errors) == 1
    assert message in errors[0]
