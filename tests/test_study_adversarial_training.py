"""The study of adversarial training, in its quick form; and its learning curves."""

import pytest

from deitsec.report.learning_curves import draw_learning_curves, learning_curves
from deitsec.studies import page_of, reproduce
from deitsec.studies.adversarial_training import Options
from deitsec.studies.adversarial_training_page import render


@pytest.mark.slow
def test_the_quick_form_measures_each_method_by_every_attack(tmp_path):
    document = reproduce("adversarial-training", quick=True, out=tmp_path)
    methods = document["found"]["methods"]
    assert [entry["method"] for entry in methods] == ["undefended", "pgd", "fast"]
    for entry in methods:
        assert entry["strong"] <= entry["pgd"] <= entry["clean_attacked"]
        assert entry["strong"] <= entry["fgsm"] <= entry["clean_attacked"]
        history = entry["training"]["history"]
        assert len(history) == 1
        assert "test_robust_accuracy" in history[0]["measured"]  # the undefended's curve too
    markdown, figures = page_of(document)
    assert "fast, epoch 1" in markdown
    assert list(figures) == ["learning-curves"]


def entry(method, clean, fgsm, pgd, strong, *notes):
    records = [
        {
            "epoch": epoch, "note": note, "validation_accuracy": 0.5,
            "measured": {"validation_fgsm_accuracy": 0.6},
        }
        for epoch, note in enumerate(notes, start=1)
    ]  # fmt: skip
    kept = {"history": records, "best_epoch": 1, "seconds_per_epoch": 1.0} if notes else {}
    accuracies = {"clean": clean, "fgsm": fgsm, "pgd": pgd, "strong": strong}
    return {"method": method, "training": kept, **accuracies}


def page(*entries):
    undefended = entry("undefended", 1.0, 0.2, 0.0, 0.0)
    found = {
        "rows": 10, "model": "small_cnn", "eps": 0.1, "strong": "reliable",
        "methods": [undefended, *entries],
    }  # fmt: skip
    return render({"found": found, "options": {"steps": 20}}).markdown


def test_the_page_names_all_that_tie_by_their_least_and_what_withstands_one_step_alone():
    said = page(
        entry("mixture", 0.9, 0.96, 0.0, 0.0),
        entry("pgd", 0.9, 0.7, 0.6, 0.5),
        entry("trades", 0.8, 0.5, 0.6, 0.55),  # FGSM was the strongest
    )
    assert "the best methods are pgd and trades with 50.0%" in said
    assert "mixture withstands one step and little else: 96.0% under FGSM, 0.0% under PGD" in said
    assert "PGD alone flatters" in said
    assert "flatters" not in page(entry("pgd", 0.9, 0.7, 0.5, 0.5))


def test_what_learnt_nothing_is_never_the_best():
    said = page(entry("mixture", 0.9, 0.3, 0.02, 0.01), entry("pgd", 0.113, 0.1, 0.1, 0.1))
    assert "the best method is mixture with 1.0%" in said
    assert "pgd learnt next to nothing at this radius: 11.3% of the clean images" in said
    assert "the best method is pgd with 20.0%" in page(entry("pgd", 0.3, 0.25, 0.2, 0.2))
    neither = page(entry("pgd", 0.113, 0.1, 0.1, 0.1))
    assert "no method learnt to classify" in neither
    assert "the best method" not in neither


def test_the_page_says_that_the_detector_never_fired_where_it_did_not():
    never = "The detector never ended a run here."
    assert never in page(entry("fast", 0.9, 0.5, 0.5, 0.5, None, None))
    assert never not in page(entry("fast", 0.9, 0.5, 0.5, 0.5, None, "catastrophic overfitting"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("pgd", "fgsm")}, r"methods must be of mixture, .*, got \['fgsm'\]"),
        ({"methods": ()}, "got none"),
        ({"eps": -0.1}, r"eps must be in \[0, 1\]"),
        ({"strong": "pgd"}, "strong must be reliable or autoattack"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"curve_rows": 0}, "curve_rows must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def history(*points):
    names = ("train_accuracy", "test_accuracy", "train_robust_accuracy", "test_robust_accuracy")
    return [
        {"epoch": epoch, "note": None, "measured": dict(zip(names, values, strict=True))}
        for epoch, values in points
    ]


def test_learning_curves_draw_what_was_measured():
    runs = history((2, (0.9, 0.8, 0.5, 0.4)), (4, (1.0, 0.9, 0.7, 0.6)))
    runs.insert(0, {"epoch": 1, "note": None, "measured": {}})
    figure = learning_curves(runs, runs, titles=("one", "two"))
    axis = figure.axes[0]
    assert axis.get_title() == "one"
    drawn = {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines
    }
    assert drawn["training, clean"] == ([2, 4], [0.9, 1.0])
    assert drawn["test, clean"] == ([2, 4], [0.8, 0.9])
    assert drawn["training, attacked"] == ([2, 4], [0.5, 0.7])
    assert drawn["test, attacked"] == ([2, 4], [0.4, 0.6])
    assert draw_learning_curves(runs).startswith(b"\x89PNG")


def test_learning_curves_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no learning curve was measured"):
        learning_curves([{"epoch": 1, "note": None, "measured": {}}])
    with pytest.raises(ValueError, match="titles must be 1"):
        learning_curves(history((1, (1, 1, 1, 1))), titles=("a", "b"))
