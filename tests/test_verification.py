import json

import pytest
import torch
from torch import nn

import deitsec
from deitsec.attacks import FGSM, PGD
from deitsec.data import ArrayImageSet, DataSource, load_data, to_float
from deitsec.models import build_own, wrap
from deitsec.report import Report, validate
from deitsec.verification import default_suite, verify
from deitsec.verification.suite import suite_eps


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def model(digits):
    """A logistic regression fitted in closed form: ridge on one-hot labels, then sharpened."""
    classifier = build_own("logistic_regression", in_chans=1, image_size=32)
    rows = torch.arange(len(digits.train))
    x = (to_float(digits.train.images(rows)).flatten(1).double() - 0.5) / 0.5
    x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    y = nn.functional.one_hot(digits.train.labels, 10).double() - 0.1
    solution = torch.linalg.solve(x.T @ x + 10 * torch.eye(x.shape[1]).double(), x.T @ y)
    linear = next(m for m in classifier.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        linear.weight.copy_(8 * solution[:-1].T)
        linear.bias.copy_(8 * solution[-1])
    return classifier.eval()


@pytest.fixture(scope="module")
def report(model, digits):
    return verify(model, digits, per_class=10, min_robust_accuracy=0.5)


def test_the_document_fits_its_schema_and_survives_the_disk(report, tmp_path):
    validate(report.document)
    report.save(tmp_path)
    loaded = Report.load(tmp_path)
    assert loaded.document == json.loads((tmp_path / "report.json").read_text())
    assert loaded.document["verdict"] == report.document["verdict"]


def test_figures_are_those_of_the_attacks_run_alone(report, model, digits):
    rows = torch.cat([(digits.test.labels == c).nonzero()[:10, 0] for c in range(10)]).sort()[0]
    images, labels = to_float(digits.test.images(rows)), digits.test.labels[rows]
    with torch.no_grad():
        clean = model(images).argmax(1)
    assert report.document["clean"]["accuracy"] == pytest.approx(
        (clean == labels).double().mean().item()
    )
    engine = deitsec.Engine(model)
    for attack, piece in zip(
        (FGSM(eps=26 / 255), PGD(eps=26 / 255)), report.document["attacks"], strict=False
    ):
        result = engine.run(attack, images, labels, sample_ids=rows)
        assert piece["robust_accuracy"] == pytest.approx(result.robust_accuracy)
        assert piece["success_rate"] == pytest.approx(result.success_rate)
        assert piece["distances"]["linf"]["max"] == pytest.approx(
            result.distance("linf").max().item()
        )
        confusion = torch.tensor(piece["confusion"])
        assert confusion.sum() == 100
        predicted = result.logits.argmax(1)
        assert confusion.trace() == (predicted == labels).sum()


def test_the_worst_case_is_no_better_than_any_attack(report):
    document = report.document
    worst = document["worst_case"]["robust_accuracy"]
    assert worst <= min(piece["robust_accuracy"] for piece in document["attacks"])
    by_class = sum(row["rows"] * row["robust_accuracy"] for row in document["per_class"])
    assert by_class / 100 == pytest.approx(worst)
    assert document["gate"] == {
        "min_robust_accuracy": 0.5,
        "robust_accuracy": worst,
        "passed": worst >= 0.5,
    }


def test_sweeps_start_clean_and_fall(report):
    for sweep in report.document["sweeps"]:
        robust = [point["robust_accuracy"] for point in sweep["points"]]
        assert sweep["points"][0]["eps"] == 0
        assert robust[0] > 0.85
        assert robust[-1] < 0.05


def test_a_report_from_python_claims_no_command(report):
    assert report.document["command"] is None
    assert all(piece["command"] is None for piece in report.document["attacks"])


def test_lower_precision_drives_the_attacks_and_fp32_judges_them(model, digits):
    document = verify(
        model, digits, ["pgd:eps=0.03"], per_class=20, precision="bf16", sweep=False
    ).document
    validate(document)
    assert document["engine"]["precision"] == "bf16"
    assert document["engine"]["decisions"]["precision"].startswith("bf16 (")
    (piece,) = document["attacks"]
    assert 0 <= piece["disagreement"] < 0.5
    plain = verify(model, digits, ["pgd:eps=0.03"], per_class=20, sweep=False).document
    assert plain["attacks"][0]["disagreement"] is None
    assert plain["engine"]["decisions"]["precision"] == "fp32"
    assert piece["robust_accuracy"] == pytest.approx(
        plain["attacks"][0]["robust_accuracy"], abs=0.02
    )


def test_a_wrapped_module_is_verified_and_saved(digits, tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
    model = wrap(module, mean=0.5, std=0.5, num_classes=10)
    report = verify(model, digits, ["fgsm"], per_class=2, sweep=False)
    report.save(tmp_path)
    assert report.document["model"]["input_size"] is None
    validate(report.document)


def test_impersonation_of_one_class_leaves_that_class_out(model, digits):
    document = verify(
        model, digits, ["pgd:target=3,confidence=0.5", "fgsm"], per_class=5, sweep=False
    ).document
    aimed, everybody = document["attacks"]
    assert aimed["goal"] == "targeted"
    assert (aimed["rows"], everybody["rows"]) == (45, 50)
    assert sum(aimed["confusion"][3]) == 0
    assert aimed["success_rate"] > 0
    assert document["worst_case"]["robust_accuracy"] <= everybody["robust_accuracy"]


def test_a_saturated_model_is_not_called_robust(digits):
    class Saturated(nn.Module):
        """Right on every image, by looking up its bytes: no gradient reaches them."""

        def forward(self, x):
            hard = (x.flatten(1) > 0.5).float()
            return hard[:, :10] * 0 + (x.flatten(1)[:, :10] * 0 + 1) * torch.arange(10.0)

    model = wrap(Saturated(), mean=0.0, std=1.0, num_classes=10)
    document = verify(model, digits, ["fgsm"], per_class=2, sweep=False).document
    assert document["attacks"][0]["zero_gradients"] == 20
    check = next(c for c in document["checks"] if c["name"] == "gradients-drive")
    assert check["status"] == "warn"


def test_suite_eps_goes_by_the_data(digits):
    def source(name, shape):
        images = ArrayImageSet(
            pixels=torch.zeros(10, *shape, dtype=torch.uint8),
            labels=torch.arange(10),
        )
        return DataSource(
            uri=name, name=name, train=None, test=images, class_names=tuple("0123456789")
        )

    assert suite_eps(digits) == 26 / 255
    assert suite_eps(source("mine", (1, 28, 28))) == 0.3
    assert suite_eps(source("mine", (3, 32, 32))) == 8 / 255
    suite = default_suite(digits, attacks=("fgsm", "pgd:eps=0.2"), eps=0.05)
    assert [attack.eps for attack in suite.attacks] == [0.05, 0.2]


def test_rows_are_as_many_as_the_rarest_class_allows(model, digits):
    document = verify(model, digits, ["fgsm"], per_class=1000, sweep=False).document
    assert document["data"]["rows"] == 1000
    assert document["data"]["per_class"] == 100
    assert document["sweeps"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0}, "eps must be in"),
        ({"eps": float("nan")}, "eps must be in"),
        ({"per_class": 0}, "per_class must be at least 1, got 0"),
        ({"min_robust_accuracy": 1.5}, "min_robust_accuracy must be in"),
        ({"attacks": ["pgdd"]}, "did you mean 'pgd'"),
    ],
)
def test_bad_requests_are_refused_before_any_work(model, digits, options, message):
    with pytest.raises(ValueError, match=message):
        verify(model, digits, **options)


def test_a_model_with_other_classes_is_refused(digits):
    other = wrap(nn.Sequential(nn.Flatten(), nn.Linear(1024, 7)), mean=0, std=1, num_classes=7)
    with pytest.raises(ValueError, match="has 7 classes, data digits has 10"):
        verify(other, digits)


def test_a_model_that_returns_nan_is_refused(digits):
    class Nan(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10] * float("nan")

    broken = wrap(Nan(), mean=0.0, std=1.0, num_classes=10)
    with pytest.raises(ValueError, match="NaN or inf"):
        verify(broken, digits, ["fgsm"], per_class=2, sweep=False)
