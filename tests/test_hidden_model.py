"""The commands and studies of a hidden model and of poisoned data, in their short forms."""

import json
import re

import pytest
import torch
from PIL import Image
from training_for_tests import digits

from deitsec.attacks import FGSM
from deitsec.cli import main
from deitsec.defenses import SubstituteAttack, attack_hidden
from deitsec.defenses.hidden_attack import split_rows
from deitsec.models import LabelsOnly, build_own, save_checkpoint
from deitsec.report.heatmap import heatmap
from deitsec.studies import reproduce
from deitsec.training import FitConfig
from deitsec.training.recipes import new_model


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEITSEC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        network = build_own("logistic_regression", in_chans=1, image_size=8)
        save_checkpoint(network, folder / f"{name}.safetensors")
    five = build_own("logistic_regression", in_chans=1, image_size=8, num_classes=5)
    save_checkpoint(five, folder / "five.safetensors")
    return folder


QUICK = FitConfig(epochs=3, batch_size=32, lr=5e-3, validation=0.0, threads=1)


def test_the_bill_of_a_hidden_attack_is_the_oracles_and_no_image_measures_twice():
    data = digits()
    model = new_model("logistic_regression", data, seed=0)
    oracle = LabelsOnly(model, num_classes=10)
    own = new_model("logistic_regression", data, seed=1)
    how = SubstituteAttack(rounds=2, fit=QUICK)
    found = attack_hidden(model, oracle, own, data, how, [FGSM(eps=0.1)], first=2, per_class=4)
    assert found["queries"] == oracle.queries == 80  # measuring is on no bill
    assert [record["queries"] for record in found["rounds"]] == [20, 40, 80]
    assert found["rounds"][-1]["agreement"] == found["agreement"]
    assert found["rows"] == 40
    assert [piece["spec"] for piece in found["attacks"]] == ["fgsm:eps=0.1"]
    seeds, held = split_rows(data.test.labels, 2, 4, 10)
    assert not set(seeds.tolist()) & set(held.tolist())
    assert torch.bincount(data.test.labels[held]).tolist() == [4] * 10
    with pytest.raises(ValueError, match="class 0 has 100 images, fewer than the 101"):
        split_rows(data.test.labels, 1, 100, 10)
    with pytest.raises(ValueError, match="first and per_class must be >= 1, got 0 and 4"):
        split_rows(data.test.labels, 0, 4, 10)


def test_substitute_writes_what_it_asked_and_what_transferred(checkpoints, capsys, tmp_path):
    command = [
        *("substitute", "--image-size", "8", "--checkpoint", str(checkpoints / "one.safetensors")),
        *("--substitute", "logistic_regression", "--first", "2", "--rounds", "5"),
        *("--budget", "90", "--epochs", "2", "--per-class", "3", "--attack", "fgsm", "--json"),
    ]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["queries"] == 90
    assert document["stopped"]
    assert document == json.loads((tmp_path / "substitute/substitute.json").read_text())
    assert {"transfer", "white_box", "noise"} <= set(document["attacks"][0])


def test_transfer_draws_the_matrix_of_checkpoints_and_estimators(checkpoints, capsys):
    files = [str(checkpoints / f"{name}.safetensors") for name in ("one", "two")]
    command = [
        *("transfer", "--image-size", "8", "--checkpoint", files[0], "--checkpoint", files[1]),
        *("--estimator", "tree", "--attack", "fgsm", "--queries", "20", "--per-class", "2"),
    ]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["names"] == ["one", "two", "tree"]
    assert len(document["rate"]) == len(document["rate"][0]) == 3
    assert document["attacks"][2].startswith("square:")
    with Image.open("transfer/transfer.png") as picture:
        assert picture.size[0] > 200


def test_poison_writes_the_rows_the_picture_and_the_model(capsys):
    command = [
        *("poison", "--image-size", "8", "--model", "logistic_regression", "--epochs", "2"),
        *("--rate", "0.1", "--target", "3", "--size", "2", "--no-retrain", "--json"),
    ]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["poisoned_rows"]) == document["contamination"]["poisoned"] == 80
    assert {found["name"] for found in document["detectors"]} == {
        "spectral signature",
        "activation clustering (ica)",
        "activation clustering (pca)",
    }
    with Image.open("poisoned/poisoned.png") as picture:
        assert picture.size[0] > 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["poison", "--rate", "0"], "rate must be in (0, 1], got 0"),
        (["poison", "--kind", "bomb"], "--kind must be one of backdoor, clean-label, flip"),
        (["poison", "--target", "10"], "target must be a class of digits, 0 to 9, got 10"),
        (["poison", "--size", "40"], "do not fit on images of 32 x 32"),
        (["poison", "--trigger", "sun"], "--trigger must be patch or blend"),
        (["poison", "--source", "2"], "--source goes with --kind flip"),
        (["substitute", "--rounds", "-1"], "rounds must be >= 0, got -1"),
        (["substitute", "--attack", "pgdd"], "'pgdd'"),
        (["transfer", "--estimator", "bush"], "--estimator must be one of forest, knn"),
        (["transfer", "--eps", "0"], "eps must be in (0, 1]"),
    ],
)
def test_a_bad_request_is_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in lines[-1]
    assert lines[-1].startswith("deitsec: ")


def test_a_budget_below_the_first_images_and_other_classes_are_one_line(checkpoints, capsys):
    one, five = (str(checkpoints / f"{name}.safetensors") for name in ("one", "five"))
    base = ["--image-size", "8", "--checkpoint"]
    assert main(["substitute", *base, one, "--budget", "50"]) == 2
    assert "has 50 queries left, fewer than the 100 first images" in capsys.readouterr().err
    assert main(["transfer", *base, one, "--checkpoint", five]) == 2
    assert "has 5 classes, got num_classes=10" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hidden-model", "poisoning"])
def test_the_quick_study_writes_its_page_and_goes_on_from_its_pieces(name, tmp_path):
    document = reproduce(name, quick=True, out=tmp_path)
    page = (tmp_path / f"{name}.md").read_text()
    for figure in re.findall(r"\(([\w/-]+\.png)\)", page):
        assert (tmp_path / figure).exists()
    again = reproduce(name, quick=True, out=tmp_path)
    assert again["found"] == document["found"]
    assert again["seconds"] == document["seconds"]  # nothing was made anew


def test_a_heatmap_refuses_titles_that_do_not_fit():
    heatmap([[0.5, None]], rows=["a"], columns=["b", "c"])
    with pytest.raises(ValueError, match=re.escape("values must be 1 rows of 1")):
        heatmap([[0.5, None]], rows=["a"], columns=["b"])
