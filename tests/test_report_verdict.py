"""The verdict and the sanity checks of a report, at their thresholds."""

import numpy as np
import pytest
from report_for_tests import build_document

from deitsec.report import judge, sanity_checks


@pytest.fixture(scope="module")
def document():
    return build_document()


def _judge(document, robust, **changed):
    worst_case = document["worst_case"] | {"robust_accuracy": robust}
    pieces = {key: document[key] for key in ("clean", "attacks", "data")} | changed
    return judge(worst_case=worst_case, **pieces)


@pytest.mark.parametrize(
    ("robust", "level"),
    [
        (0.0, "broken"),
        (0.0999, "broken"),
        (0.10, "weak"),
        (0.3999, "weak"),
        (0.40, "moderate"),
        (0.6999, "moderate"),
        (0.70, "strong in this test"),
        (1.0, "strong in this test"),
    ],
)
def test_level_goes_by_worst_case_robust_accuracy(document, robust, level):
    verdict = _judge(document, robust)
    assert verdict["level"] == level
    assert f"{100 * robust:.1f}%" in verdict["headline"]


def test_verdict_names_sizes_and_never_more_than_was_tested(document):
    text = " ".join(_judge(document, 0.9)["sentences"])
    assert "at most 8 grey levels of 255 on any pixel" in text
    assert "cw with no limit on the change" in text
    assert "no proof of safety" in text
    assert "300 images" in text


@pytest.mark.parametrize(("number", "words"), [(1, "1 patch"), (4, "4 patches")])
def test_an_attack_on_patches_is_limited_by_their_number(document, number, words):
    on_patches = document["attacks"][0] | {
        "name": "patch",
        "spec": "patch",
        "norm": "l0",
        "eps": None,
        "patches": number,
    }
    worst = {"attacks": ["patch"], "robust_accuracy": 0.5}
    changed = document | {"attacks": [on_patches], "worst_case": worst}
    verdict = _judge(changed, 0.5)
    assert verdict["level"] == "moderate"
    assert f"any change of at most {words}" in " ".join(verdict["sentences"])
    assert "no limit" not in " ".join(verdict["sentences"])


def test_verdict_gives_wilsons_interval(document):
    text = " ".join(_judge(document, 0.5)["sentences"])
    assert "between 44.4% and 55.6%" in text  # 150 of 300


def test_verdict_of_a_guessing_model_is_broken_however_robust(document):
    at_chance = {"rows": 300, "accuracy": 0.1, "confusion": np.full((10, 10), 3).tolist()}
    verdict = _judge(document, 0.8, clean=at_chance)
    assert verdict["level"] == "broken"
    assert "no better than guessing" in verdict["headline"]


def test_verdict_tells_of_checks_gate_and_targets(document):
    aimed = document["attacks"][1] | {"goal": "targeted", "success_rate": 0.75}
    verdict = _judge(
        document,
        0.5,
        attacks=[document["attacks"][0], aimed],
        checks=[{"name": "large-eps-breaks", "status": "warn", "evidence": ""}],
        gate={"min_robust_accuracy": 0.6, "robust_accuracy": 0.5, "passed": False},
    )
    text = " ".join(verdict["sentences"])
    assert "pgd reached it in 75.0%" in text
    assert "1 sanity check did not pass (large-eps-breaks)" in text
    assert "fails the gate: a robust accuracy of at least 60.0%" in text


def test_verdict_without_an_attack_is_refused(document):
    with pytest.raises(ValueError, match="at least one of the attacks"):
        _judge(document, 0.5, attacks=[])


def _status(document, name, *, clean=None, attacks=None, sweeps=None):
    made = sanity_checks(
        clean=clean or document["clean"],
        attacks=document["attacks"] if attacks is None else attacks,
        sweeps=document["sweeps"] if sweeps is None else sweeps,
    )
    found = {check["name"]: (check["status"], check["evidence"]) for check in made}
    return found.get(name)


def _sweep(*robust, attack="pgd"):
    points = [{"eps": (k + 1) / 255, "robust_accuracy": r} for k, r in enumerate(robust)]
    return [{"attack": attack, "points": points[::-1]}]


def test_a_sound_run_passes_every_check(document):
    assert {check["status"] for check in document["checks"]} == {"pass"}
    assert len(document["checks"]) == 7


@pytest.mark.parametrize(
    ("fgsm", "pgd", "expected"),
    [(0.30, 0.32, "warn"), (0.30, 0.305, "pass"), (0.30, 0.10, "pass")],
)
def test_one_step_that_beats_many_warns(document, fgsm, pgd, expected):
    attacks = [
        document["attacks"][0] | {"robust_accuracy": fgsm},
        document["attacks"][1] | {"robust_accuracy": pgd},
    ]
    status, evidence = _status(document, "iterative-beats-one-step", attacks=attacks)
    assert status == expected
    assert f"{100 * fgsm:.1f}%" in evidence


@pytest.mark.parametrize(
    "change", [{"eps": 4 / 255}, {"norm": "l2"}, {"goal": "targeted"}, {"name": "square"}]
)
def test_attacks_that_cannot_be_compared_are_not(document, change):
    attacks = [document["attacks"][0], document["attacks"][1] | change]
    assert _status(document, "iterative-beats-one-step", attacks=attacks) is None


@pytest.mark.parametrize(
    ("robust", "expected"),
    [((0.5, 0.3, 0.02), "pass"), ((0.5, 0.505, 0.02), "pass"), ((0.3, 0.32, 0.02), "warn")],
)
def test_accuracy_that_rises_with_eps_warns(document, robust, expected):
    status, evidence = _status(document, "accuracy-falls-with-eps", sweeps=_sweep(*robust))
    assert status == expected
    assert ("from 30.0% at eps 1/255 to 32.0% at 2/255" in evidence) == (expected == "warn")


@pytest.mark.parametrize(("last", "expected"), [(0.0999, "pass"), (0.10, "warn"), (0.6, "warn")])
def test_a_sweep_that_never_breaks_the_model_warns(document, last, expected):
    status, evidence = _status(document, "large-eps-breaks", sweeps=_sweep(0.9, 0.7, last))
    assert status == expected
    assert "3/255" in evidence


def test_one_sweep_that_breaks_the_model_is_enough(document):
    sweeps = _sweep(0.9, 0.5, attack="fgsm") + _sweep(0.9, 0.01)
    assert _status(document, "large-eps-breaks", sweeps=sweeps)[0] == "pass"


@pytest.mark.parametrize(
    ("right", "wrong", "expected"), [(30, 0, "pass"), (3, 3, "fail"), (4, 26 / 9, "fail")]
)
def test_clean_accuracy_at_chance_fails(document, right, wrong, expected):
    confusion = np.full((10, 10), wrong)
    np.fill_diagonal(confusion, right)
    rows = round(confusion.sum())
    clean = {"rows": rows, "accuracy": 10 * right / rows, "confusion": confusion.tolist()}
    assert _status(document, "clean-above-chance", clean=clean)[0] == expected


def test_chance_on_unbalanced_data_is_the_commonest_class(document):
    always_first = {"rows": 100, "accuracy": 0.9, "confusion": [[90, 0], [10, 0]]}
    status, evidence = _status(document, "clean-above-chance", clean=always_first)
    assert status == "fail"
    assert "chance is 90.0%" in evidence


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("finite-gradients", {"non_finite": 3}, "warn"),
        ("finite-gradients", {"non_finite": 0}, "pass"),
        ("gradients-drive", {"zero_gradients": 30}, "warn"),
        ("gradients-drive", {"zero_gradients": 0}, "pass"),
        ("survives-8-bit", {"lost_in_rounding": 0.011}, "warn"),
        ("survives-8-bit", {"lost_in_rounding": 0.010}, "pass"),
        ("survives-8-bit", {"lost_in_rounding": None}, None),
    ],
)
def test_checks_of_single_attacks(document, name, change, expected):
    found = _status(document, name, attacks=[document["attacks"][1] | change])
    assert (found and found[0]) == expected


def test_checks_without_figures_are_left_out(document):
    assert [
        check["name"] for check in sanity_checks(clean=document["clean"], attacks=[], sweeps=[])
    ] == ["clean-above-chance"]
