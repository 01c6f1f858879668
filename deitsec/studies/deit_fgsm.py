"""A DeiT broken by FGSM, evaluated from files, and what the study left as future work."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deitsec.attacks import CW, FGSM, PGD, Attack, format_spec, parse_spec
from deitsec.data import balanced_rows, to_float
from deitsec.engine import Engine
from deitsec.generation import Settings, generate
from deitsec.metrics import classification_metrics
from deitsec.models import Classifier, load_model, model_sha256, save_checkpoint
from deitsec.report.example import Example, pack_examples
from deitsec.shards import Manifest, ShardRows, read_shard
from deitsec.studies.deit_fgsm_page import render
from deitsec.studies.seen_images import accuracy_seen, accuracy_unseen
from deitsec.studies.study import Study, StudyRun
from deitsec.training import (
    AdversarialConfig,
    adversarial_fit,
    adversarial_recipe,
    distill,
    fit,
    new_model,
    predict,
    recipe,
)
from deitsec.verification.suite import suite_eps

Piece = dict[str, Any]
_CURVE = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # of eps
_PICTURES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is trained and how it is attacked.

    Attributes:
        model: a DeiT, by name.
        pretrained: start from published weights, which are then tuned on labels; else the model
            learns from `teacher`.
        teacher: a convolutional network, by name.
        epochs: of every training; None takes the recipes'.
        robust_epochs: of the adversarial training; None takes half of the model's.
        eps: L-infinity radius; None takes what the field uses on such data.
        per_class: adversarial images of each class.
        strong_per_class: images of each class under C&W and under the attack that decides.
        cw_steps: of each search of C&W.
        strongest: spec of the attack that decides, at eps.
    """

    model: str = field(default="deit_micro", metadata={"help": "A DeiT, by name."})
    pretrained: bool = field(default=False, metadata={"help": "Tune published weights."})
    teacher: str = field(default="small_cnn", metadata={"help": "A convolutional network."})
    epochs: int | None = field(default=None, metadata={"help": "Of every training."})
    robust_epochs: int | None = field(
        default=None, metadata={"help": "Of the adversarial training."}
    )
    eps: float | None = field(default=None, metadata={"help": "L-infinity radius."})
    per_class: int = field(default=100, metadata={"help": "Adversarial images of a class."})
    strong_per_class: int = field(
        default=20, metadata={"help": "Images of a class under C&W and the strongest attack."}
    )
    cw_steps: int = field(default=200, metadata={"help": "Of each search of C&W."})
    strongest: str = field(default="reliable", metadata={"help": "The attack that decides."})

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("per_class", "strong_per_class", "cw_steps", "epochs", "robust_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        parse_spec(self.strongest)


def measure(run: StudyRun[Options]) -> Piece:
    """Train, extract the weights, attack into files, evaluate from the files; then harden."""
    plain, teacher = _plain(run)
    found: Piece = {
        "eps": _eps(run),
        "class_names": list(run.data.class_names),
        "train_rows": 0 if run.data.train is None else len(run.data.train),
        "weights": run.part("weights", partial(_weights, run, plain)),
        "teacher": None
        if teacher is None
        else {
            "architecture": teacher.name,
            **run.part("teacher-clean", partial(accuracy_unseen, teacher, run.data)),
        },
        "seen": run.part("seen", partial(accuracy_seen, plain, run.data)),
        "networks": [],
    }
    robust = _robust(run, plain)
    for name, network, model in (
        ("fine-tuned" if teacher is None else "distilled", plain, "deit"),
        ("adversarially-trained", robust, "robust-deit"),
    ):
        one: Piece = {"name": name, "model": model, "architecture": network.name}
        one["clean"] = run.part(f"{name}-clean", partial(_clean, run, network))
        for key, attack, per_class in _attacks(run):
            make = partial(_from_files, run, network, attack, per_class, f"{name}-{key}")
            one[key] = run.part(f"{name}-{key}", make)
        one["curve"] = run.part(f"{name}-curve", partial(_curve, run, network))["points"]
        found["networks"].append(one)
    return found


def _plain(run: StudyRun[Options]) -> tuple[Classifier, Classifier | None]:
    """The DeiT that is attacked, and its teacher where it has one."""
    options, data = run.options, run.data
    plan = recipe(data, options.model, pretrained=options.pretrained, seed=run.seed)
    build = partial(new_model, options.model, data, pretrained=options.pretrained, seed=run.seed)
    if plan.distillation is None:
        config = plan.fit.with_epochs(options.epochs)
        return run.network("deit", build, partial(_trained, run, fit, config=config)), None
    from_labels = recipe(data, options.teacher, seed=run.seed).fit.with_epochs(options.epochs)
    teacher = run.network(
        "teacher",
        partial(new_model, options.teacher, data, seed=run.seed),
        partial(_trained, run, fit, config=from_labels),
    )
    config = dataclasses.replace(
        plan.distillation, fit=plan.distillation.fit.with_epochs(options.epochs)
    )

    def learn(student: Classifier, **more: Any) -> Any:
        return distill(student.to(run.device), teacher, data, config, **more)

    return run.network("deit", build, learn), teacher


def _robust(run: StudyRun[Options], plain: Classifier) -> Classifier:
    """The adversarially trained DeiT; from new weights a small transformer ends at chance."""
    options = run.options
    against: AdversarialConfig = adversarial_recipe(
        run.data,
        options.model,
        method="trades",
        eps=_eps(run),
        pretrained=options.pretrained,
        seed=run.seed,
    )
    epochs = options.robust_epochs or max(1, (options.epochs or against.fit.epochs) // 2)
    config = dataclasses.replace(against.fit.with_epochs(epochs), lr=against.fit.lr / 2)
    against = dataclasses.replace(against, fit=config, steps=3, curve_every=None)

    def build() -> Classifier:
        model = new_model(options.model, run.data, pretrained=options.pretrained, seed=run.seed)
        model.load_state_dict(plain.state_dict())
        return model

    return run.network(
        "robust-deit", build, partial(_trained, run, adversarial_fit, config=against)
    )


def _trained(run: StudyRun[Options], train: Any, model: Classifier, **more: Any) -> Any:
    return train(model.to(run.device), run.data, **more)


def _eps(run: StudyRun[Options]) -> float:
    return suite_eps(run.data) if run.options.eps is None else run.options.eps


def _attacks(run: StudyRun[Options]) -> list[tuple[str, Attack, int]]:
    """(key, attack, images of each class)."""
    options, eps = run.options, _eps(run)
    return [
        ("fgsm", FGSM(eps=eps), options.per_class),
        ("pgd", PGD(eps=eps, alpha=eps / 4, steps=20), options.per_class),
        (
            "cw",
            CW(steps=options.cw_steps, search_steps=5, initial_const=1.0, lr=0.05),
            options.strong_per_class,
        ),
        ("strongest", parse_spec(options.strongest, eps=eps), options.strong_per_class),
    ]


def _weights(run: StudyRun[Options], network: Classifier) -> Piece:
    """Extract the weights to a file, and load them from it into another model."""
    path = run.workbook.folder / "extracted.safetensors"
    save_checkpoint(network, path, class_names=run.data.class_names)
    again = load_model(checkpoint=path).to(run.device).eval()
    rows = torch.arange(min(64, len(run.data.test)))
    equal = torch.equal(predict(network, run.data.test, rows), predict(again, run.data.test, rows))
    state = network.module.state_dict()
    return {
        "sha256": model_sha256(network),
        "same_sha256": model_sha256(again) == model_sha256(network),
        "same_logits": equal,
        "tensors": len(state),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "bytes": path.stat().st_size,
    }


def _clean(run: StudyRun[Options], network: Classifier) -> Piece:
    """The whole test split."""
    probability, predicted = predict(network, run.data.test).softmax(1).max(1)
    found = classification_metrics(
        predicted, run.data.test.labels, run.data.num_classes, probability
    )
    return dataclasses.asdict(found)


def _from_files(
    run: StudyRun[Options], network: Classifier, attack: Attack, per_class: int, name: str
) -> Piece:
    """Write adversarial images as shards, and evaluate the model on what the files hold."""
    least = int(torch.bincount(run.data.test.labels, minlength=run.data.num_classes).min())
    per_class = min(per_class, least)
    batch = min(256, per_class * run.data.num_classes)  # every batch is filled up to that
    tick = run.rows(name)
    out = run.workbook.folder / f"shards-{name}"
    manifest = generate(
        Engine(network, seed=run.seed, batch_size=batch),
        attack,
        run.data,
        out=out,
        settings=Settings(per_class=per_class, clean_images=True),
        resume=True,
        progress=lambda event: tick(event.rows, event.total),
    )
    shards = [read_shard(out / entry.name)[0] for entry in manifest.shards]
    return _evaluated(run, network, attack, manifest, shards)


def _evaluated(
    run: StudyRun[Options],
    network: Classifier,
    attack: Attack,
    manifest: Manifest,
    shards: Sequence[ShardRows],
) -> Piece:
    images, labels = _column(shards, "image"), _column(shards, "label").long()
    probability, predicted = _asked(network, images, run.device)
    stated = _column(shards, "adversarial_prediction").long()
    right = _column(shards, "clean_prediction").long() == labels
    norm = attack.traits.norm
    names = {"linf": "linf_levels", "l2": "l2", "l1": "l1", "l0": "l0"}
    fallen = _column(shards, "success") & right
    sizes = _column(shards, names[norm]).double()
    sizes = sizes / 255 if norm == "linf" else sizes
    found = classification_metrics(predicted, labels, run.data.num_classes, probability)
    return {
        **dataclasses.asdict(found),
        "spec": format_spec(attack),
        "norm": norm,
        "clean_accuracy": right.double().mean().item(),
        "robust_accuracy": (right & (predicted == labels)).double().mean().item(),
        "success_rate": fallen.sum().item() / max(1, int(right.sum())),
        "median_distance": sizes[fallen].median().item() if fallen.any() else None,
        "predictions_differ": int((stated != predicted).sum()),
        "seconds": sum(entry.seconds or 0.0 for entry in manifest.shards),
        "shards": [
            {"name": entry.name, "rows": entry.rows, "sha256": entry.sha256}
            for entry in manifest.shards
        ],
        "examples": _examples(run, network, shards, attack),
    }


def _column(shards: Sequence[ShardRows], name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([getattr(rows, name) for rows in shards]))


def _asked(network: Classifier, images: Tensor, device: str) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        logits = [network(to_float(part.to(device))).float().cpu() for part in images.split(256)]
    found = torch.cat(logits).softmax(1).max(1)
    return found.values, found.indices


def _examples(
    run: StudyRun[Options], network: Classifier, shards: Sequence[ShardRows], attack: Attack
) -> str | None:
    """The first fallen image of six classes, as base64 of an npz file."""
    shown: dict[int, Example] = {}
    for rows in shards:
        assert rows.clean_image is not None
        for row in range(len(rows)):
            label = int(rows.label[row])
            right = int(rows.clean_prediction[row]) == label
            if label in shown or not (right and bool(rows.success[row])):
                continue
            clean = torch.from_numpy(rows.clean_image[row : row + 1].copy())
            shown[label] = Example(
                row=int(rows.source_row[row]),
                label=label,
                clean=rows.clean_image[row].transpose(1, 2, 0).copy(),
                adversarial=rows.image[row].transpose(1, 2, 0).copy(),
                clean_prediction=label,
                clean_confidence=_asked(network, clean, run.device)[0].item(),
                adversarial_prediction=int(rows.adversarial_prediction[row]),
                adversarial_confidence=float(rows.confidence[row]),
                attack=attack.name,
            )
    picked = [shown[label] for label in sorted(shown)][:_PICTURES]
    return base64.b64encode(pack_examples(picked)).decode() if picked else None


def _curve(run: StudyRun[Options], network: Classifier) -> Piece:
    """Accuracy under FGSM and PGD by eps, on the images of C&W."""
    test, classes = run.data.test, run.data.num_classes
    least = int(torch.bincount(test.labels, minlength=classes).min())
    rows = balanced_rows(test.labels, min(least, run.options.strong_per_class), classes)
    images, labels = to_float(test.images(rows)).to(run.device), test.labels[rows].to(run.device)
    engine = Engine(network, seed=run.seed)
    points: list[Mapping[str, float]] = []
    for share in _CURVE:
        eps = share * _eps(run)
        fgsm = engine.run(FGSM(eps=eps), images, labels)
        pgd = engine.run(PGD(eps=eps, alpha=eps / 4, steps=20), images, labels)
        points.append({"eps": eps, "fgsm": fgsm.robust_accuracy, "pgd": pgd.robust_accuracy})
    return {"points": points}


STUDY = Study(
    name="deit-fgsm",
    title="A DeiT broken by FGSM",
    source=(
        "a study that fine-tunes a DeiT for CIFAR-10 and attacks it by FGSM; Touvron et al., "
        "arXiv:2012.12877; Goodfellow et al., arXiv:1412.6572; Zhang et al., arXiv:1901.08573"
    ),
    data="cifar10",
    options=Options,
    quick={
        "epochs": 2,
        "per_class": 5,
        "strong_per_class": 2,
        "cw_steps": 20,
        "strongest": "apgd:steps=10",
    },
    measure=measure,
    render=render,
)
