"""`deitsec generate`, as people and machines call it."""

import json

import pytest
import torch

from deitsec.cli import main
from deitsec.models import load_model, save_checkpoint
from deitsec.shards import read_manifest

pytest.importorskip("pyarrow", reason="shards are written with pyarrow")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_checkpoint(load_model("logistic_regression", num_classes=10, in_chans=1), path)
    return str(path)


def test_what_machines_read(checkpoint, tmp_path, capsys):
    other = str(tmp_path / "other.safetensors")
    model = load_model("logistic_regression", num_classes=10, in_chans=1)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.01)
    save_checkpoint(model, other)
    words = ["generate", "--checkpoint", checkpoint, "--checkpoint", other]
    words += ["--attack", "fgsm", "--attack", "pgd:steps=2", "--per-class", "2"]
    words += ["--out", str(tmp_path / "out"), "--device", "cpu", "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    manifest = read_manifest(tmp_path / "out")
    assert manifest.command == ("deitsec", *words)
    assert document["complete"]
    assert document["rows"] == manifest.rows == 80
    assert [found["rows"] for found in document["variants"]] == [20] * 4
    specs = [found["attack"] for found in document["variants"]]
    assert specs == ["fgsm:eps=26/255", "pgd:eps=26/255,steps=2"] * 2
    for found in document["variants"]:
        assert found["success_rate"] == found["successes"] / 20
    assert sum(found["successes"] for found in document["variants"]) == manifest.successes


def test_what_people_read(checkpoint, tmp_path, capsys):
    words = ["generate", "--checkpoint", checkpoint, "--attack", "fgsm", "--rows", "10"]
    words += ["--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "10 adversarial images of digits" in shown.out
    assert "1 shards" in shown.out
    assert "10/10" in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--out must be given"),
        (["--out", "{out}", "--attack", "fgsn"], "fgsn"),
        (["--out", "{out}", "--attack", "fgsm", "--attack", "fgsm"], "is there twice"),
        (["--out", "{out}", "--split", "validation"], "split must be test or train"),
        (["--out", "{out}", "--runner", "cloud"], "--runner must be"),
        (["--out", "{out}", "--workers", "2"], "--workers is for --runner ray"),
        (["--out", "{out}", "--attack", "fgsm", "--rows", "1001"], "draws no random number"),
    ],
)
def test_what_is_refused_in_a_line(checkpoint, tmp_path, capsys, words, message):
    words = [word.format(out=tmp_path / "out") for word in words]
    assert main(["generate", "--checkpoint", checkpoint, "--device", "cpu", *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("deitsec: ")
    assert message in said
    assert not list(tmp_path.glob("out/*.parquet"))


def test_a_name_from_the_data_obeys_nobody_in_the_terminal(capsys):
    from deitsec.cli.app import _fail

    _fail("cannot decode a\n\x1b[2Jb\udcff", 2)
    assert capsys.readouterr().err == "deitsec: cannot decode a [2Jb\n"
