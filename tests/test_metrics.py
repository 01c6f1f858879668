"""The metrics against scikit-learn and against cases worked by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from deitsec.metrics import classification_metrics, distance_summary, per_class_vulnerability


def _draw(seed: int, num_classes: int, rows: int, *, absent: int | None = None):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, rows)
    noise = rng.integers(0, num_classes, rows)
    predictions = np.where(rng.random(rows) < 0.6, labels, noise)
    if absent is not None:
        kept = (labels != absent) & (predictions != absent)
        labels, predictions = labels[kept], predictions[kept]
    return torch.from_numpy(predictions), torch.from_numpy(labels)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("absent", [None, 1])
@pytest.mark.parametrize(("num_classes", "rows"), [(2, 50), (10, 997), (100, 3000)])
def test_classification_agrees_with_scikit_learn(num_classes, rows, absent, dtype):
    predictions, labels = _draw(num_classes, num_classes, rows, absent=absent)
    ours = classification_metrics(predictions.to(dtype), labels.to(dtype), num_classes)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=0
    )
    assert ours.rows == len(labels)
    assert ours.accuracy == sk.accuracy_score(labels, predictions)
    assert (ours.precision, ours.recall, ours.f1) == pytest.approx(
        (precision, recall, f1), abs=6e-7
    )
    expected = sk.confusion_matrix(labels, predictions, labels=range(num_classes))
    assert ours.confusion == expected.tolist()


def test_class_that_is_predicted_but_never_true_counts_as_zero():
    predictions, labels = torch.tensor([0, 2, 1, 1]), torch.tensor([0, 0, 1, 1])
    ours = classification_metrics(predictions, labels, 4)
    # class 0: P 1, R 1/2, F1 2/3; class 1: all 1; class 2: all 0; class 3 does not occur
    assert ours.precision == pytest.approx(2 / 3, abs=1e-6)
    assert ours.recall == pytest.approx(0.5, abs=1e-6)
    assert ours.f1 == pytest.approx(5 / 9, abs=1e-6)
    assert ours.accuracy == 0.75
    assert ours.confusion == [[1, 0, 1, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_confusion_rows_are_true_labels():
    ours = classification_metrics(torch.tensor([1, 1, 1]), torch.tensor([0, 0, 1]), 2)
    assert ours.confusion == [[0, 2], [0, 1]]


def test_recall_equals_accuracy_on_balanced_data():
    labels = torch.arange(10).repeat_interleave(100)
    predictions = torch.where(torch.arange(1000) % 100 < 94, labels, (labels + 1) % 10)
    ours = classification_metrics(predictions, labels, 10)
    assert ours.accuracy == 0.94
    assert ours.recall == 0.94


def test_mean_confidence_is_the_mean_and_is_none_when_not_given():
    classes = torch.tensor([0, 1, 1])
    assert classification_metrics(classes, classes, 2).mean_confidence is None
    given = classification_metrics(classes, classes, 2, torch.tensor([0.5, 1.0, 0.75]))
    assert given.mean_confidence == 0.75


def test_arguments_are_left_as_they_were():
    predictions, labels = _draw(3, 5, 40)
    before = predictions.clone(), labels.clone()
    classification_metrics(predictions, labels, 5)
    per_class_vulnerability(labels, predictions, predictions, list("abcde"))
    assert torch.equal(predictions, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize(
    ("predictions", "labels", "num_classes", "message"),
    [
        ([], [], 3, "at least one row"),
        ([0, 1], [0], 3, "as many rows"),
        ([3], [0], 3, r"predictions must hold classes in \[0, 3\)"),
        ([0], [-1], 3, r"labels must hold classes in \[0, 3\)"),
        ([0], [0], 1, "at least 2, got 1"),
        ([[0]], [[0]], 3, r"shape \(N,\)"),
    ],
)
def test_classification_refuses_what_it_cannot_measure(predictions, labels, num_classes, message):
    given = [torch.tensor(values, dtype=torch.int64) for values in (predictions, labels)]
    with pytest.raises(ValueError, match=message):
        classification_metrics(*given, num_classes)


def test_logits_are_refused():
    with pytest.raises(ValueError, match="integer class numbers"):
        classification_metrics(torch.zeros(3), torch.zeros(3, dtype=torch.int64), 2)


def test_confidences_of_another_length_are_refused():
    classes = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="confidences must have shape"):
        classification_metrics(classes, classes, 2, torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_distance_summary_by_hand(dtype):
    values = torch.tensor([4.0, 1.0, 2.0, 9.0], dtype=dtype)
    assert distance_summary(values) == {"mean": 4.0, "median": 3.0, "max": 9.0}
    assert distance_summary(values[:3])["median"] == 2.0


def test_distance_summary_accumulates_in_double():
    values = torch.full((100_000,), 0.1, dtype=torch.float32)
    assert distance_summary(values)["mean"] == pytest.approx(float(values[0]), rel=1e-12)


def test_distance_summary_does_not_hide_nan():
    summary = distance_summary(torch.tensor([1.0, math.nan, 2.0]))
    assert all(math.isnan(value) for value in summary.values())


@pytest.mark.parametrize(
    ("values", "message"), [([], "at least one row"), ([[1.0]], r"shape \(N,\)")]
)
def test_distance_summary_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        distance_summary(torch.tensor(values))


def test_per_class_vulnerability_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 3])
    clean = torch.tensor([0, 0, 0, 1, 1, 1, 3])
    adv = torch.tensor([0, 1, 1, 0, 1, 1, 2])  # row 3: the attack mended a mistake
    rows = per_class_vulnerability(labels, clean, adv, ["cat", "dog", "eel", "fox"])
    assert rows[0] == {
        "label": 0,
        "name": "cat",
        "rows": 4,
        "clean_accuracy": 0.75,
        "robust_accuracy": 0.25,
        "most_confused_with": "dog",
        "share": 0.5,
    }
    assert (rows[1]["robust_accuracy"], rows[1]["most_confused_with"]) == (1.0, None)
    assert rows[1]["share"] == 0.0
    absent = rows[2]
    assert (absent["rows"], absent["clean_accuracy"], absent["robust_accuracy"]) == (0, None, None)
    assert (absent["most_confused_with"], absent["share"]) == (None, 0.0)
    assert (rows[3]["most_confused_with"], rows[3]["share"]) == ("eel", 1.0)


def test_a_tie_for_the_confusion_goes_to_the_lowest_class():
    labels = torch.tensor([2, 2])
    rows = per_class_vulnerability(labels, labels, torch.tensor([1, 0]), ["a", "b", "c"])
    assert (rows[2]["most_confused_with"], rows[2]["share"]) == ("a", 0.5)


def test_per_class_shares_add_up_to_the_whole():
    clean, labels = _draw(8, 7, 500)
    adv, _ = _draw(9, 7, 500)
    rows = per_class_vulnerability(labels, clean, adv, [str(k) for k in range(7)])
    robust = ((clean == labels) & (adv == labels)).sum().item()
    assert sum(row["rows"] for row in rows) == 500
    assert sum(row["rows"] * row["robust_accuracy"] for row in rows) == pytest.approx(robust)


def test_per_class_refuses_no_rows_and_unknown_classes():
    empty, one = torch.tensor([], dtype=torch.int64), torch.tensor([1])
    with pytest.raises(ValueError, match="at least one row"):
        per_class_vulnerability(empty, empty, empty, ["a", "b"])
    with pytest.raises(ValueError, match="adv_predictions must hold classes"):
        per_class_vulnerability(one, one, one + 1, ["a", "b"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_metrics_on_cuda_equal_those_on_cpu():
    predictions, labels = _draw(1, 10, 400)
    on_cpu = classification_metrics(predictions, labels, 10)
    assert classification_metrics(predictions.cuda(), labels.cuda(), 10) == on_cpu
    names = [str(k) for k in range(10)]
    expected = per_class_vulnerability(labels, labels, predictions, names)
    on_gpu = [tensor.cuda() for tensor in (labels, labels, predictions)]
    assert per_class_vulnerability(*on_gpu, names) == expected
