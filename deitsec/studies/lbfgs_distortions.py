"""How little L-BFGS has to change: the mean distortion of each model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks import LBFGS
from deitsec.engine import Engine
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table

# Szegedy et al., arXiv:1312.6199, table 1, MNIST: model -> test error, mean distortion
PUBLISHED: Mapping[str, tuple[float, float]] = {
    "softmax, decay 1e-4 (FC10)": (0.074, 0.062),
    "softmax, decay 1e-2 (FC10)": (0.094, 0.1),
    "softmax, decay 1 (FC10)": (0.2, 0.14),
    "two layers of 100 (FC100-100-10)": (0.0164, 0.058),
    "two layers of 200 (FC200-200-10)": (0.0154, 0.065),
    "autoencoder and softmax (AE400-10)": (0.019, 0.086),
}


def measure_distortions(
    run: StudyRun[Any],
    models: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
) -> dict[str, Any]:
    """Bring each image to a random class by the least L-BFGS change.

    Args:
        run: of a study.
        models: by name.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        steps: evaluations of a search at most.
    """
    found: list[dict[str, Any]] = []
    for name, model in models.items():
        result = Engine(model, seed=run.seed).run(
            LBFGS(target="random", steps=steps),
            images,
            labels,
            progress=run.rows(f"L-BFGS on {name}"),
        )
        change = (result.adv - result.clean).double().flatten(1)
        distortion = change.square().mean(1).sqrt()[result.success]
        found.append(
            {
                "name": name,
                "error": 1 - result.clean_correct.double().mean().item(),
                "success": result.success.double().mean().item(),
                "distortion": distortion.mean().item() if len(distortion) else None,
                "noise_error": _noise_error(model, result.clean, labels, distortion, run.seed),
            }
        )
    return {"rows": len(labels), "models": found}


def _noise_error(
    model: nn.Module, images: Tensor, labels: Tensor, distortion: Tensor, seed: int
) -> float | None:
    """Error under Gaussian noise of the same mean distortion."""
    if len(distortion) == 0:
        return None
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    with torch.no_grad():
        shown = (images + distortion.mean() * noise).clamp(0, 1).to(images.dtype)
        return (model(shown).argmax(1) != labels).double().mean().item()


def distortion_section(found: Mapping[str, Any]) -> str:
    """Ours, and the published table."""
    ours = [
        [
            one["name"],
            share(one["error"], 1),
            share(one["success"], 1),
            "-" if one["distortion"] is None else f"{one['distortion']:.3f}",
            "-" if one["noise_error"] is None else share(one["noise_error"], 1),
        ]
        for one in found["models"]
    ]
    theirs = [[name, share(error, 1), f"{size:g}"] for name, (error, size) in PUBLISHED.items()]
    return "\n\n".join(
        [
            "Distortion is sqrt(mean((x' - x)^2)) on images in [0, 1], the mean over "
            f"{found['rows']} images, each aimed at a class drawn at random. Beside it, the error "
            "under Gaussian noise of that size.",
            table(("model", "error, clean", "reached", "distortion", "error under noise"), ours),
            "Published, on MNIST, for other networks:",
            table(("model", "test error", "distortion"), theirs),
        ]
    )
