"""`deitsec certify`, its files and its refusals."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm

from deitsec.cli import main
from deitsec.defenses.binomial import lower_bound
from deitsec.models import build_own, save_checkpoint


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEITSEC_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_checkpoint(build_own("logistic_regression", in_chans=1, image_size=8), path)
    return str(path)


def _arguments(checkpoint, *more):
    few = ["--image-size", "8", "--per-class", "2", "--samples", "50", "--select", "20"]
    return ["certify", "--checkpoint", checkpoint, *few, *more]


def test_the_files_agree_with_each_other_and_with_the_bound(checkpoint, tmp_path, capsys):
    assert main(_arguments(checkpoint, "--sigma", "0.5", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "certified" / "certified.json").read_text())
    assert printed == written
    with (tmp_path / "certified" / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == written["rows"] == 20
    votes = np.array([int(row["votes"]) for row in rows])
    bounds = lower_bound(votes, 50, 0.001)
    radii = np.array([float(row["radius"]) for row in rows])
    np.testing.assert_allclose(radii, 0.5 * norm.ppf(np.maximum(bounds, 0.5)), rtol=1e-9)
    assert [row["class"] == "-1" for row in rows] == (bounds <= 0.5).tolist()
    right = np.array([row["class"] == row["label"] for row in rows])
    for point in written["certified"]:
        assert point["accuracy"] == (right & (radii >= point["radius"])).mean()
    assert written["abstained"] == (bounds <= 0.5).mean()
    with Image.open(tmp_path / "certified" / "certified-accuracy.png") as picture:
        assert picture.size[0] > 200


def test_the_seed_decides_the_rows_and_the_batch_size_does_not(checkpoint, tmp_path, capsys):
    tables = []
    for number, more in enumerate((["--batch-size", "7"], [], ["--seed", "1"])):
        assert main(_arguments(checkpoint, "--out", str(number), *more)) == 0
        tables.append((tmp_path / str(number) / "rows.csv").read_text())
    assert tables[0] == tables[1] != tables[2]
    assert "average certified radius" in " ".join(capsys.readouterr().out.split())


def test_copies_too_few_to_prove_a_majority_certify_nothing(checkpoint, capsys):
    assert main(_arguments(checkpoint, "--samples", "7", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["abstained"] == 1
    assert found["largest_possible_radius"] == found["accuracy"] == 0
    assert [point["radius"] for point in found["certified"]] == [0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--sigma", "0"], "sigma must be > 0 and finite, got 0"),
        (["--samples", "0"], "samples must be at least 1, got 0"),
        (["--select", "0"], "select must be at least 1"),
        (["--alpha", "1"], "alpha must be in (0, 1), got 1"),
        (["--checkpoint", "x", "--noise", "0.1"], "--noise goes without --checkpoint"),
        (["--noise", "-1"], "noise must be >= 0"),
        (["--out", __file__], "--out must be a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(checkpoint, more, words, capsys):
    arguments = _arguments(checkpoint, *more)
    if more[0] == "--noise":  # only where a model is trained
        arguments = ["certify", *more]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]
