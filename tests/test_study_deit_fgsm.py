"""The study of the broken DeiT in its quick form, and what its page says of its figures."""

import json

import pytest
import torch

from deitsec.data import load_data, to_float
from deitsec.models import load_model
from deitsec.shards import read_manifest, read_shard
from deitsec.studies import page_of, reproduce


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    out = tmp_path_factory.mktemp("deit-fgsm")
    options = {"epochs": 1, "per_class": 2, "strong_per_class": 1, "cw_steps": 5}
    options["strongest"] = "fgsm"
    return reproduce("deit-fgsm", quick=True, out=out, options=options), out


def test_the_figures_are_those_of_the_files(broken):
    document, out = broken
    work = out / "deit-fgsm" / "work"
    model = load_model(checkpoint=work / "extracted.safetensors").eval()
    name = document["found"]["networks"][0]["name"]
    folder = work / f"shards-{name}-fgsm"
    manifest = read_manifest(folder)
    assert manifest.complete
    (entry,) = manifest.shards
    rows, _ = read_shard(folder / entry.name)
    images = to_float(torch.from_numpy(rows.image.copy()))
    with torch.no_grad():
        predicted = model(images).argmax(1).numpy()
    found = document["found"]["networks"][0]["fgsm"]
    assert found["rows"] == 20
    assert found["accuracy"] == (predicted == rows.label).mean()
    assert found["predictions_differ"] == 0
    clean = load_data("digits").test.images(torch.from_numpy(rows.source_row.copy()))
    assert (clean.numpy() == rows.clean_image).all()
    assert abs(rows.image.astype(int) - rows.clean_image).max() <= 26


def test_the_weights_are_those_that_were_extracted(broken):
    weights = broken[0]["found"]["weights"]
    assert weights["same_sha256"]
    assert weights["same_logits"]


def test_the_page_is_made_of_the_result(broken):
    document, out = broken
    page = (out / "deit-fgsm.md").read_text()
    assert page_of(document)[0] == page
    assert "nothing is compared" in page
    for name in ("confusion", "curve"):
        assert (out / "deit-fgsm" / f"{name}.png").stat().st_size < 300_000


def test_published_figures_stand_beside_those_of_cifar10_only(broken):
    document = json.loads(json.dumps(broken[0]))
    document["data"]["name"] = "cifar10"
    page = page_of(document)[0]
    assert "clean, published | 0.9399" in page
    assert "points from the published one" in page
    document["found"]["networks"][1]["clean"]["accuracy"] = 0.1
    assert "ended at chance" in page_of(document)[0]


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [
        ((0.5, 0.25, 0.05), "10.5% is reached at about 7.8/255, by the curve below"),
        ((0.1, 0.05, 0.0), "10.5% is reached at 1/255 or below"),
        ((0.9, 0.8, 0.7), "10.5% is reached at no eps up to 10/255"),
    ],
)
def test_the_page_says_where_fgsm_comes_to_the_published_accuracy(broken, accuracies, words):
    document = json.loads(json.dumps(broken[0]))
    document["data"]["name"] = "cifar10"
    first = document["found"]["networks"][0]
    first["fgsm"]["accuracy"] = 0.5
    first["curve"] = [
        {"eps": level / 255, "fgsm": accuracy, "pgd": 0.0}
        for level, accuracy in zip((1, 2, 10), accuracies, strict=True)
    ]
    assert words in page_of(document)[0]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (0.9, "the larger part of the gap is between images seen and unseen"),
        (0.45, "the larger part of the gap is there on images that it has seen"),
    ],
)
def test_the_reason_for_the_accuracy_is_that_of_the_figures(broken, seen, words):
    document = json.loads(json.dumps(broken[0]))
    document["data"]["name"] = "cifar10"
    document["found"]["networks"][0]["clean"]["accuracy"] = 0.4
    document["found"]["seen"]["accuracy"] = seen
    assert words in page_of(document)[0]


def test_every_network_is_in_the_table_of_trainings_with_its_hash(broken):
    document = broken[0]
    assert set(document["models"]) == {"teacher", "deit", "robust-deit"}
    assert all(len(model["sha256"]) == 64 for model in document["models"].values())
    page = page_of(document)[0]
    assert "| teacher, small_cnn | labels | 1 |" in page
