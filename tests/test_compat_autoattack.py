"""AutoAttack as its authors' package is called: what comes back, and the lines that it prints."""

import inspect
import re

import pytest
import torch
from models_for_tests import images_and_labels, mlp

from deitsec.attacks.autoattack import VERSIONS
from deitsec.compat.autoattack import AutoAttack
from deitsec.compat.autoattack_options import PROTOCOLS

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


@pytest.mark.parametrize("verbose", [True, False])
def test_square_that_breaks_more_than_gradients_is_warned_of(capsys, verbose):
    """Whoever asks for silence is warned all the same, as by the original."""
    adversary = AutoAttack(MODEL, eps=0.03, verbose=verbose, **SHORT)
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
        ({"is_tf_model": True}, "is_tf_model must be False"),
        (
            {"version": "custom", "attacks_to_run": ["apgd-ce", "pgd"]},
            r"attacks_to_run must be a list of some of apgd-ce, .*got \['apgd-ce', 'pgd'\]",
        ),
        ({"version": "custom", "attacks_to_run": "square"}, "must be a list .*got 'square'"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AutoAttack(MODEL, **options)


def test_positional_arguments_are_in_the_order_of_the_original():
    names = list(inspect.signature(AutoAttack).parameters)
    assert names == [
        *("model", "norm", "eps", "seed", "verbose", "attacks_to_run", "version"),
        *("is_tf_model", "device", "log_path"),
    ]


def test_nothing_is_printed_or_written_unless_verbose(capsys, tmp_path):
    log = tmp_path / "log.txt"
    adversary = AutoAttack(MODEL, eps=0.03, verbose=False, log_path=log, **SHORT)
    adversary.run_standard_evaluation(IMAGES, LABELS)
    adversary.run_standard_evaluation_individual(IMAGES, LABELS)
    assert lines(capsys) == []
    assert not log.exists()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_the_options_of_a_version_are_those_of_the_protocol(norm, version):
    stages = PROTOCOLS[norm](eps=0.1, version=version).stages
    for adversary in (AutoAttack(MODEL, norm, 0.1, version=version), _turned(norm, version)):
        made = [adversary._options.stage(name, 0.1) for name in adversary.attacks_to_run]
        assert tuple(adversary.attacks_to_run) == VERSIONS[version]
        if version == "rand":  # what the original leaves as it was does not matter
            assert [stage.eot_iter for stage in made] == [20, 20]
        assert tuple(made) == stages


def _turned(norm, version):
    adversary = AutoAttack(MODEL, norm, 0.1, verbose=False, version="custom")
    adversary.set_version(version)
    assert adversary.version == version
    return adversary


def test_options_that_people_set_on_the_attacks_count():
    adversary = AutoAttack(MODEL, eps=0.03, version="custom", verbose=False)
    adversary.attacks_to_run = ["apgd-ce", "apgd-t", "fab", "fab-t", "square"]
    adversary.apgd.n_restarts = 2
    adversary.apgd.eot_iter = 3
    adversary.apgd_targeted.n_target_classes = 4
    adversary.apgd_targeted.n_iter = 7
    adversary.fab.n_restarts = 6
    adversary.fab.n_target_classes = 3
    adversary.square.n_queries = 11
    made = {name: adversary._options.stage(name, 0.03) for name in adversary.attacks_to_run}
    assert (made["apgd-ce"].restarts, made["apgd-ce"].eot_iter) == (2, 3)
    assert (made["apgd-t"].num_targets, made["apgd-t"].steps) == (4, 7)
    assert (made["fab"].restarts, made["fab"].num_targets) == (6, 0)
    assert (made["fab-t"].restarts, made["fab-t"].num_targets) == (1, 3)
    assert made["square"].n_queries == 11


def test_options_reach_the_attack_that_runs():
    """One proposal of Square breaks less than a hundred."""

    def robust(queries):
        adversary = AutoAttack(MODEL, eps=0.05, version="custom", verbose=False, seed=0)
        adversary.attacks_to_run = ["square"]
        adversary.square.n_queries = queries
        _, y_adv = adversary.run_standard_evaluation(IMAGES, LABELS, return_labels=True)
        return (y_adv == LABELS).sum()

    assert robust(1) > robust(100)


def test_a_radius_and_a_model_that_are_set_count():
    adversary = AutoAttack(MODEL, eps=0.03, verbose=False, **SHORT)
    adversary.epsilon = 0.01
    moved = (adversary.run_standard_evaluation(IMAGES, LABELS) - IMAGES).abs()
    assert 0 < moved.max() <= 0.01 + 1e-6
    adversary.model = lambda x: MODEL(x) * 0 + torch.eye(5)[0]
    assert adversary.clean_accuracy(IMAGES, torch.zeros(24, dtype=torch.int64)) == 1.0
    with pytest.raises(ValueError, match="eps must be in"):
        adversary.epsilon = 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: setattr(a.apgd, "n_restart", 2), "APGDOptions has no option 'n_restart' here"),
        (lambda a: setattr(a.fab, "eps", 0.1), "FABOptions has no option 'eps' here"),
        (lambda a: setattr(a, "apgd", None), "set the options of apgd"),
        (lambda a: setattr(a, "eps", 0.1), "no attribute 'eps' to set here; known: model, epsilon"),
        (lambda a: setattr(a, "version", "plus"), "no attribute 'version' to set here"),
    ],
)
def test_what_would_be_ignored_is_refused_in_one_line(change, words):
    with pytest.raises(AttributeError, match=words) as caught:
        change(AutoAttack(MODEL))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: setattr(a, "attacks_to_run", []), "attacks_to_run must be a list"),
        (lambda a: setattr(a, "attacks_to_run", ["pgd"]), r"must be a list .*got \['pgd'\]"),
        (lambda a: setattr(a.apgd, "n_restarts", 0), "restarts must be at least 1, got 0"),
        (lambda a: setattr(a.apgd, "use_largereps", True), "use_largereps goes with norm='L1'"),
        (lambda a: setattr(a.fab, "n_target_classes", 0), "n_target_classes must be at least 1"),
    ],
)
def test_what_is_set_out_of_range_is_refused_at_the_call(change, words):
    adversary = AutoAttack(MODEL, eps=0.03, verbose=False, **SHORT)
    change(adversary)
    with pytest.raises(ValueError, match=words):
        adversary.run_standard_evaluation(IMAGES, LABELS)
