import errno
import functools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from deitsec.cli import main
from deitsec.models import build_own, load_model, save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("cli") / "model.safetensors"
    save_checkpoint(build_own("logistic_regression", in_chans=1, image_size=32), path)
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEITSEC_CACHE", str(tmp_path / "cache"))


def _quick(checkpoint, *more):
    return ["verify", "--checkpoint", str(checkpoint), "--per-class", "2", "--no-sweep", *more]


def _one_line(capsys):
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("deitsec: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verifi"], ["verifi", "verify"]),
        (["verify", "--dat", "x"], ["--dat", "--data"]),
        (["verify", "--attack", "pgdd"], ["'pgdd'", "'pgd'"]),
        (["verify", "--attack", "pgd:epz=1"], ["'epz'", "'eps'"]),
        (["verify", "--model", "deit_mikro"], ["deit_mikro", "deit_micro"]),
        (["verify", "--data", "digit"], ["'digit'", "digits"]),
        (["verify", "--data", "npz:nothing.npz"], ["nothing.npz"]),
        (["verify", "--eps", "0"], ["eps must be in (0, 1]", "got 0"]),
        (["verify", "--eps", "nan"], ["eps must be in (0, 1]"]),
        (["verify", "--eps", "much"], ["--eps must be a number", "'much'"]),
        (["verify", "--per-class", "0"], ["--per-class"]),
        (["verify", "--precision", "fp8"], ["precision must be one of fp32, tf32", "'fp8'"]),
        (["attack", "--attack", "pgdd"], ["'pgdd'", "'pgd'"]),
        (["attack", "--per-class", "0"], ["--per-class"]),
        (["attack", "--out", __file__], ["--out must be a folder"]),
        (["verify", "--min-robust-accuracy", "2"], ["min_robust_accuracy must be in [0, 1]"]),
        (["verify", "--checkpoint", "gone.safetensors"], ["gone.safetensors"]),
        (["verify", "--device", "cuda:77"], ["cuda:77"]),
        (["verify", "--out", __file__], ["--out must be a folder", "test_cli.py"]),
        (["verify", "--head", "left"], ["head", "'left'"]),
        (["train", "--out", "model.bin"], ["--out must end in .safetensors", "model.bin"]),
        (["train", "--epochs", "0"], ["epochs must be >= 1"]),
        (["train", "--temperature", "0"], ["temperature must be > 0 and finite", "got 0"]),
        (["train", "--temperature", "2", "--virtual"], ["--temperature and --virtual"]),
        (["train", "--labelled", "3"], ["--labelled is for --virtual"]),
        (["train", "--optimizer", "adamx"], ["adamx"]),
        (["distill"], ["--teacher"]),
        (["distill", "--teacher", "t", "--eps", "8/255"], ["--eps", "--method robust"]),
        (["distill", "--teacher", "t", "--method", "robust", "--eps", "x"], ["--eps must be a nu"]),
        (["list", "atacks"], ["atacks", "attacks"]),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, words, capsys):
    assert main(arguments) == 2
    line = _one_line(capsys)
    for word in words:
        assert word in line


def test_attack_writes_images_that_numpy_reads(checkpoint, capsys, tmp_path):
    arguments = ["attack", "--checkpoint", str(checkpoint), "--per-class", "3", "--json"]
    specs = ["--attack", "pgd_l2:eps=2", "--attack", "pgd_l2:eps=2,target=next"]
    assert main([*arguments, *specs, "--eps", "0.2", "--out", "adv"]) == 0
    summaries = json.loads(capsys.readouterr().out)
    assert [found["spec"] for found in summaries] == ["pgd_l2:eps=2", "pgd_l2:target=next,eps=2"]
    for found in summaries:
        path = tmp_path / found["file"]
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        assert json.loads(str(columns.pop("about")))["spec"] == found["spec"]
        assert columns["adversarial"].shape == columns["clean"].shape == (30, 32, 32, 1)
        assert columns["adversarial"].dtype == np.uint8
        model = load_model(checkpoint=checkpoint).eval()
        images = torch.from_numpy(columns["adversarial"]).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            predicted = model(images).argmax(1).numpy()
        assert (predicted == columns["prediction"]).all()
        aimed = "target" in found["spec"]
        reached = predicted == columns["target"] if aimed else predicted != columns["label"]
        assert (reached == columns["success"]).all()
        assert reached.any()
        change = (columns["adversarial"].astype(float) - columns["clean"]) / 255
        l2 = np.sqrt((change**2).reshape(30, -1).sum(1))
        np.testing.assert_allclose(l2, columns["l2"], rtol=1e-5)
        with Image.open(path.with_name(path.name.replace(".npz", ".png"))) as picture:
            assert picture.size[0] > 200
    assert (columns["target"] == (columns["label"] + 1) % 10).all()


def test_a_loss_that_needs_more_classes_says_so_in_one_line(tmp_path):
    torch.manual_seed(0)
    model = build_own("logistic_regression", in_chans=1, image_size=8, num_classes=2)
    save_checkpoint(model, tmp_path / "two.safetensors")
    images, labels = np.zeros((6, 8, 8), np.uint8), np.arange(6) % 2
    images[:, 2:5, 2:5] = 200 * labels[:, None, None]
    columns = {
        f"{what}_{part}": v
        for part in ("train", "test")
        for what, v in (("x", images), ("y", labels))
    }
    np.savez(tmp_path / "two.npz", **columns)
    command = [sys.executable, "-m", "deitsec", "attack", "--checkpoint", "two.safetensors"]
    command += ["--data", "npz:two.npz", "--attack", "apgd:loss=dlr,steps=3", "--out", "adv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = (
        "deitsec: warning: dlr compares 3 classes and the model has 2: the margin takes its place"
    )
    assert line in done.stderr.splitlines()
    assert "engine/" not in done.stderr


def test_verify_writes_the_report_and_prints_the_table(checkpoint, capsys, tmp_path):
    assert main(_quick(checkpoint)) == 0
    printed = capsys.readouterr().out
    assert "report: report/report.html" in printed
    assert "fgsm" in printed
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    assert document["model"]["origin"] == "checkpoint"
    assert f"--checkpoint {checkpoint}" in document["command"]
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_the_command_in_the_report_makes_its_figures_again(checkpoint, capsys, tmp_path):
    assert main(_quick(checkpoint, "--json", "--seed", "5")) == 0
    first = json.loads(capsys.readouterr().out)
    assert main([*first["command"].split()[1:], "--json", "--out", "all"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["attacks"][2]["confusion"]
        == (first["attacks"][2]["confusion"])
    )
    command = first["attacks"][1]["command"].split()
    assert command[0] == "deitsec"
    assert main([*command[1:], "--json", "--out", "again"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert len(second["attacks"]) == 1
    for key in ("spec", "accuracy", "robust_accuracy", "confusion", "distances"):
        assert second["attacks"][0][key] == first["attacks"][1][key]


def test_the_reports_command_has_every_option(checkpoint, capsys):
    options = ["--attack", "mifgsm:eps=4/255", "--min-robust-accuracy", "0.0"]
    options += ["--precision", "bf16"]
    assert main(_quick(checkpoint, *options, "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    given = (
        "--attack mifgsm:eps=4/255",
        "--no-sweep",
        "--min-robust-accuracy 0.0",
        "--precision bf16",
    )
    for words in given:
        assert words in document["command"]
    assert "--precision bf16" in document["attacks"][0]["command"]
    assert document["engine"]["precision"] == "bf16"


def test_a_checkpoint_that_numbers_the_classes_otherwise_is_refused(capsys, tmp_path):
    names = ["zero", *"123456789"]
    model = build_own("logistic_regression", in_chans=1, image_size=32)
    save_checkpoint(model, "named.safetensors", class_names=names)
    for label in range(10):
        folder = tmp_path / "images" / f"{label}x"
        folder.mkdir(parents=True)
        Image.new("L", (32, 32)).save(folder / "0.png")
    arguments = ["verify", "--checkpoint", "named.safetensors", "--data", "folder:images"]
    assert main(arguments) == 2
    assert "class 0 is 'zero'" in _one_line(capsys)


def test_the_gate_decides_the_exit_code(checkpoint, capsys):
    assert main(_quick(checkpoint, "--min-robust-accuracy", "0")) == 0
    assert main(_quick(checkpoint, "--min-robust-accuracy", "1")) == 3
    assert "gate failed" in capsys.readouterr().out


def test_a_full_disk_leaves_no_report_and_says_so(checkpoint, capsys, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main(_quick(checkpoint)) == 1
    error = capsys.readouterr().err
    assert "the disk is full" in error
    assert [path for path in (tmp_path / "report").rglob("*") if path.is_file()] == []


def test_an_interruption_leaves_no_report(checkpoint, capsys, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("deitsec.verification.protocol.measure", interrupt)
    assert main(_quick(checkpoint)) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_ctrl_c_during_training_is_one_line_and_resumes(tmp_path):
    command = [
        sys.executable,
        "-m",
        "deitsec",
        "train",
        "--epochs",
        "200",
        "--out",
        "m.safetensors",
    ]
    # a shell's background jobs start with the signal ignored, and hand that on
    listens = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=listens
    ) as process:
        state = tmp_path / "m.training"
        deadline = time.monotonic() + 400
        while not list(state.glob("*")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)  # waits for a file, not for a duration
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "deitsec: interrupted" in error
    assert not (tmp_path / "m.safetensors").exists()
    assert len(list(state.glob("*"))) == 1


def test_train_then_distill_then_verify(capsys, tmp_path):
    assert main(["train", "--epochs", "2", "--out", "teacher.safetensors", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["metrics"]["rows"] == 1000
    arguments = ["distill", "--teacher", "teacher.safetensors", "--epochs", "2"]
    assert main([*arguments, "--method", "study", "--out", "student.safetensors"]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert not (tmp_path / "student.training").exists()
    assert main([*_quick("student.safetensors"), "--head", "distillation", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"]["name"] == "deit_micro"
    assert document["model"]["head"] == "distillation"


def test_a_divergence_keeps_the_last_good_weights_and_says_so(capsys, tmp_path):
    assert main(["train", "--epochs", "2", "--lr", "1e30", "--optimizer", "sgd"]) == 1
    assert "not finite in epoch 1" in capsys.readouterr().err
    assert not (tmp_path / "model.safetensors").exists()


def test_doctor_names_every_op_and_backend(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["ops"]["linf_step"]) == {"cpp", "triton", "cuda", "reference"}
    assert all(state for backends in found["ops"].values() for state in backends.values())
    assert main(["doctor"]) == 0
    assert "linf_step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "name"),
    [("attacks", "pgd"), ("models", "deit_micro"), ("ops", "linf_step"), ("data", "digits")],
)
def test_list_names_them(what, name, capsys):
    assert main(["list", what, "--json"]) == 0
    assert name in json.loads(capsys.readouterr().out)
    assert main(["list", what]) == 0
    assert name in capsys.readouterr().out


@pytest.mark.slow
def test_the_default_verification_from_a_cold_cache_and_again(capsys, tmp_path):
    """The main job: a distilled DeiT learns the digits, and PGD breaks it."""
    assert main(["verify", "--json"]) == 0
    cold = json.loads(capsys.readouterr().out)
    assert cold["model"]["origin"] == "trained"
    assert cold["data"]["rows"] == 1000
    assert cold["clean"]["accuracy"] >= 0.95
    pgd = next(attack for attack in cold["attacks"] if attack["name"] == "pgd")
    assert pgd["accuracy"] < 0.10
    assert main(["verify", "--json", "--out", "again"]) == 0
    warm = json.loads(capsys.readouterr().out)
    assert warm["model"]["origin"] == "cache"
    assert warm["model"]["sha256"] == cold["model"]["sha256"]
    assert warm["clean"] == cold["clean"]
    assert warm["attacks"][1]["confusion"] == cold["attacks"][1]["confusion"]
