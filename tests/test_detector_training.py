"""A detector trained for a classifier of digits: judged, attacked, written and read."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from training_for_tests import (
    Unreadable,
    assert_same_weights,
    digits,
    few_digits,
    relabelled,
    weights,
)

from deitsec.attacks import APGD, FGSM, PGD, PGDL2
from deitsec.cli import main
from deitsec.data import to_float
from deitsec.defenses.detector import RejectingClassifier
from deitsec.defenses.detector_checkpoint import load_detector, save_detector
from deitsec.defenses.detector_evaluation import evaluate_detector
from deitsec.defenses.detector_images import fool, look
from deitsec.defenses.detector_training import DetectorConfig, train_detector
from deitsec.models import CheckpointError, ScoresOnly, build_own, save_checkpoint
from deitsec.training import FitConfig, fit
from deitsec.verification.protocol import choose_rows
from deitsec.verification.suite import suite_eps

EPS = 26 / 255  # the suite's on digits
NO_LABELS = torch.full((200,), -1)
SEEN = (FGSM(eps=EPS), PGD(eps=EPS))
CONFIG = DetectorConfig(
    fit=FitConfig(epochs=8, batch_size=32, lr=4e-3, validation=0.0, threads=1), rows=400
)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = build_own("small_cnn", in_chans=1, image_size=8, width=8)
    fit(model, digits(), FitConfig(epochs=8, batch_size=32, lr=5e-3, validation=0.0, threads=1))
    return model.eval()


@pytest.fixture(scope="module")
def trained(classifier):
    source = dataclasses.replace(digits(), test=Unreadable(digits().test))
    before = weights(classifier)
    found = train_detector(classifier, source, SEEN, CONFIG)
    assert_same_weights(weights(classifier), before)
    assert not any(module.training for module in classifier.modules())
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    return found


def test_it_tells_seen_and_unseen_attacks_and_falls_to_one_who_knows_it(classifier, trained):
    assert suite_eps(digits()) == EPS
    report = evaluate_detector(
        RejectingClassifier(classifier, trained.detector),
        digits(),
        choose_rows(digits(), 6),
        seen=SEEN,
        unseen=[PGDL2(eps=1.0)],
        adaptive=[APGD(eps=EPS, steps=60)],
    )
    fgsm, pgd, unseen, adaptive = report.detections
    assert [found.kind for found in report.detections] == ["seen", "seen", "unseen", "adaptive"]
    assert fgsm.fooled >= 0.5 * fgsm.rows  # a detector of attacks that fail proves nothing
    assert pgd.fooled >= 0.9 * pgd.rows
    assert fgsm.auroc >= 0.95
    assert pgd.auroc >= 0.95
    assert unseen.auroc > adaptive.auroc
    assert pgd.evaded <= 0.2 * pgd.rows
    assert adaptive.evaded >= 0.8 * adaptive.rows
    assert adaptive.auroc < min(fgsm.auroc, pgd.auroc) - 0.3
    assert report.false_positive_rate < 0.15
    assert json.loads(json.dumps(report.summary()))["attacks"][1]["auroc"] == pgd.auroc


def test_images_are_of_eight_bits_within_the_ball_and_fool_when_they_are_read_back(classifier):
    rows = torch.tensor([3, 8, 40, 41, 100])
    found = fool(classifier, PGD(eps=EPS), digits().test, rows)
    clean = digits().test.images(rows)
    assert found.pixels.dtype == torch.uint8
    assert (found.pixels.int() - clean.int()).abs().max() <= 26
    with torch.no_grad():
        predicted = classifier(to_float(found.pixels)).argmax(1)
    assert torch.equal(found.reached, predicted != digits().test.labels[rows])
    assert len(found.adversarial) == int(found.fooled.sum()) > 0


def test_training_is_the_same_again_and_another_with_another_seed(classifier):
    config = dataclasses.replace(CONFIG, rows=120, fit=dataclasses.replace(CONFIG.fit, epochs=1))
    first, again = (
        train_detector(classifier, digits(), SEEN[:1], config).detector for _ in range(2)
    )
    assert_same_weights(weights(first), weights(again))
    other = train_detector(classifier, digits(), SEEN[:1], dataclasses.replace(config, seed=1))
    assert not torch.equal(other.detector.decide[0].weight, first.decide[0].weight)


def test_the_threshold_is_set_by_clean_images_that_were_kept_out(trained):
    assert (trained.clean, trained.calibration) == (300, 100)
    assert sum(trained.seen.values()) > 300
    assert set(trained.seen) == {"fgsm:eps=26/255", "pgd:eps=26/255"}


def test_a_detector_is_read_as_it_was_written_and_for_its_classifier_only(
    classifier, trained, tmp_path
):
    path = tmp_path / "detector.safetensors"
    card = save_detector(trained.detector, path, classifier=classifier, training={"a": 1})
    read = load_detector(path, classifier)
    assert_same_weights(weights(read), weights(trained.detector))
    pixels = digits().test.images(torch.arange(20))
    ours, theirs = (look(detector, classifier, pixels) for detector in (trained.detector, read))
    assert torch.equal(ours.evidence, theirs.evidence)
    assert torch.equal(ours.detected, theirs.detected)
    assert card["training"] == {"a": 1}
    other = build_own("logistic_regression", in_chans=1, image_size=8)
    with pytest.raises(CheckpointError, match="trained for another classifier"):
        load_detector(path, other)
    save_checkpoint(other, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="this is no detector"):
        load_detector(tmp_path / "other.safetensors", other)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_detector(path, classifier)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save_detector(trained.detector, tmp_path / "detector.pt", classifier=classifier)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: train_detector(m, digits(), []), "seen must hold at least one attack"),
        (
            lambda m: train_detector(m, dataclasses.replace(digits(), train=None), SEEN),
            "has no training split",
        ),
        (
            lambda m: train_detector(m, few_digits(), [PGD(eps=1e-4)], CONFIG),
            r"pgd:eps=0\.0001 fools .* on none of",
        ),
        (
            lambda m: train_detector(
                m, few_digits(), SEEN, dataclasses.replace(CONFIG, false_positives=0.001)
            ),
            "too few for a false positive rate of 0.001",
        ),
        (
            lambda m: train_detector(m, relabelled(few_digits(), NO_LABELS), SEEN, CONFIG),
            "200 of 200 training images of few have no label",
        ),
        (
            lambda m: evaluate_detector(
                RejectingClassifier(m, None), digits(), torch.arange(3), seen=SEEN, unseen=SEEN[:1]
            ),
            "either seen or unseen, got both: fgsm",
        ),
        (
            lambda m: fool(ScoresOnly(m, num_classes=10), PGD(), digits().test, torch.arange(2)),
            "pgd needs gradients of the model",
        ),
        (lambda m: DetectorConfig(false_positives=0), r"false_positives must be in \(0, 1\)"),
        (lambda m: DetectorConfig(calibration=1), r"calibration must be in \(0, 1\)"),
        (lambda m: DetectorConfig(rows=0), "rows must be at least 1"),
        (lambda m: DetectorConfig(fit=FitConfig(validation=0.1)), "validation must be 0"),
    ],
)
def test_what_makes_no_sense_is_refused(classifier, act, message):
    with pytest.raises(ValueError, match=message):
        act(classifier)


def test_the_command_writes_a_detector_that_is_read_again(
    classifier, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(classifier, "model.safetensors")
    few = ["--train-rows", "120", "--epochs", "1", "--per-class", "2", "--image-size", "8"]
    attacks = ["--seen", "fgsm", "--unseen", "pgd", "--adaptive", "pgd:steps=3"]
    words = ["detect", "--checkpoint", "model.safetensors", *few, *attacks]
    assert main([*words, "--out", "found", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "found" / "detector.json").read_text())
    assert [attack["kind"] for attack in printed["attacks"]] == ["seen", "unseen", "adaptive"]
    detector = load_detector(tmp_path / "found" / "detector.safetensors", classifier)
    assert printed["detector"]["threshold"] == detector.threshold.item()
    rows = choose_rows(digits(), 2)
    clean = look(detector, classifier, digits().test.images(rows))
    assert printed["false_positive_rate"] == np.mean(clean.detected.numpy())
    assert (tmp_path / "found" / "roc.png").stat().st_size > 1000
    assert main([*words, "--out", "again"]) == 0
    assert "evades" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seen", "pgdd"], "'pgdd'"),
        (["--seen", "pgd", "--unseen", "pgd"], "either seen or unseen, got both"),
        (["--false-positives", "1"], "false_positives must be in (0, 1)"),
        (["--train-rows", "0"], "rows must be at least 1"),
        (["--epochs", "0"], "epochs must be >= 1"),
        (["--eps", "2"], "eps must be in (0, 1]"),
        (["--out", __file__], "--out must be a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(more, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["detect", *more]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]
