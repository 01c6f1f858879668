"""The studies of distillation in their quick forms, and what they compute from their figures."""

import json

import pytest
import torch

from deitsec.attacks import JSMA
from deitsec.models import wrap
from deitsec.studies import page_of, reproduce, study
from deitsec.studies.defensive_distillation import Cooled, Options, Probabilities


def _linear():
    """The same weights whatever was imported before."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))


LINEAR = _linear()


@pytest.fixture(scope="module")
def defensive(tmp_path_factory):
    out = tmp_path_factory.mktemp("defensive")
    options = {
        "samples": 10,
        "strong_samples": 10,
        "gradient_samples": 10,
        "epochs": 4,
        "features": 20,
    }
    return reproduce("defensive-distillation", quick=True, out=out, options=options), out


def test_the_quick_form_measures_what_the_whole_one_does(defensive):
    found, out = defensive
    networks = found["found"]["networks"]
    assert [one["name"] for one in networks] == ["undistilled", "20"]
    for one in networks:
        assert set(one) >= {"clean", "gradients", "jsma", "jsma_cooled", "pgd", "apgd_dlr", "cw"}
        assert sum(one["gradients"]["bins"]) == pytest.approx(1)
        assert one["jsma"]["rows"] == 90
        assert one["jsma"]["limit"] == 20
    assert networks[0]["jsma"] == networks[0]["jsma_cooled"]  # at T = 1 nothing is cooled
    page = (out / "defensive-distillation.md").read_text()
    for name in ("success", "robustness", "gradients"):
        assert (out / "defensive-distillation" / f"{name}.png").stat().st_size < 300_000
    assert "T = 20" in page
    assert page_of(found)[0] == page


def _changed(document, **changes):
    """The document with other figures of its distilled network."""
    changed = json.loads(json.dumps(document))
    for path, value in changes.items():
        attack, key = path.split("__")
        changed["found"]["networks"][1][attack][key] = value
    return changed


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        (
            {"jsma__success": 0.0, "jsma_cooled__success": 0.9, "apgd_dlr__accuracy": 0.0},
            "At T = 20 the defense hides gradients and does not make the network robust.",
        ),
        (
            {"jsma__success": 0.0, "jsma_cooled__success": 0.9, "apgd_dlr__accuracy": 0.95},
            "At T = 20 the defense hides gradients, and beyond that the network withstands more.",
        ),
        (
            {"jsma__success": 0.5, "jsma_cooled__success": 0.5, "apgd_dlr__accuracy": 0.95},
            "At T = 20 the network withstands more, and no gradient was found hidden.",
        ),
        (
            {"jsma__success": 0.5, "jsma_cooled__success": 0.5, "apgd_dlr__accuracy": 0.0},
            "In this run the defense neither hid gradients nor made a network robust.",
        ),
    ],
)
def test_the_verdict_hangs_on_the_figures(defensive, changes, verdict):
    document = _changed(defensive[0], **changes, cw__median_l2=1.0)
    document["found"]["networks"][0]["cw"]["median_l2"] = 1.0
    document["found"]["networks"][0]["apgd_dlr"]["accuracy"] = 0.0
    assert verdict in page_of(document)[0]


def test_other_data_is_not_held_against_the_published(defensive):
    assert "Nothing was published for this network on this data." in page_of(defensive[0])[0]


def test_robustness_counts_a_failure_as_the_limit(defensive):
    jsma = defensive[0]["found"]["networks"][0]["jsma"]
    reached = jsma["mean_share_reached"] or 0.0
    success = jsma["success"]
    limit = jsma["limit"] / (32 * 32)
    assert jsma["mean_share"] == pytest.approx(success * reached + (1 - success) * limit)
    assert jsma["robustness"] <= jsma["mean_share"]


def test_what_the_attacker_sees():
    model = wrap(LINEAR, mean=0.0, std=1.0, num_classes=3, in_chans=1)
    images = torch.rand(5, 1, 4, 4)
    logits = model(images)
    torch.testing.assert_close(Probabilities(model)(images), logits.softmax(1))
    torch.testing.assert_close(Cooled(model, 4.0)(images), logits / 4)


def test_saturated_probabilities_stop_jsma_and_cooled_ones_do_not():
    """The paper's effect, made by hand: logits of a linear network, 1000 times as large."""
    model = wrap(LINEAR, mean=0.0, std=1.0, num_classes=3, in_chans=1)
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = model(images).argmax(1)
    targets = (labels + 1) % 3

    class Hot(torch.nn.Module):
        def forward(self, x):
            return 2000 * model(x)

    from deitsec.engine import run

    attack = JSMA(gamma=1.0)
    plain = run(attack, Probabilities(model), images, labels, targets)
    hot = run(attack, Probabilities(Hot()), images, labels, targets)
    cooled = run(attack, Probabilities(Cooled(Hot(), 2000.0)), images, labels, targets)
    assert plain.success.any()
    torch.testing.assert_close(cooled.adv, plain.adv)
    assert hot.success.sum() < plain.success.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperatures": ()}, "temperatures must name at least one"),
        ({"temperatures": (0.0,)}, "temperatures must be > 0 and finite, got 0"),
        ({"temperatures": (5.0, 5.0)}, "temperatures must differ"),
        ({"features": 0}, "features must be >= 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_a_deit_learns_from_each_teacher(tmp_path):
    options = {"epochs": 1, "per_class": 1, "strongest": "fgsm"}
    found = reproduce("deit-distillation", quick=True, out=tmp_path, options=options)
    names = [one["name"] for one in found["found"]["networks"]]
    students = ["scratch", "soft", "hard", "soft-robust", "robust", "adversarial"]
    assert names == ["teacher", "robust-teacher", *students]
    for one in found["found"]["networks"]:
        assert one["strongest"] == {**one["fgsm"], "seconds": one["strongest"]["seconds"]}
    assert page_of(found)[0] == (tmp_path / "deit-distillation.md").read_text()


def test_options_of_the_deit_study_are_checked():
    made = study("deit-distillation").options
    for options, message in (
        ({"per_class": 0}, "per_class must be >= 1"),
        ({"epochs": 0}, "epochs must be >= 1"),
        ({"alpha": 2.0}, "alpha must be in"),
        ({"strongest": "pgdd"}, "did you mean 'pgd'"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**options)


def _as_published(document):
    """The document as if its network and data were the paper's."""
    changed = json.loads(json.dumps(document))
    changed["found"]["network"], changed["data"]["name"] = "papernot_mnist", "mnist"
    base, last = changed["found"]["networks"][0], changed["found"]["networks"][-1]
    base["clean"]["accuracy"] = last["clean"]["accuracy"] = 0.9951
    base["jsma"] |= {"success": 0.9589, "robustness": 0.0155}
    last["jsma"] |= {"success": 0.0045, "robustness": 0.1408}
    return changed


def test_figures_near_the_published_need_no_reason(defensive):
    page = page_of(_as_published(defensive[0]))[0]
    assert "No accuracy, success or robustness is more than 2 points from the published" in page
    assert "(the published two give +808%)" in page
    assert "| gain of robustness | +790% | +808% |" in page


@pytest.mark.parametrize(
    ("control", "words"),
    [
        (0.95, "That leaves 0.9 points; the others come from how the network was trained."),
        (0.60, "no nearer to the published figure, so its reason was not found"),
    ],
)
def test_the_reason_for_a_far_success_hangs_on_the_control(defensive, control, words):
    document = _as_published(defensive[0])
    document["found"]["networks"][0]["jsma"]["success"] = 0.80
    document["found"]["control"]["jsma"]["success"] = control
    page = page_of(document)[0]
    assert "| JSMA success, undistilled | 95.89% | 80.00% | -15.89 |" in page
    assert words in page


def test_a_far_accuracy_is_laid_to_training_or_to_images(defensive):
    document = _as_published(defensive[0])
    document["found"]["networks"][0]["clean"]["accuracy"] = 0.6
    for seen, words in ((0.95, "between images seen and unseen"), (0.65, "that it has seen")):
        document["found"]["seen"]["accuracy"] = seen
        assert f"the larger part of the gap is {words}" in page_of(document)[0].replace(
            "there on images ", ""
        )


def test_temperatures_that_were_not_run_are_named(defensive):
    page = page_of(defensive[0])[0]
    assert "Of the paper's temperatures 1, 2, 5, 10, 30, 40, 50, 100 were not run." in page


def test_a_large_variation_is_laid_to_the_teacher_or_to_the_student(defensive):
    document = _as_published(defensive[0])
    found = document["found"]
    found["networks"][-1]["clean"]["accuracy"] = 0.5
    found["seen"]["accuracy"] = 0.9
    for seen, words in ((0.6, "as many steps learn less"), (0.9, "the student learns from")):
        found["last_teacher"]["seen"]["accuracy"] = seen
        assert words in page_of(document)[0]
