"""What a contaminated training set does to a model, who finds its rows, and what that mends."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from deitsec.data import DataSource, Poisoned, Subset, with_trigger
from deitsec.defenses.activation_clustering import ActivationClustering
from deitsec.defenses.spectral_signature import spectral_signatures
from deitsec.defenses.suspicion import Suspicion, features_of, judge
from deitsec.models import Classifier
from deitsec.training.evaluate import predict

Train = Callable[[str, DataSource], Classifier]
"""(what the model is, data) -> a model trained on `data.train`."""
Detector = Callable[[Tensor, Tensor], Suspicion]
"""(features (N, D), labels (N,)) -> who looks poisoned."""


def measure_poisoning(
    data: DataSource,
    poisoned: Poisoned,
    train: Train,
    *,
    detectors: Mapping[str, Detector],
    retrain: bool = True,
) -> dict[str, Any]:
    """Train on clean and on contaminated data, look for the poison, and train without it.

    Args:
        data: the clean source.
        poisoned: the same, contaminated.
        train: trains a model; asked for `clean`, `poisoned` and `without <detector>`.
        detectors: who looks, by name; see `standard_detectors`.
        retrain: whether models are trained without the rows that each detector flags.

    Returns:
        Plain values: `contamination`; `clean` and `poisoned`, the `effect` on each model; and
        `detectors`, a list of what `judge` says of each, with its `classes` and, where it was
        trained, the effect on the model `without` the flagged rows.
    """
    assert poisoned.data.train is not None
    model = train("poisoned", poisoned.data)
    document: dict[str, Any] = {
        "contamination": {
            "what": poisoned.what,
            "poisoned": len(poisoned.rows),
            "rows": len(poisoned.data.train),
            "largest_share": poisoned.largest_share,
        },
        "clean": effect(train("clean", data), data, poisoned),
        "poisoned": effect(model, data, poisoned),
        "detectors": [],
    }
    features = features_of(model, poisoned.data.train)
    for name, detector in detectors.items():
        suspicion = detector(features, poisoned.data.train.labels)
        found = {"name": name, **judge(suspicion, poisoned.mask), "classes": suspicion.classes}
        if retrain and not bool(suspicion.flagged.all()):
            mended = train(f"without {name}", without(poisoned.data, suspicion.flagged))
            found["without"] = effect(mended, data, poisoned)
        document["detectors"].append(found)
    return document


def standard_detectors(
    poisoned: Poisoned, *, expected: float | None = None, seed: int = 0
) -> dict[str, Detector]:
    """Spectral signatures, and activation clustering after ICA and after PCA.

    Args:
        poisoned: what is looked through.
        expected: largest share of a class that may be poisoned, for spectral signatures; None takes
            the true one, which the paper grants its defender.
        seed: of the clustering.
    """
    share = poisoned.largest_share if expected is None else expected
    return {
        "spectral signature": lambda features, labels: spectral_signatures(
            features, labels, expected=share
        ),
        "activation clustering (ica)": ActivationClustering(seed=seed),
        "activation clustering (pca)": ActivationClustering(reduction="pca", seed=seed),
    }


def effect(model: Classifier, data: DataSource, poisoned: Poisoned) -> dict[str, float | None]:
    """Measure what contamination did to a model, on the clean test split.

    Returns:
        `accuracy`; for a backdoor `attack_success`, the share of triggered test images of other
        classes that are taken for the target, and `without_trigger`, the same of these images as
        they are; where labels of one class were flipped to another, `flipped`, the share of its
        test images that are taken for the target. None where it does not apply.
    """
    labels = data.test.labels
    predicted = predict(model, data.test).argmax(1)
    found: dict[str, float | None] = {
        "accuracy": _share(predicted == labels),
        "attack_success": None,
        "without_trigger": None,
        "flipped": None,
    }
    if poisoned.trigger is not None:
        others = (labels != poisoned.target).nonzero()[:, 0]
        marked = predict(model, with_trigger(data.test, poisoned.trigger), others).argmax(1)
        found["attack_success"] = _share(marked == poisoned.target)
        found["without_trigger"] = _share(predicted[others] == poisoned.target)
    elif poisoned.source is not None and poisoned.target is not None:
        found["flipped"] = _share(predicted[labels == poisoned.source] == poisoned.target)
    return found


def without(data: DataSource, flagged: Tensor) -> DataSource:
    """Leave flagged rows (N,) bool out of the training split.

    Raises:
        ValueError: all rows are flagged, or there is no training split.
    """
    if data.train is None:
        raise ValueError(f"{data.uri} has no training split to leave rows out of")
    kept = (~flagged).nonzero()[:, 0]
    if len(kept) == 0:
        raise ValueError(f"every training row of {data.uri} is flagged: there is nothing left")
    told = f"{data.uri}, without {int(flagged.sum())} flagged rows"
    return replace(data, uri=told, train=Subset(base=data.train, rows=kept))


def _share(hits: Tensor) -> float | None:
    return hits.double().mean().item() if len(hits) else None
