"""What the lectures' pages say follows from the figures: turned round, the sentences turn too."""

import copy
import json
from pathlib import Path

import pytest

from deitsec.studies import adversarial_lecture, attack_lecture, mnist_adversarial

PAGES = Path(__file__).parent.parent / "docs" / "studies"
RENDER = {
    "attack-lecture": attack_lecture.render,
    "adversarial-lecture": adversarial_lecture.render,
    "mnist-adversarial": mnist_adversarial.render,
}


@pytest.fixture(params=list(RENDER))
def any_lecture(request):
    return request.param, _document(request.param)


def _document(name):
    return json.loads((PAGES / name / "result.json").read_text())


def _said(name, change):
    """The page of the committed result once `change` has had its topics (or its `found`)."""
    document = copy.deepcopy(_document(name))
    found = document["found"]
    change(found.get("topics", found))
    return RENDER[name](document).markdown


def test_every_page_renders_without_a_change(any_lecture):
    name, document = any_lecture
    assert RENDER[name](document).markdown == _said(name, lambda found: None)


def _clean(before, after):
    def change(topics):
        methods = topics["adversarial-training"]["found"]["methods"]
        methods[0]["clean"], methods[-1]["clean"] = before, after

    return change


def test_clean_accuracy_falls_or_rises_as_it_did():
    assert "clean accuracy falls from 98.0% to 91.0%" in _said("attack-lecture", _clean(0.98, 0.91))
    up = _said("attack-lecture", _clean(0.91, 0.98))
    assert "clean accuracy rises from 91.0% to 98.0%" in up
    assert "price clean accuracy" in up  # which the lecture says
    assert "clean accuracy stays at 95.0%" in _said("attack-lecture", _clean(0.95, 0.95))


def test_hidden_data_are_held_against_knowing_the_model():
    def change(topics):
        for one, rate in zip(topics["hidden-data"]["known"], (0.8, 0.4, 0.2), strict=True):
            one["fooled"] = rate

    said = _said("attack-lecture", change)
    assert "other weights on the same data give 0.50 of it, and none of its data 0.25 of it" in said


def test_the_best_and_the_worst_substitute_are_shown_with_their_noise():
    def change(topics):
        found = topics["hidden-model"]["found"]
        for one in found["substitutes"]:
            same = one["name"] == found["matrix"]["names"][0]
            for attack in one["attacks"]:
                attack["transfer"], attack["noise"] = (0.1, 0.3) if same else (0.9, 0.2)

    summary = _said("attack-lecture", change).partition("## A photograph")[0]
    assert "of another architecture, pgd: 90.0%, noise of the same size 20.0%" in summary
    assert "the worst (small_cnn, of the hidden model's architecture" in summary
    assert ": 10.0%, noise of the same size 30.0%" in summary


def _printed(rates, **more):
    """Rates of all methods in every variant, or in the variants named."""

    def change(topics):
        for found in (topics["destruction"]["photographs"], topics["destruction"]["data"]):
            for method, rate in zip(found["methods"], rates, strict=True):
                method["rates"]["print, photograph"] = rate
                method["common"] = more.get("common", dict)().get(method["name"], rate)
                method["first_success"]["rate"] = more.get("first", dict)().get(
                    method["name"], rate
                )
                method["strengths"] = dict.fromkeys(method["strengths"], rate)

    return change


def test_the_order_of_destruction_is_said_as_it_was_found():
    as_published = _said("adversarial-lecture", _printed((0.0, 0.5, 1.0)))
    assert "On photographs the order of the methods is that of the paper." in as_published
    assert "On digits the order of the methods is that of the paper." in as_published
    assert "reverse" not in as_published
    turned = _said("adversarial-lecture", _printed((1.0, 0.5, 0.0)))
    assert "On photographs the order of the methods is not that of the paper" in turned
    assert "it stays reversed in everything that was tried" in turned
    first = {"fast": 0.1, "basic iterative": 0.5, "least likely": 0.9}
    mended = _said("adversarial-lecture", _printed((1.0, 0.5, 0.0), first=lambda: first))
    assert "it is the paper's where each attack stops at its goal" in mended
    assert "it stays reversed" not in mended


def test_no_single_change_is_named_where_none_takes_back_any():
    def change(topics):
        fast = topics["destruction"]["photographs"]["methods"][0]
        fast["rates"] = {
            name: rate if name == "print, photograph" else 0.0
            for name, rate in fast["rates"].items()
        }

    assert "takes back most: of fast none takes any back," in _said("adversarial-lecture", change)


def test_a_method_that_fooled_on_nothing_takes_nothing_back():
    def change(topics):
        fast = topics["destruction"]["photographs"]["methods"][0]
        fast["rates"] = dict.fromkeys(fast["rates"])

    said = _said("adversarial-lecture", change)
    assert "takes back most: of basic iterative" in said
    assert "of fast none" not in said


def test_destruction_like_the_published_needs_no_reason():
    said = _said("adversarial-lecture", _printed((0.125, 0.404, 0.722)))
    assert "No rate is more than 2.0 points from the published one." in said


def test_the_worked_example_is_the_lectures_only_where_it_is():
    assert "the same to two digits" in _said("adversarial-lecture", lambda topics: None)

    def change(topics):
        topics["example"]["probability"] = [0.5, 0.5]

    said = _said("adversarial-lecture", change)
    assert "from 50.00% to 50.00%; the lecture has 0.0474, 0.88, not the same" in said


def test_a_source_whose_attack_failed_says_nothing_of_transfer():
    failed = "attack failed on its own model: not a transfer figure"

    def weak(topics):
        matrix = topics["other-models"]["matrix"]
        place = matrix["names"].index("mnist_dense")
        matrix["rate"][place][place] = 0.1

    def strong(topics):
        matrix = topics["other-models"]["matrix"]
        for place in range(len(matrix["names"])):
            matrix["rate"][place][place] = 0.9

    said = _said("adversarial-lecture", weak)
    assert failed in said
    assert "On mnist_dense the attack failed on its own model" in said
    said = _said("adversarial-lecture", strong)
    assert failed not in said
    assert "Every attack fooled at least 50% of its own model's images." in said


def test_confidence_is_explained_by_training_only_where_it_reaches_the_published():
    def change(low, high):
        def changed(topics):
            for place, one in enumerate(topics["linear"]["trainings"]):
                one["confidence"] = (low, high)[place % 2]

        return changed

    def linear(low, high):
        page = _said("adversarial-lecture", change(low, high))
        return page.partition("\n## Linear image")[2].partition("\n## ")[0]

    around = linear(0.5, 0.99)
    assert "lies between, so that the length of training is enough" in around
    assert "lies outside" not in around
    assert "lies outside" in linear(0.1, 0.2)


def test_more_generations_are_said_to_do_what_they_did():
    def change(topics):
        for one in topics["nothing"]["methods"]:
            one["fooled"] = one["classes"]

    said = _said("adversarial-lecture", change)
    assert "Classes are left" not in said
    assert "from 10 to 10 of 10 classes" in said


def test_the_model_is_the_reason_only_where_others_are_fooled_and_map_elites_does_not_help():
    def change(elites, elsewhere):
        def changed(topics):
            found = topics["nothing"]
            for one in found["methods"]:
                one["fooled"] = 2
                if one["name"] == "evolution, direct, MAP-Elites":
                    one["fooled"] = elites
            for one in found["elsewhere"].values():
                one["fooled"] = elsewhere

        return changed

    reason = "it hangs on the model that is to be fooled"
    assert reason in _said("adversarial-lecture", change(1, 10))
    assert reason in _said("adversarial-lecture", change(2, 10))
    assert reason not in _said("adversarial-lecture", change(9, 10))
    assert reason not in _said("adversarial-lecture", change(10, 10))
    said = _said("adversarial-lecture", change(1, 9))
    assert reason not in said
    assert "No other model that was tried is fooled in every class" in said


def test_the_mixture_may_help_or_harm():
    def change(before, after):
        def changed(topics):
            topics["published-mixture"]["error under FGSM"] = [before, after]

        return changed

    assert "The error under FGSM fell by 40.0 points" in _said(
        "adversarial-lecture", change(0.6, 0.2)
    )
    assert "The error under FGSM rose by 40.0 points" in _said(
        "adversarial-lecture", change(0.2, 0.6)
    )


def test_defenses_are_flattered_only_by_what_the_images_can_tell():
    def change(gap):
        def changed(topics):
            for one in topics["failed-defenses"]["found"]["defenses"]:
                one["plain"], one["adaptive"] = 0.3 + gap, 0.3

        return changed

    assert "no defense is flattered by the plain attack by more than" in _said(
        "adversarial-lecture", change(0.05)
    )
    said = _said("adversarial-lecture", change(0.5))
    assert "the plain attack flatters" in said
    assert "look stronger than they are by more than" in said


def test_plain_descent_is_said_to_be_worse_only_where_it_is():
    def change(reached, kept):
        def changed(found):
            for one in found["networks"].values():
                for start in one["targeted_literal"].values():
                    start["reached"] = reached
                for kind in ("targeted", "targeted_sure"):
                    one[kind]["reached"], one[kind]["kept"] = 0.5, kept

        return changed

    worse = _said("mnist-adversarial", change(0.1, 0.5))
    assert "fewer than `fooling_lookalike` (50.0% at least)" in worse
    assert "are still there after rounding to 8 bits" in worse
    better = _said("mnist-adversarial", change(0.9, 0.0))
    assert "fewer than" not in better
    assert "loses 180" in better
