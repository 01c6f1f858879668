"""How little L-BFGS has to change: the mean distortion of each model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks import LBFGS
from deitsec.data import to_float
from deitsec.defenses.transfer import predict
from deitsec.engine import AttackResult, Engine
from deitsec.engine.guard import attack_mode
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table
from deitsec.studies.whole_mnist import is_whole_mnist
from deitsec.training.modes import place_of

# Szegedy et al., arXiv:1312.6199, table 1, MNIST: model -> test error, mean distortion
PUBLISHED: Mapping[str, tuple[float, float]] = {
    "softmax, decay 1e-4 (FC10)": (0.074, 0.062),
    "softmax, decay 1e-2 (FC10)": (0.094, 0.1),
    "softmax, decay 1 (FC10)": (0.2, 0.14),
    "two layers of 100 (FC100-100-10)": (0.0164, 0.058),
    "two layers of 200 (FC200-200-10)": (0.0154, 0.065),
    "autoencoder and softmax (AE400-10)": (0.019, 0.086),
}
_APART = 0.05  # of the published distortion
# ours -> the nearest kind of the table
_LINEAR = "logistic_regression"
LIKE: Mapping[str, str] = {
    _LINEAR: "softmax, decay 1e-4 (FC10)",
    "mnist_dense": "two layers of 200 (FC200-200-10)",
}


def measure_distortions(
    run: StudyRun[Any],
    models: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    trainings: Mapping[str, nn.Module] | None = None,
) -> dict[str, Any]:
    """Bring each image to a random class by the least L-BFGS change.

    Args:
        run: of a study.
        models: by name.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        steps: evaluations of a search at most.
        trainings: linear classifiers by how they were trained, to see what that does.
    """

    def measured(name: str, model: nn.Module) -> dict[str, Any]:
        result = Engine(model, seed=run.seed).run(
            LBFGS(target="random", steps=steps),
            images,
            labels,
            progress=run.rows(f"L-BFGS on {name}"),
        )
        change = (result.adv - result.clean).double().flatten(1)
        distortion = change.square().mean(1).sqrt()[result.success]
        return {
            "name": name,
            "error": _test_error(run, model),
            "success": result.success.double().mean().item(),
            "distortion": distortion.mean().item() if len(distortion) else None,
            "first_order": _first_order(model, result),
            "noise_error": _noise_error(model, result.clean, labels, distortion, run.seed),
        }

    return {
        "rows": len(labels),
        "test_rows": len(run.data.test),
        "mnist": is_whole_mnist(run.data),
        "models": [measured(name, model) for name, model in models.items()],
        "trainings": [measured(words, model) for words, model in (trainings or {}).items()],
    }


def _test_error(run: StudyRun[Any], model: nn.Module) -> float:
    test = run.data.test
    images = to_float(test.images(torch.arange(len(test))))
    return (predict(model, images) != test.labels).double().mean().item()


def _first_order(model: nn.Module, result: AttackResult) -> float:
    """Mean of (z_label - z_target) / ||its gradient|| over the root of the values, if positive."""
    assert result.targets is not None
    with attack_mode(model), torch.enable_grad():
        x = result.clean.detach().to(place_of(model)).requires_grad_()
        logits = model(x)
        both = torch.stack([result.labels, result.targets.to(result.labels)], 1).to(logits.device)
        label, target = logits.gather(1, both).unbind(1)
        gap = (label - target).clamp_min(0)
        (slope,) = torch.autograd.grad((label - target).sum(), x)
    lengths = slope.double().flatten(1).norm(dim=1) * slope[0].numel() ** 0.5
    return (gap.detach().double() / lengths).mean().item()


def _noise_error(
    model: nn.Module, images: Tensor, labels: Tensor, distortion: Tensor, seed: int
) -> float | None:
    """Error under Gaussian noise of the same mean distortion."""
    if len(distortion) == 0:
        return None
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    shown = (images + distortion.mean() * noise).clamp(0, 1).to(images.dtype)
    return (predict(model, shown) != labels.to(shown.device)).double().mean().item()


def distortion_section(found: Mapping[str, Any]) -> str:
    """Ours beside the nearest kind of the published table, and what the distances go with."""
    rows: list[list[str]] = []
    for one in found["models"]:
        like = LIKE.get(one["name"])
        ours, theirs = one["distortion"], PUBLISHED[like][1] if like else None
        rows.append(
            [
                one["name"],
                share(one["error"], 1),
                share(one["success"], 1),
                _size(ours),
                _size(one["first_order"]),
                "-" if one["noise_error"] is None else share(one["noise_error"], 1),
                f"{like}: {theirs:g}" if like else "none of its kind",
                "-" if theirs is None or ours is None else f"{ours - theirs:+.3f}",
            ]
        )
    head = (
        "model",
        "error, clean",
        "reached",
        "distortion",
        "first order",
        "error under noise",
        "published",
        "difference",
    )
    theirs = [[name, share(error, 1), f"{size:g}"] for name, (error, size) in PUBLISHED.items()]
    return "\n\n".join(
        [
            "Distortion is sqrt(mean((x' - x)^2)) on images in [0, 1], as in the paper, the mean "
            f"over {found['rows']} images, each aimed at a class drawn at random. *Error, clean* "
            f"is of all {found['test_rows']:,} test images. *First order* is the gap between the "
            "logits of the label and of the target over the length of its gradient, in the same "
            "units: where the border would be if the model were linear. *Error under noise* is "
            "under Gaussian noise of the size of the distortion.",
            table(head, rows),
            _differs(found),
            "The whole of the published table, on MNIST:",
            table(("model", "test error", "distortion"), theirs),
        ]
    )


def _differs(found: Mapping[str, Any]) -> str:
    """What goes with a short distance, as far as it was measured."""
    known = [one for one in found["models"] if one["distortion"] is not None]
    if len(known) < 2:
        return "Too few models were brought to their target to compare them."
    ours = [one["name"] for one in sorted(known, key=lambda one: one["distortion"])]
    slope = [one["name"] for one in sorted(known, key=lambda one: one["first_order"])]
    ratios = [one["distortion"] / one["first_order"] for one in known]
    said = [
        f"The distances found are {min(ratios):.2f} to {max(ratios):.2f} times those of first "
        "order."
    ]
    said.append(
        f"Both have the same order ({', '.join(ours)}): a short distance goes with a slope that is "
        "steep beside the gap of the logits, which is a property of the network and not of the "
        "search."
        if ours == slope
        else f"Their orders differ ({', '.join(ours)}; by first order {', '.join(slope)}), so the "
        "slope at the image does not explain the differences, and no other reason was found."
    )
    said.append(_by_training(found.get("trainings", ())))
    said.append(
        "The published networks are of MNIST, as ours are; what else differs in how they were "
        "built and trained was not varied."
        if found.get("mnist")
        else "The published networks are fully connected and of MNIST, 28 x 28; what other data "
        "change was not measured."
    )
    return " ".join(filter(None, said))


def _by_training(trainings: Sequence[Mapping[str, Any]]) -> str:
    """What the length of its training does to the distortion of the linear classifier."""
    known = [one for one in trainings if one["distortion"] is not None]
    if len(known) < 2:
        return ""
    like = LIKE[_LINEAR]
    error, theirs = PUBLISHED[like]
    sizes = [one["distortion"] for one in known]
    nearest = min(known, key=lambda one: abs(one["distortion"] - theirs))["name"]
    told = ", ".join(
        f"{one['name']} {one['distortion']:.3f} (error {share(one['error'], 1)})" for one in known
    )
    if min(sizes) <= theirs <= max(sizes):
        verdict = "lies between: lengths of training reach down and up to it"
    elif min(abs(size - theirs) for size in sizes) <= _APART * theirs:
        verdict = f"is within {share(_APART, 0)} of one of them"
    else:
        verdict = "lies outside, so that the length of training does not explain the difference"
    return (
        f"{_LINEAR} by the length of its training: {told}. The published {theirs:g} (error "
        f"{share(error, 1)}) {verdict}; {nearest} is the nearest to it."
    )


def _size(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
