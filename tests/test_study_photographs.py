"""Photographs for a classifier with published weights; and the trained stand-in, as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from deitsec.data import load_data, to_float
from deitsec.models import load_model, model_sha256, save_checkpoint
from deitsec.studies import (
    adversarial_lecture,
    adversarial_lecture_bench,
    attack_lecture,
    photographs,
    pretrained_photographs,
    shipped_photographs,
)
from deitsec.studies.study import Silent, StudyRun
from deitsec.studies.workbook import Workbook

MODEL = "test_resnet"  # timm's, 160 x 160, 1,000 classes
PAGES = Path(__file__).parent.parent / "docs" / "studies"


def _run(folder, options=None):
    return StudyRun(
        options=options,
        data=load_data("digits"),
        seed=0,
        device="cpu",
        quick=True,
        workbook=Workbook(folder / "work", {}),
        shown=Silent(),
    )


def _network(seed=0):
    torch.manual_seed(seed)
    return load_model(MODEL)


def _write(network, file):
    """Under names of another implementation, in the network's order."""
    state = network.module.state_dict()
    torch.save(
        {f"_{place}.{name}": tensor for place, (name, tensor) in enumerate(state.items())}, file
    )
    return file


@pytest.fixture
def few(monkeypatch):
    """Two of the photographs, so that a test takes less than a second."""
    known = shipped_photographs.shipped_photographs()[:2]
    monkeypatch.setattr(pretrained_photographs, "shipped_photographs", lambda: known)


def _classifier(run, **given):
    sizes = {"epochs": 1, "train": 2, "test": 2, "side": 64}
    return photographs.photograph_classifier(
        run, **{"model": MODEL, "pretrained": False, **sizes, **given}
    )


def test_weights_of_a_file_are_held_to_their_own_answers(few, tmp_path):
    network = _network()
    file = _write(network, tmp_path / "published.pth")
    subject = _classifier(_run(tmp_path), weights=str(file))
    facts = subject.facts
    assert subject.images.shape == (4, 3, 160, 160)  # two views of each, at the network's size
    answers = network(subject.images).softmax(1).max(1)
    assert torch.equal(subject.labels, answers.indices)
    assert facts["accuracy"] == 1.0
    assert facts["confidence"] == pytest.approx(answers.values.mean().item(), rel=1e-5)
    assert facts["network_sha256"] == model_sha256(network)
    assert (facts["weights"], facts["in_order"]) == ("published.pth", True)
    assert facts["photographs"] == {"scikit-learn": ["temple", "flower"]}
    assert subject.whole == (0, 2)
    names = [name for name, _, _ in facts["whole_photographs"]]
    said = [subject.class_names.index(answer) for _, answer, _ in facts["whole_photographs"]]
    assert names == ["temple", "flower"]
    assert said == answers.indices[::2].tolist()
    assert subject.class_names[652] == "military uniform"
    told = photographs.told(json.loads(json.dumps(facts)))
    assert "the weights of published.pth, another implementation's, taken in order" in told
    assert "4 views of 2 photographs" in told
    assert str(tmp_path) not in json.dumps(facts) + told


def test_published_weights_are_timms_where_no_file_is_given(few, tmp_path, monkeypatch):
    def published(name, *, pretrained):
        assert pretrained
        return _network()

    monkeypatch.setattr(pretrained_photographs, "load_model", published)
    subject = _classifier(_run(tmp_path), pretrained=True)
    assert subject.facts["weights"] is None
    assert f"{MODEL} with timm's published weights (sha256" in photographs.told(subject.facts)


def test_a_checkpoint_brings_its_own_preparation(few, tmp_path):
    network = load_model(MODEL, image_size=96)
    save_checkpoint(network, tmp_path / "own.safetensors")
    subject = _classifier(_run(tmp_path), weights=str(tmp_path / "own.safetensors"))
    assert subject.images.shape[-1] == 96
    assert not subject.facts["in_order"]


@pytest.mark.parametrize(
    ("bench", "options", "name"),
    [
        (attack_lecture.Bench, attack_lecture.Options, "model"),
        (adversarial_lecture_bench.Bench, adversarial_lecture.Options, "photo_model"),
    ],
)
def test_a_lecture_takes_its_weights_from_a_file(few, tmp_path, bench, options, name):
    file = _write(_network(3), tmp_path / "published.pth")
    chosen = options(**{name: MODEL, "photo_weights": str(file), "photo_test": 1})
    subject = bench(_run(tmp_path, chosen)).subject
    assert subject.facts["network_sha256"] == model_sha256(_network(3))
    assert subject.facts["test"] == 2


def test_impersonations_are_of_whole_photographs(few, tmp_path, monkeypatch):
    """Each costs a search for each target and threshold."""

    def counted(run, model, images, labels, *, name, **options):
        return {"name": name, "rows": len(images), "first": images[1].sum().item()}

    monkeypatch.setattr(attack_lecture, "measure_impersonation", counted)
    file = _write(_network(), tmp_path / "published.pth")
    chosen = attack_lecture.Options(photo_weights=str(file), photo_test=3, per_class=1)
    bench = attack_lecture.Bench(_run(tmp_path, chosen))
    bench.network = _network()  # of the data; it is not asked
    found = attack_lecture._measure_goals(bench)["goals"][0]
    assert found["rows"] == 2
    assert found["first"] == bench.subject.images[3].sum().item()  # the second of the whole ones


def test_photographs_of_ones_own_are_brought_to_the_networks_size(tmp_path):
    file = _write(_network(), tmp_path / "published.pth")
    subject = _classifier(_run(tmp_path), weights=str(file), photos="digits", test=1)
    source = load_data("digits", image_size=160).test
    rows = torch.tensor([int((source.labels == label).nonzero()[0]) for label in range(10)]).sort()
    assert torch.equal(subject.images, to_float(source.images(rows.values)))
    assert subject.facts["whole_photographs"] == []
    assert "10 images of digits, brought to 160 x 160 pixels" in photographs.told(subject.facts)


def test_pieces_of_other_weights_are_not_gone_on_with(few, tmp_path):
    file = tmp_path / "published.pth"
    for seed in (0, 0):
        _classifier(_run(tmp_path), weights=str(_write(_network(seed), file)))
    with pytest.raises(ValueError, match="work holds the pieces of other weights: "):
        _classifier(_run(tmp_path), weights=str(_write(_network(1), file)))
    with pytest.raises(ValueError, match="work holds the pieces of other photographs: "):
        _classifier(_run(tmp_path), weights=str(_write(_network(0), file)), test=1)


@pytest.mark.parametrize("options", [attack_lecture.Options, adversarial_lecture.Options])
def test_options_that_contradict_each_other_are_refused(options, tmp_path):
    file = tmp_path / "there.pth"
    file.touch()
    with pytest.raises(ValueError, match="pretrained and photo_weights exclude each other"):
        options(pretrained=True, photo_weights=str(file))
    with pytest.raises(ValueError, match=r"photo_weights: there is no file .*absent\.pth"):
        options(photo_weights=str(tmp_path / "absent.pth"))
    with pytest.raises(ValueError, match="photos are for a classifier that knows them already"):
        options(photos="digits")
    with pytest.raises(ValueError, match="photo_test must be 1 to 15 with published weights, got"):
        options(photo_weights=str(file), photo_test=16)
    options(photo_test=16)  # crops, for a classifier that is trained here


def _placed(height, width):
    """Each pixel says where it is."""
    down, right = np.mgrid[:height, :width]
    return np.stack([down, right, 0 * down], 2).astype(np.uint8)


def test_views_are_the_whole_and_its_corners_then_closer():
    found = shipped_photographs.views(_placed(100, 200), 6, side=80, crop=0.8)  # not resampled
    starts = found[:5, :2, 0, 0].tolist()
    assert starts == [[10, 60], [0, 0], [20, 120], [0, 120], [20, 0]]
    assert torch.equal(found[:5, :2, -1, -1] - found[:5, :2, 0, 0], torch.full((5, 2), 79).byte())
    closer = shipped_photographs.views(_placed(100, 200), 6, side=60, crop=0.8)[5]
    assert closer[:2, 0, 0].tolist() == [20, 70]
    assert closer[:2, -1, -1].tolist() == [79, 129]


@pytest.mark.parametrize("number", [0, 16])
def test_more_views_than_there_are_are_refused(number):
    with pytest.raises(ValueError, match=f"views of a photograph must be 1 to 15, got {number}"):
        shipped_photographs.views(_placed(100, 200), number, side=80, crop=0.8)


def test_the_first_view_is_what_timm_tests_on():
    """Where resizing comes to whole pixels it is the same square; Pillow resamples it there."""
    photograph = shipped_photographs.hopper()
    (ours,) = shipped_photographs.views(photograph, 1, side=224, crop=0.875)
    prepare = create_transform(
        (3, 224, 224), crop_pct=0.875, interpolation="bicubic", mean=(0,) * 3, std=(1,) * 3
    )
    theirs = prepare(Image.fromarray(photograph)) * 255
    assert (ours - theirs).abs().mean() < 0.1  # of 255 levels; a pixel beside it is 10 away


def test_a_package_that_is_not_installed_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped_photographs, "find_spec", lambda name: None)
    always = shipped_photographs.shipped_photographs()
    assert [one.name for one in always] == ["temple", "flower", "officer"]
    Image.fromarray(_placed(40, 50)).save(tmp_path / "coffee.png")
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "coffee.png").rename(folder / "coffee.png")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(shipped_photographs, "find_spec", lambda name: spec)
    known = shipped_photographs.shipped_photographs()
    assert shipped_photographs.named_by_package(known) == {
        "scikit-learn": ["temple", "flower"],
        "matplotlib": ["officer"],
        "scikit-image": ["coffee"],
    }
    assert np.array_equal(known[-1].load(), _placed(40, 50))


@pytest.mark.parametrize("name", ["attack-lecture", "adversarial-lecture"])
def test_the_stand_in_is_that_of_the_committed_pages(name):
    document = json.loads((PAGES / name / "result.json").read_text())
    topics, options = document["found"]["topics"], document["options"]
    facts = (topics.get("photograph") or topics["methods"]["photographs"])["subject"]
    sizes = {key: options[f"photo_{key}"] for key in ("train", "test")}
    assert photographs.photographs(**sizes, side=options["side"]).sha256 == facts["sha256"]
    option = "--model" if name == "attack-lecture" else "--photo-model"
    assert photographs.told(facts, option=option) in (PAGES / f"{name}.md").read_text()
