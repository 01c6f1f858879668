"""The form of a defense's figures, its refusals, and what verify makes of it."""

import copy
import json

import pytest
import torch
from report_for_tests import build_document
from training_for_tests import digits

from deitsec.cli import main
from deitsec.models import build_own, save_checkpoint
from deitsec.report import Defense, DefenseLine, Report, read_defense, render_html, validate
from deitsec.report.defense import defense_of
from deitsec.report.defense_lines import (
    detector_lines,
    poisoning_lines,
    smoothing_lines,
    substitute_lines,
    training_lines,
    training_name,
    transfer_lines,
)
from deitsec.verification import verify
from deitsec.verification.defended import measured_defense

LINE = DefenseLine(
    label="sigma 0.25",
    clean=0.9,
    measure="accuracy",
    plain=0.8,
    plain_attack="pgd_l2:eps=0.25",
    adaptive=0.375,
    adaptive_attack="pgd_l2:eps=0.25 averaged",
    worth="Little <b>against</b> who knows it.",
)


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def model():
    return _model(0)


def _model(seed):
    torch.manual_seed(seed)
    return build_own("logistic_regression", in_chans=1, image_size=8).eval()


def _defense(model, data, *lines, **changes):
    given = {"settings": {"sigma": 0.25}, "rows": 20, "seed": 0, "command": "deitsec certify"}
    return measured_defense(
        "smoothing", "smoothing", model, data, lines or (LINE,), **(given | changes)
    )


def test_a_defense_comes_back_from_its_file_as_it_was(model, data, tmp_path):
    defense = _defense(model, data)
    (tmp_path / "defense.json").write_text(defense.to_json())
    assert read_defense(tmp_path / "defense.json") == defense


def _changed(document, path, value):
    changed = copy.deepcopy(document)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if value is KeyError:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("schema",), "deitsec.report/2", "must have the schema 'deitsec.defense/1'"),
        (("kind",), "magic", "kind must be one of training, smoothing"),
        (("seed",), KeyError, "the document lacks 'seed'"),
        (("more",), 1, "the document has the unknown key 'more'"),
        (("rows",), True, "rows must be an integer >= 1, got True"),
        (("settings",), [], "settings must be an object"),
        (("model",), "m", "model must be an object, got 'm'"),
        (("model", "sha256"), "12", "model: sha256 must be 64 hexadecimal digits, got '12'"),
        (("data", "image_shape"), [1, 8], "data: image_shape must be three sizes >= 1"),
        (("lines",), [], "at least one line"),
        (("lines",), {}, "lines must be a list"),
        (("lines", 0, "clean"), 1.5, "lines[0]: clean must be a share in [0, 1] or null, got 1.5"),
        (("lines", 0, "adaptive"), float("nan"), "adaptive must be a share"),
        (("lines", 0, "plain"), True, "plain must be a share"),
        (("lines", 0, "measure"), "luck", "measure must be one of accuracy, success"),
        (("lines", 0, "adaptive_attack"), None, "adaptive_attack must name the attack"),
        (("lines", 0, "worth"), " ", "worth must say something"),
    ],
)
def test_what_is_no_defense_is_refused_in_one_line(model, data, path, value, words, tmp_path):
    document = _changed(_defense(model, data).document(), path, value)
    with pytest.raises(ValueError, match=r"^x\.json is no defense of deitsec: ") as caught:
        defense_of(document, origin="x.json")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "null", "\udcff"])
def test_a_file_that_is_no_defense_is_named(text, tmp_path):
    path = tmp_path / "some.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"some\.json is no defense of deitsec"):
        read_defense(path)


def test_the_report_holds_the_defense_as_its_file_does(model, data, tmp_path):
    defense = _defense(model, data)
    path = tmp_path / "defense.json"
    path.write_text(defense.to_json())
    quick = {"per_class": 1, "sweep": False}
    report = verify(model, data, ["fgsm"], defenses=[path, defense], **quick)
    validate(report.document)
    assert report.document["defenses"] == [json.loads(path.read_text())] * 2
    report.save(tmp_path / "report")
    assert Report.load(tmp_path / "report").document == report.document


def test_a_defense_of_other_weights_data_or_images_names_both(model, data):
    other = _model(1)
    for defense, words in (
        (_defense(other, data), "was measured on other weights"),
        (_defense(model, data), None),
    ):
        document = defense.document()
        if words is None:
            document["data"]["sha256"] = "ab" * 32
            defense, words = defense_of(document), "was measured on other data"
        ours = document["model" if "weights" in words else "data"]["sha256"]
        with pytest.raises(ValueError, match=words) as caught:
            verify(model, data, ["fgsm"], defenses=[defense])
        assert ours[:12] in str(caught.value)
        mine = _defense(model, data).document()["model" if "weights" in words else "data"]
        assert mine["sha256"][:12] in str(caught.value)
    document = _defense(model, data).document()
    document["data"]["image_shape"] = [1, 32, 32]
    with pytest.raises(ValueError, match="images of 1 x 32 x 32, not 1 x 8 x 8"):
        verify(model, data, ["fgsm"], defenses=[defense_of(document)])
    document = _defense(model, data).document()
    document["model"]["head"] = "class"
    with pytest.raises(ValueError, match="measured on the head 'class'"):
        verify(model, data, ["fgsm"], defenses=[defense_of(document)])


def test_the_page_has_a_line_of_figures_and_a_sentence_for_each_line(model, data):
    document = build_document()
    success = copy.deepcopy(
        LINE.__class__(
            **{
                **{name: getattr(LINE, name) for name in LINE.__slots__},
                "measure": "success",
                "label": "hidden",
                "adaptive": None,
                "adaptive_attack": None,
            }
        )
    )
    document["defenses"] = [_defense(model, data, LINE, success).document()]
    validate(document)
    plots = {name: _pixel() for name in ("confusion.png", "confusion-narrow.png")}
    page = render_html(document, plots)
    section = page[page.index('<h2 id="defenses">') :].partition("</section>")[0]
    assert section.count('<tbody class="defense">') == 2
    for words in ("<td>90.0%</td><td>80.0% right</td><td>37.5% right</td>", "succeeds 80.0%</td>"):
        assert words in section
    assert "adaptive: not tried" in section
    assert "Little &lt;b&gt;against&lt;/b&gt; who knows it." in section
    assert "deitsec certify" in section
    del document["defenses"]
    assert 'id="defenses"' not in render_html(document, plots)


def _pixel():
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def _report(attacks, worst, checks=()):
    return {
        "clean": {"accuracy": 0.95},
        "attacks": [
            {"name": spec.partition(":")[0], "spec": spec, "goal": "untargeted",
             "robust_accuracy": share}
            for spec, share in attacks
        ],
        "worst_case": {"robust_accuracy": worst, "attacks": [spec for spec, _ in attacks]},
        "checks": [{"name": name, "status": status} for name, status in checks],
    }  # fmt: skip


def test_a_training_is_judged_by_one_step_and_by_all_attacks():
    found = _report([("fgsm:eps=0.1", 0.7), ("pgd:eps=0.1", 0.5)], 0.45)
    (line,) = training_lines(found)
    assert (line.clean, line.plain, line.adaptive) == (0.95, 0.7, 0.45)
    assert line.plain_attack == "fgsm:eps=0.1"


def test_a_training_whose_gradients_may_be_masked_has_no_adaptive_figure():
    checks = [("gradients-beat-black-box", "warn"), ("survives-8-bit", "warn")]
    (line,) = training_lines(_report([("fgsm", 0.7), ("pgd", 0.5)], 0.45, checks))
    assert (line.plain, line.adaptive) == (0.45, None)
    assert "gradients-beat-black-box warns" in line.worth
    assert "8-bit" not in line.worth


def test_one_step_alone_is_not_taken_for_an_attacker_who_knows():
    (line,) = training_lines(_report([("fgsm", 0.7)], 0.65))
    assert (line.plain, line.adaptive) == (0.65, None)
    assert "no second look" in line.worth


@pytest.mark.parametrize(
    ("training", "name"),
    [
        (
            {"method": "adversarial", "attack": {"method": "free"}},
            "adversarial training (free)",
        ),
        ({"method": "defensive", "temperature": 20.0}, "defensive distillation"),
        ({"method": "clean-up"}, "clean-up"),
        ({"diverged": "loss"}, None),
        ({}, None),
    ],
)
def test_a_way_of_training_has_a_name_where_it_is_known(training, name):
    assert training_name(training) == name


def test_the_detectors_line_is_the_worst_case_over_rows():
    rows = {"seen": [1, 2], "unseen": [2, 3], "adaptive": [3, 4, 5, 6, 7, 8]}
    found = {
        "rows": 20,
        "accuracy": 0.5,
        "accuracy_accepted": 0.4,
        "false_positive_rate": 0.05,
        "attacks": [{"kind": k, "spec": k, "evaded_rows": v} for k, v in rows.items()],
    }
    (line,) = detector_lines(found)
    assert (line.clean, line.plain, line.adaptive) == (0.4, 0.3, 0.8)
    assert (line.measure, line.plain_attack) == (
        "success",
        "seen and unseen on the classifier alone",
    )
    found["attacks"] = found["attacks"][:2]
    (line,) = detector_lines(found)
    assert (line.adaptive, line.adaptive_attack) == (None, None)
    assert "nothing is known" in line.worth


def test_smoothing_is_certified_at_one_sigma_and_may_be_unattacked():
    certified = [{"radius": 0.1 * i, "accuracy": 1 - 0.1 * i} for i in range(5)]
    found = {"sigma": 0.2, "alpha": 0.001, "accuracy": 0.9, "certified": certified}
    (line,) = smoothing_lines({**found, "attacked": None})
    assert (line.clean, line.plain, line.adaptive) == (0.9, None, None)
    assert "Certified within L2 0.2 (one sigma) on 80.0%" in line.worth
    assert "not attacked" in line.worth
    (line,) = smoothing_lines({**found, "certified": certified[:1], "attacked": None})
    assert "on 0.0%" in line.worth  # too few copies to certify so far
    attacked = {"spec": "pgd_l2", "accuracy": 0.85, "plain": 0.8, "adaptive": 0.3}
    (line,) = smoothing_lines({**found, "attacked": attacked})
    assert (line.clean, line.plain, line.adaptive) == (0.85, 0.8, 0.3)


def test_a_hidden_model_is_told_from_noise_and_from_an_open_one():
    one = {"spec": "pgd", "transfer": 0.6, "white_box": 0.9, "noise": 0.05}
    found = {"queries": 1600, "substitute": "mlp", "accuracy": {"model": 0.97}, "attacks": [one]}
    (line,) = substitute_lines(found)
    assert (line.clean, line.measure, line.plain, line.adaptive) == (0.97, "success", 0.05, 0.6)
    assert "Open to all, it falls on 90.0% of the images; hidden, on 60.0%" in line.worth
    matrix = {
        "names": ["a", "b", "c"],
        "attacks": ["pgd", "pgd", "square"],
        "accuracy": [0.9, 0.8, 0.7],
        "rate": [[1.0, 0.1, 0.2], [0.4, 0.9, 0.3], [0.25, None, 1.0]],
        "noise": [[0.01] * 3, [0.02] * 3, [0.03] * 3],
    }
    lines = transfer_lines(matrix)
    assert [line.label for line in lines] == ["from b", "from c"]
    assert [(line.plain, line.adaptive) for line in lines] == [(0.02, 0.4), (0.03, 0.25)]
    alone = {name: values[:1] for name, values in matrix.items()}
    (line,) = transfer_lines(alone)
    assert (line.label, line.adaptive) == ("not hidden", 1.0)


def test_finders_of_poison_claim_nothing_of_an_attacker_who_knows_them():
    effect = {"accuracy": 0.9, "attack_success": 0.95, "flipped": None}
    mended = {"accuracy": 0.91, "attack_success": 0.1, "flipped": None}
    finder = {"name": "spectral signature", "recall": 0.8, "precision": 0.5}
    found = {
        "contamination": {"what": "a patch", "poisoned": 40, "rows": 800},
        "clean": {"accuracy": 0.92},
        "poisoned": effect,
        "detectors": [{**finder, "without": mended}, {**finder, "name": "other"}],
    }
    lines = poisoning_lines(found)
    assert [(line.clean, line.plain) for line in lines] == [(0.9, 0.95), (0.91, 0.1), (None, None)]
    assert all(line.adaptive is None for line in lines)
    assert "proves nothing" in lines[1].worth


@pytest.fixture
def checkpoint(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEITSEC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.safetensors"
    training = {"method": "adversarial", "attack": {"method": "pgd", "eps": 0.1}}
    save_checkpoint(model, path, training=training)
    return str(path)


COMMANDS = {
    "certify": "--samples 20 --select 10 --attack pgd_l2:steps=1 --per-class 1",
    "detect": "--epochs 1 --train-rows 60 --per-class 2 --seen fgsm --unseen mifgsm "
    "--adaptive fgsm "
    "--false-positives 0.5",
    "substitute": "--substitute logistic_regression --first 1 --rounds 1 --epochs 1 --per-class 1 "
    "--attack fgsm",
    "transfer": "--estimator tree --queries 5 --per-class 1 --attack fgsm",
}


def test_every_command_writes_a_defense_and_verify_takes_them_all(checkpoint, capsys, tmp_path):
    shared = ["--image-size", "8", "--checkpoint", checkpoint]
    verify_them = ["verify", *shared, "--per-class", "1", "--no-sweep", "--attack", "fgsm"]
    for name, words in COMMANDS.items():
        assert main([name, *shared, *words.split(), "--out", name, "--seed", "3"]) == 0
        found = read_defense(tmp_path / name / "defense.json")
        assert found.command is not None
        assert found.command.startswith(f"deitsec {name} --image-size 8 --checkpoint")
        assert (found.seed, found.data.image_shape) == (3, (1, 8, 8))
        verify_them += ["--defense", f"{name}/defense.json"]
    capsys.readouterr()
    assert main(verify_them) == 0
    printed = " ".join(capsys.readouterr().out.split())
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    kinds = [defense["kind"] for defense in document["defenses"]]
    assert kinds == ["training", "smoothing", "detector", "hidden-model", "hidden-model"]
    assert "adversarial training (pgd): clean" in printed
    assert "randomised smoothing (sigma 0.25): clean" in printed
    assert "--defense certify/defense.json --defense detect/defense.json" in document["command"]


def test_poison_writes_a_defense_of_the_poisoned_model(checkpoint, capsys):
    quick = ["--image-size", "8", "--model", "logistic_regression", "--epochs", "1"]
    assert main(["poison", *quick, "--size", "1", "--no-retrain"]) == 0
    base = ["verify", "--image-size", "8", "--per-class", "1", "--no-sweep", "--attack", "fgsm"]
    file = ["--defense", "poisoned/defense.json"]
    assert main([*base, "--checkpoint", "poisoned/poisoned.safetensors", *file, "--json"]) == 0
    capsys.readouterr()
    assert main([*base, "--checkpoint", checkpoint, *file]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("deitsec: poisoned/defense.json was measured on other weights: those of")


def test_a_file_that_is_no_defense_is_one_line_before_any_work(checkpoint, capsys):
    arguments = ["verify", "--data", "npz:nowhere.npz", "--checkpoint", checkpoint]
    for path, words in (("gone.json", "gone.json"), ("model.card.json", "is no defense")):
        assert main([*arguments, "--defense", path]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line


def test_a_defense_from_python_holds_what_json_can_say(model, data):
    assert isinstance(_defense(model, data, settings={"at": (1, 2)}), Defense)
    assert _defense(model, data, settings={"at": (1, 2)}).settings == {"at": [1, 2]}
    with pytest.raises(TypeError, match="Tensor"):
        _defense(model, data, settings={"at": torch.tensor(1)})
