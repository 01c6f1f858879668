"""AutoAttack as its authors' package is called: what comes back, and the lines that it prints."""

import re

import pytest
import torch
from models_for_tests import images_and_labels, mlp

from deitsec.compat.autoattack import AutoAttack

MODEL = mlp().float()
IMAGES, LABELS = (t[:24] for t in images_and_labels(mlp(), rows=24))
IMAGES = IMAGES.float()
WRONG = LABELS.clone()
WRONG[::8] = (WRONG[::8] + 1) % 5
SHORT = {"version": "custom", "attacks_to_run": ["apgd-ce", "apgd-t"], "seed": 0}


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_the_lines_that_people_parse(capsys, tmp_path):
    log = tmp_path / "log.txt"
    adversary = AutoAttack(MODEL, norm="Linf", eps=0.03, log_path=log, **SHORT)
    x_adv = adversary.run_standard_evaluation(IMAGES, WRONG, bs=10)
    printed = lines(capsys)
    assert printed[0] == "using custom version including apgd-ce, apgd-t"
    assert printed[1:] == log.read_text().splitlines()
    text = "\n".join(printed)
    assert "initial accuracy: 87.50%" in printed
    after = re.findall(r"robust accuracy after ([\w-]+): ([\d.]+)% \(total time [\d.]+ s\)", text)
    assert [name for name, _ in after] == ["APGD-CE", "APGD-T"]
    final = re.findall(r"^robust accuracy: ([\d.]+)%$", text, re.MULTILINE)
    with torch.no_grad():
        robust = (MODEL(x_adv).argmax(1) == WRONG).float().mean().item()
    assert final == [f"{100 * robust:.2f}"] == [after[-1][1]]
    found = re.search(
        r"max Linf perturbation: (\S+), nan in tensor: 0, max: (\S+), min: (\S+)$",
        text,
        re.MULTILINE,
    )
    assert found is not None
    assert float(found[1]) == pytest.approx(0.03, abs=1e-5)
    assert float(found[2]) <= 1
    assert float(found[3]) >= 0


def test_what_was_not_broken_is_the_original():
    adversary = AutoAttack(MODEL, eps=0.03, verbose=False, **SHORT)
    x_adv, y_adv = adversary.run_standard_evaluation(IMAGES, WRONG, return_labels=True)
    with torch.no_grad():
        assert torch.equal(MODEL(x_adv).argmax(1), y_adv)
    spared = (WRONG != LABELS) | (y_adv == WRONG)
    assert torch.equal(x_adv[spared], IMAGES[spared])
    fell = ~spared
    assert 0 < fell.sum() < 24
    assert (x_adv[fell] != IMAGES[fell]).flatten(1).any(1).all()
    assert ((x_adv - IMAGES).abs() <= 0.03 + 1e-6).all()


def test_each_attack_by_itself(capsys):
    adversary = AutoAttack(MODEL, norm="L2", eps=0.15, **SHORT)
    found = adversary.run_standard_evaluation_individual(IMAGES, WRONG)
    assert list(found) == ["apgd-ce", "apgd-t"]
    said = re.findall(r"robust accuracy by ([\w-]+) \t ([\d.]+)%", capsys.readouterr().out)
    for (name, accuracy), x_adv in zip(said, found.values(), strict=True):
        with torch.no_grad():
            robust = (MODEL(x_adv).argmax(1) == WRONG).float().mean().item()
        assert name in ("APGD-CE", "APGD-T")
        assert float(accuracy) == pytest.approx(100 * robust, abs=0.01)
    labelled = adversary.run_standard_evaluation_individual(IMAGES, WRONG, return_labels=True)
    assert torch.equal(labelled["apgd-t"][0], found["apgd-t"])


def test_any_callable_is_a_model():
    plain = AutoAttack(lambda x: MODEL(x), eps=0.03, verbose=False, device="cpu", **SHORT)
    module = AutoAttack(MODEL, eps=0.03, verbose=False, **SHORT)
    expected = module.run_standard_evaluation(IMAGES, LABELS)
    torch.testing.assert_close(plain.run_standard_evaluation(IMAGES, LABELS), expected)


def test_attacks_to_run_may_be_set_as_in_the_original():
    adversary = AutoAttack(MODEL, eps=0.03, version="custom", verbose=False, seed=0)
    adversary.attacks_to_run = ["apgd-ce"]
    assert list(adversary.run_standard_evaluation_individual(IMAGES, LABELS)) == ["apgd-ce"]
    assert AutoAttack(MODEL).attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"]


def test_square_that_breaks_more_than_gradients_is_warned_of(capsys):
    adversary = AutoAttack(MODEL, eps=0.03, **SHORT)
    accuracy = {"clean": 1.0, "apgd-ce": 0.5, "square": 0.4}
    adversary._report(IMAGES, IMAGES, accuracy, adversary._log)
    assert "Square Attack has decreased the robust accuracy of 10.00%" in lines(capsys)[0]


def test_a_model_that_is_always_wrong_ends_at_once(capsys):
    adversary = AutoAttack(MODEL, eps=0.03, **SHORT)
    adversary.run_standard_evaluation(IMAGES, (LABELS + 1) % 5)
    printed = lines(capsys)
    assert "initial accuracy: 0.00%" in printed
    assert "robust accuracy: 0.00%" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "linf"}, "norm must be one of Linf, L2, L1, got 'linf'"),
        ({"version": "fast"}, "version must be one of standard, plus, rand, custom"),
        ({"attacks_to_run": ["square"]}, "goes with version='custom' only"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AutoAttack(MODEL, **options)
