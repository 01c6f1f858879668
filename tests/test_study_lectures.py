"""The lectures in their quick forms, and each of their pieces by what is known of it."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deitsec.attacks import FGSM, LinearL2
from deitsec.data import load_data
from deitsec.engine import Engine
from deitsec.models import wrap
from deitsec.studies import (
    adversarial_lecture,
    attack_lecture,
    attack_lecture_page,
    lbfgs_distortions,
    page_of,
    photographs,
    reproduce,
)
from deitsec.studies.attacked_photographs import attack_photographs, outcome
from deitsec.studies.destruction import measure_destruction
from deitsec.studies.failed_defenses import Options as FailedOptions
from deitsec.studies.few_labels import few_labels_table
from deitsec.studies.hidden_data import _halves
from deitsec.studies.impersonation import measure_impersonation, target_steps
from deitsec.studies.lbfgs_distortions import measure_distortions
from deitsec.studies.lecture import Topic, check_topics, measure_topics, render_topics
from deitsec.studies.picture import changed, packed, packed_change, unpacked
from deitsec.studies.study import Page, Silent, StudyRun
from deitsec.studies.workbook import Workbook
from deitsec.studies.worked_example import worked_example


@pytest.fixture
def run(tmp_path):
    return StudyRun(
        options=None,
        data=load_data("digits"),
        seed=0,
        device="cpu",
        quick=True,
        workbook=Workbook(tmp_path / "work", {}),
        shown=Silent(),
    )


def _two_classes(pixels=4):
    """Logits (0, s) with s = sum over pixels of w (x - 1/2)."""
    layer = nn.Linear(pixels, 2)
    weight = torch.tensor([1.0, -2.0, 3.0, -4.0])
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(pixels), weight]))
        layer.bias.copy_(torch.tensor([0.0, -0.5 * weight.sum()]))
    module = nn.Sequential(nn.Flatten(), layer)
    return wrap(module, mean=0.0, std=1.0, num_classes=2, in_chans=1).eval(), weight


def _around_the_border(weight, scores):
    """Images whose score is as asked, near the middle of the box."""
    step = weight / weight.square().sum()
    return (0.5 + torch.tensor(scores)[:, None] * step).reshape(-1, 1, 2, 2)


def test_the_worked_example_is_the_lectures():
    found = worked_example()
    assert found["score"] == [-3.0, 2.0]
    before, after = found["probability"]
    assert round(before, 4) == 0.0474
    assert round(after, 2) == 0.88
    assert after == pytest.approx(1 / (1 + math.exp(-2)), rel=1e-12)


def test_crops_to_train_and_to_test_on_share_no_pixel(monkeypatch):
    """Each pixel says where it is, along the longer side, in its red and green values."""
    for tall in (False, True):
        place = np.arange(300)
        line = np.stack([place % 256, place // 256, 0 * place], 1).astype(np.uint8)
        wide = np.broadcast_to(line, (90, 300, 3))
        image = wide.transpose(1, 0, 2) if tall else wide
        known = {"first": (lambda i=image: i, True), "last": (lambda i=image: i, False)}
        monkeypatch.setattr(photographs, "PHOTOGRAPHS", known)
        data = photographs.photographs(train=20, test=10, side=64)
        for label in (0, 1):
            seen = []
            for split in (data.train, data.test):
                own = split.images((split.labels == label).nonzero()[:, 0]).long()
                seen.append(set((own[:, 0] + 256 * own[:, 1]).flatten().tolist()))
            assert seen[0]
            assert seen[1]
            assert not seen[0] & seen[1]


@pytest.mark.parametrize(
    "sizes", [{"train": 4, "test": 2, "side": 500}, {"train": 99999, "test": 2, "side": 224}]
)
def test_crops_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match="crops of a photograph must be 1 to"):
        photographs.photographs(**sizes)


def test_the_photographs_that_packages_ship_are_there():
    data = photographs.photographs(train=2, test=2, side=224)
    assert data.test.shape == (3, 224, 224)
    assert data.class_names == ("temple", "flower", "officer")
    assert all(data.test.images(torch.tensor([i])).float().std() > 5 for i in range(6))


def test_a_picture_and_its_change_give_the_attacked_picture_back():
    generator = torch.Generator().manual_seed(0)
    for channels in (1, 3):
        clean = torch.randint(0, 256, (channels, 5, 7), generator=generator) / 255
        adv = (clean + torch.randint(-8, 9, clean.shape, generator=generator) / 255).clamp(0, 1)
        text = packed(clean), packed_change(clean, adv)
        back = changed(unpacked(text[0]), unpacked(text[1]))
        assert np.array_equal(back, (adv * 255).round().byte().permute(1, 2, 0).numpy())


def test_impersonation_counts_what_a_linear_model_can_be_brought_to(run):
    """The score moves by eps * 10 at most; a confidence t needs it to pass log(t / (1 - t))."""
    model, weight = _two_classes()
    scores, eps = [-0.5, -0.9, -1.5, 0.3, -0.2], 0.1
    images = _around_the_border(weight, scores)
    labels = torch.tensor([0, 0, 0, 0, 0])
    found = measure_impersonation(
        run, model, images, labels, name="linear", eps=eps, steps=20, thresholds=(0.0, 0.55, 0.65)
    )
    assert found["right"] == 4
    assert found["targets"] == 1
    for point in found["points"]:
        least = (
            math.log(point["confidence"] / (1 - point["confidence"]))
            if point["confidence"]
            else 0.0
        )
        reached = sum(score + 10 * eps > least for score in scores if score < 0)
        assert point["impersonation"] == reached / 4
        assert point["denial"] == reached / 4
    assert found["denial"] == 3 / 4


@pytest.mark.parametrize(
    ("classes", "steps"),
    [(2, [1]), (3, [1, 2]), (10, list(range(1, 10))), (1000, list(range(100, 1000, 100)))],
)
def test_targets_are_spread_over_the_classes(classes, steps):
    assert target_steps(classes).tolist() == steps


def test_halves_of_the_data_share_no_image(run):
    first, second = _halves(run.data, 0)
    rows = [set(half.train.rows.tolist()) for half in (first, second)]
    assert not rows[0] & rows[1]
    assert len(rows[0] | rows[1]) == len(run.data.train)
    counts = [torch.bincount(half.train.labels, minlength=10) for half in (first, second)]
    assert int((counts[0] - counts[1]).abs().max()) <= 1


def test_distortion_is_the_distance_to_the_border_over_the_root_of_the_values(run, monkeypatch):
    monkeypatch.setattr(lbfgs_distortions, "_test_error", lambda run, model: 0.0)  # of digits
    model, weight = _two_classes()
    images = _around_the_border(weight, [-0.5, -0.9])
    labels = torch.tensor([0, 0])
    found = measure_distortions(run, {"linear": model}, images, labels, steps=60)["models"][0]
    exact = Engine(model).run(LinearL2(), images, labels).distance("l2").double()
    assert found["success"] == 1.0
    assert found["distortion"] == pytest.approx(exact.mean().item() / 2, rel=0.02)
    assert found["first_order"] == pytest.approx(exact.mean().item() / 2, rel=1e-3)  # it is linear


def test_what_no_change_moves_is_not_taken_back(run):
    """A score of brightness's mean alone: contrast leaves it, brightness moves it."""
    layer = nn.Linear(64, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(64), torch.ones(64)]))
        layer.bias.copy_(torch.tensor([0.0, -32.0]))
    model = wrap(nn.Sequential(nn.Flatten(), layer), mean=0.0, std=1.0, num_classes=2).eval()
    images = torch.full((3, 1, 8, 8), 0.48)
    labels = torch.zeros(3, dtype=torch.int64)
    found = measure_destruction(
        run, model, images, labels, {"fast": FGSM(eps=0.05)}, eps=0.05, draws=8
    )["methods"][0]
    assert found["fooled"] == 3
    assert found["rates"]["contrast"] == 0.0
    assert 0 < found["rates"]["brightness"] < 1


def test_an_outcome_counts_wrong_rows_and_their_confidence():
    model, weight = _two_classes()
    images = _around_the_border(weight, [-0.5, -3.0, 0.4])
    result = Engine(model, stop="never").run(FGSM(eps=0.1), images, torch.tensor([0, 0, 0]))
    found = outcome(result)
    assert found["clean_error"] == pytest.approx(1 / 3)
    assert found["error"] == pytest.approx(2 / 3)
    assert found["success"] == pytest.approx(1 / 2)
    expected = np.mean([1 / (1 + math.exp(-(s + 1))) for s in (-0.5, 0.4)])
    assert found["confidence"] == pytest.approx(expected, rel=1e-5)


def test_the_crop_shown_is_one_that_was_right_and_falls(run):
    model, weight = _two_classes()
    images = _around_the_border(weight, [0.4, -0.5, -0.6, -3.0])
    labels = torch.zeros(4, dtype=torch.int64)
    subject = photographs.Subject(
        model=model, images=images, labels=labels, class_names=("no", "yes"), facts={}
    )
    found = attack_photographs(run, subject, {"FGSM": FGSM(eps=0.1)}, looks=False)["example"]
    assert found["row"] == 2  # right, falls, and of those the farthest from grey
    assert [cell["answer"] for cell in found["cells"]] == ["no", "yes"]
    subject = dataclasses.replace(subject, whole=(1, 3))  # the other that falls, and one that stays
    found = attack_photographs(run, subject, {"FGSM": FGSM(eps=0.1)}, looks=False)["example"]
    assert found["row"] == 1


def _topic(name):
    return Topic(
        name=name,
        title=name.title(),
        says="Says.",
        measure=lambda bench: {"of": bench.run.seed, "name": name},
        show=lambda found: Page(
            markdown=f"## Inner {found['name']}\n\n![x](figure:one)", figures={"one": name}
        ),
        short=lambda found: f"{found['name']} in short.",
    )


def test_topics_keep_their_figures_and_headings_apart():
    topics = (_topic("a"), _topic("b"))
    found = measure_topics(_bench(), topics)
    assert found["topics"]["b"] == {"of": 7, "name": "b"}
    page = render_topics({"found": found}, topics)
    assert page.figures == {"a-one": "a", "b-one": "b"}
    assert "## A\n\nSays.\n\n### Inner a\n\n![x](figure:a-one)" in page.markdown
    assert "- *B.* b in short." in page.markdown


def _bench(*chosen):
    options = SimpleNamespace(topics=chosen)
    return SimpleNamespace(run=SimpleNamespace(options=options, seed=7))


def test_topics_that_were_not_measured_are_named():
    topics = [_topic(name) for name in "abc"]
    found = measure_topics(_bench("c", "a"), topics)
    assert list(found["topics"]) == ["a", "c"]
    page = render_topics({"found": found}, topics)
    assert "- *B.* Not measured here." in page.markdown
    assert "## B" not in page.markdown
    assert set(page.figures) == {"a-one", "c-one"}
    with pytest.raises(ValueError, match="topics: unknown 'd'; there are a, b, c"):
        check_topics(SimpleNamespace(topics=("d",)), topics)
    check_topics(SimpleNamespace(topics=()), topics)


def test_few_labels_are_shown_as_means():
    points = [
        {"labelled": 2, "method": name, "accuracies": accuracies}
        for name, accuracies in (("labels alone", [0.5, 0.7]), ("virtual adversarial", [0.8, 0.8]))
    ]
    assert "| 2 | 60.0% | 80.0% |" in few_labels_table({"points": points})


def test_an_unknown_defense_is_refused():
    with pytest.raises(ValueError, match="defenses must be of undefended, weight decay"):
        FailedOptions(defenses=("magic",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"thresholds": (1.0,)}, r"thresholds must be in \[0, 1\)"),
        ({"photo_eps": 0.0}, r"photo_eps must be in \(0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attack_lecture.Options(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transfer_eps": 0.0}, r"transfer_eps must be in \(0, 1\]"),
        ({"generations": (300, 100)}, "generations must ascend"),
        ({"generations": ()}, "generations must ascend"),
    ],
)
def test_options_of_the_other_lecture_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        adversarial_lecture.Options(**options)


def _written(folder):
    """When each piece of a study and of those inside it was written."""
    kept = [path for path in folder.rglob("*.json") if "work" in path.parts]
    kept += folder.rglob("*.safetensors")
    assert len(kept) > 20
    return {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.parametrize("name", ["attack-lecture", "adversarial-lecture"])
def test_a_lecture_in_its_quick_form(name, tmp_path):
    document = reproduce(name, quick=True, out=tmp_path)
    topics = document["found"]["topics"]
    page = (tmp_path / f"{name}.md").read_text()
    assert page.count("\n## ") == len(topics) + 1
    assert "figure:" not in page
    assert page_of(json.loads((tmp_path / name / "result.json").read_text()))[0] == page
    pictures = list((tmp_path / name).glob("*.png"))
    assert len(pictures) >= 5
    assert all(picture.stat().st_size <= 300_000 for picture in pictures)
    assert document["parts"]["adversarial-training/pgd"] > 0  # pieces of the studies inside count
    before = document["found"]
    pieces = _written(tmp_path)
    again = reproduce(name, quick=True, out=tmp_path)  # from its pieces
    assert again["found"] == before
    assert again["parts"] == document["parts"]  # seconds: a piece made again would take others
    assert _written(tmp_path) == pieces  # none was written again
    if name == "attack-lecture":
        defenses = [one["name"] for one in topics["failed-defenses"]["found"]["defenses"]]
        assert defenses == ["undefended", "noise at train time", "noise at test time"]
        known = topics["hidden-data"]["known"]
        assert known[0]["fooled"] >= max(one["fooled"] for one in known[1:])
        return
    methods = {one["name"]: one for one in topics["nothing"]["methods"]}
    assert methods["gradient"]["fooled"] == 10
    points = topics["linear"]["points"]
    errors = [one["error"] for one in points if one["model"] == "logistic_regression"]
    assert errors == sorted(errors)  # FGSM is the optimum of a linear model of two classes
    assert errors[-1] > 0.9


def test_the_summary_takes_the_best_of_each_side():
    def attack(spec, success):
        return {"spec": spec, "success": success}

    found = {
        "attacks": [attack("a", 0.1), attack("b", 0.2)],
        "adaptive": [attack("c", 0.9), attack("d", 0.8)],
    }
    said = attack_lecture_page.short_detector(found)
    assert "20.0% (b)" in said
    assert "90.0% (c)" in said
    trained = {"clean": 0.9, "fgsm": 0.7, "pgd": 0.6, "strong": 0.5}
    base = {"clean": 0.95, "fgsm": 0.3, "pgd": 0.2, "strong": 0.1}
    said = attack_lecture_page.short_adversarial({"methods": [base, trained]})
    assert "50.0% are left instead of 10.0%" in said
    assert "clean accuracy falls from 95.0% to 90.0%" in said
    said = attack_lecture_page.short_adversarial({"methods": [trained, base]})
    assert "clean accuracy rises from 90.0% to 95.0%" in said
