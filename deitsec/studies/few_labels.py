"""Few labels: what unlabelled images are worth to virtual adversarial training."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table
from deitsec.training import FitConfig, VirtualConfig, new_model, predict, virtual_fit

METHODS: Mapping[str, Mapping[str, float]] = {
    "labels alone": {"alpha": 0.0},
    "virtual adversarial": {"alpha": 1.0},
}


def measure_few_labels(
    run: StudyRun[Any],
    *,
    model: str,
    labelled: Sequence[int],
    epochs: int,
    eps: float,
    seeds: int,
) -> dict[str, Any]:
    """Train on a few labels of each class, with and without the unlabelled images.

    Args:
        run: of a study.
        model: architecture.
        labelled: labels of each class.
        epochs: passes over all images.
        eps: L2 length of the virtual adversarial perturbation.
        seeds: runs of each, with other labels and weights.
    """
    assert run.data.train is not None
    points: list[dict[str, Any]] = []
    for number in labelled:
        for name, weights in METHODS.items():
            accuracies = [
                run.part(
                    f"labels-{number}-{name.partition(' ')[0]}-{seed}",
                    lambda number=number, weights=weights, seed=seed: _trained(
                        run, model, number, epochs, eps, seed, weights
                    ),
                )["accuracy"]
                for seed in range(run.seed, run.seed + seeds)
            ]
            points.append({"labelled": number, "method": name, "accuracies": accuracies})
    return {
        "model": model,
        "images": len(run.data.train),
        "epochs": epochs,
        "eps": eps,
        "points": points,
    }


def _trained(
    run: StudyRun[Any],
    model: str,
    labelled: int,
    epochs: int,
    eps: float,
    seed: int,
    weights: Mapping[str, float],
) -> dict[str, Any]:
    network = new_model(model, run.data, seed=seed).to(run.device)
    fit = FitConfig(epochs=epochs, batch_size=64, lr=2e-3, validation=0.0, seed=seed, threads=1)
    virtual_fit(
        network,
        run.data,
        VirtualConfig(fit=fit, labelled=labelled, eps=eps, alpha=weights["alpha"]),
        progress=lambda event: run.shown.training(f"{labelled} labels", event),
    )
    right = predict(network, run.data.test).argmax(1) == run.data.test.labels
    return {"accuracy": right.double().mean().item()}


def few_labels_table(found: Mapping[str, Any]) -> str:
    """Test accuracy by labels of each class, the mean over the seeds."""
    numbers = list(dict.fromkeys(point["labelled"] for point in found["points"]))
    means = {
        (point["labelled"], point["method"]): fmean(point["accuracies"])
        for point in found["points"]
    }
    rows = [[str(n), *(share(means[n, name], 1) for name in METHODS)] for n in numbers]
    return table(("labels of each class", *METHODS), rows)
