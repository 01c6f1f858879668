"""A generator of adversarial images beside FGSM and PGD, on the digits and on a larger set."""

import os
import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deitsec.attacks import FGSM, PGD, AdvGAN, Attack, PerturbationGenerator, RandomSearch
from deitsec.data import DataSource, load_data, to_float
from deitsec.models import Classifier
from deitsec.studies.advgan_page import render
from deitsec.studies.study import Study, StudyRun
from deitsec.training import GeneratorConfig, fit, train_generator
from deitsec.training.generator_comparison import compare_attacks, generation_rate
from deitsec.training.recipes import new_model, recipe
from deitsec.verification.protocol import choose_rows
from deitsec.verification.suite import suite_eps

_SMALL = "digits"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the study goes."""

    models: tuple[str, ...] = field(
        default=("small_cnn", "deit_micro"), metadata={"help": "Attacked on the digits."}
    )
    model: str = field(
        default="small_cnn", metadata={"help": "Attacked on the data, where these are others."}
    )
    epochs: int = field(default=20, metadata={"help": "Of a generator on the digits."})
    data_epochs: int = field(default=3, metadata={"help": "Of the generator on the data."})
    data_rows: int = field(
        default=20000, metadata={"help": "Training images of the generator on the data."}
    )
    networks_epochs: int = field(
        default=0, metadata={"help": "Of the attacked models; 0 takes those of their recipes."}
    )
    kappa: float = field(default=1.0, metadata={"help": "Of the generator's margin."})
    gan_weight: float = field(default=0.1, metadata={"help": "Of the discriminator."})
    lr: float = field(default=2e-3, metadata={"help": "Peak learning rate of a generator."})
    per_class: int = field(default=50, metadata={"help": "Test images of each class."})

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            ValueError: an option out of its range.
        """
        if not self.models:
            raise ValueError("models must hold at least one name")
        if self.networks_epochs < 0:
            raise ValueError(f"networks_epochs must be >= 0, got {self.networks_epochs}")
        for name in ("per_class", "data_epochs", "data_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self.config(eps=0.1, seed=0, epochs=self.epochs)

    def config(
        self, *, eps: float, seed: int, epochs: int, rows: int | None = None
    ) -> GeneratorConfig:
        """How a generator is trained."""
        plain = GeneratorConfig(eps=eps, kappa=self.kappa, gan_weight=self.gan_weight, rows=rows)
        settled = replace(plain.fit, epochs=epochs, lr=self.lr, seed=seed)
        return replace(plain, fit=replace(settled, batch_size=64 if rows is None else 128))


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A model on some data, and where its generator is kept."""

    name: str
    data: DataSource
    model: Classifier
    config: GeneratorConfig
    file: Path


def measure(run: StudyRun[Options]) -> dict[str, Any]:
    """Train a generator against each model; attack it by that and by others at the same radius."""
    options = run.options
    digits = run.data if run.data.name == _SMALL else load_data(_SMALL)
    subjects = [
        _subject(run, f"{_SMALL}-{name}", name, digits, epochs=options.epochs)
        for name in options.models
    ]
    if run.data.name != _SMALL:
        more = {"epochs": options.data_epochs, "rows": options.data_rows}
        subjects.append(_subject(run, f"data-{options.model}", options.model, run.data, **more))
    trained = [
        run.part(f"generator-{subject.name}", partial(_train, run, subject)) for subject in subjects
    ]
    attacked = [
        run.part(f"attacks-{subject.name}", partial(_attack, run, subject)) for subject in subjects
    ]
    found = [
        {
            "model": subject.model.name,
            "data": subject.data.name,
            "eps": subject.config.eps,
            "generator": generator,
            **attacks,
        }
        for subject, generator, attacks in zip(subjects, trained, attacked, strict=True)
    ]
    small = [subject for subject in subjects if subject.data is digits]
    return {"subjects": found, "transfer": run.part("transfer", partial(_transfer, run, small))}


def _subject(run: StudyRun[Options], key: str, name: str, data: DataSource, **how: Any) -> _Subject:
    config = recipe(data, name, seed=run.seed).fit.with_epochs(run.options.networks_epochs)
    model = run.network(
        f"model-{key}",
        lambda: new_model(name, data, seed=run.seed).to(run.device),
        lambda network, **more: fit(network, data, config, **more),
    )
    return _Subject(
        name=key,
        data=data,
        model=model,
        config=run.options.config(eps=suite_eps(data), seed=run.seed, **how),
        file=run.workbook.folder / f"{key}.safetensors",
    )


def _train(run: StudyRun[Options], subject: _Subject) -> dict[str, Any]:
    """Train a generator; its file is whole before the part says that it is done."""
    state = subject.file.with_suffix(".training")
    trained = train_generator(
        subject.model,
        subject.data,
        subject.config,
        out=state,
        resume=True,
        progress=lambda event: run.shown.training(f"generator, {subject.name}", event),
    )
    trained.generator.save(subject.file)
    shutil.rmtree(state, ignore_errors=True)
    result = trained.fit
    return {
        "parameters": sum(p.numel() for p in trained.generator.network.parameters()),
        "rows": result.num_train,
        "validation_rows": result.num_validation,
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "validation_success": [record.validation_accuracy for record in result.history],
        "seconds": result.seconds,
    }


def _images(run: StudyRun[Options], data: DataSource) -> tuple[torch.Tensor, torch.Tensor]:
    rows = choose_rows(data, run.options.per_class)
    return to_float(data.test.images(rows)), data.test.labels[rows]


def _attack(run: StudyRun[Options], subject: _Subject) -> dict[str, Any]:
    """What falls to each attack on test images that nothing was trained or chosen on."""
    images, labels = _images(run, subject.data)
    eps = subject.config.eps
    attacks: tuple[Attack, ...] = (
        RandomSearch(eps=eps, points=2),
        AdvGAN(generator=str(subject.file)),
        FGSM(eps=eps),
        PGD(eps=eps, steps=10),
    )
    found = compare_attacks(
        subject.model, attacks, images, labels, seed=run.seed, progress=run.shown.rows
    )
    for entry in found:
        if entry["name"] == "advgan":
            entry["spec"] = "advgan"  # the file is named for nobody else
    with torch.no_grad():
        right = [subject.model(some.to(run.device)).argmax(1).cpu() for some in images.split(256)]
    generator = PerturbationGenerator.load(subject.file)
    return {
        "rows": len(images),
        "accuracy": (torch.cat(right) == labels).double().mean().item(),
        "attacks": found,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "generated_per_second": generation_rate(generator, images.to(run.device)),
    }


def _transfer(run: StudyRun[Options], subjects: list[_Subject]) -> dict[str, Any]:
    """The share of right answers that each generator turns wrong in each model of the digits."""
    images, labels = _images(run, subjects[0].data)
    rate: list[list[float]] = []
    for made in subjects:
        moved = PerturbationGenerator.load(made.file).apply(images)
        row: list[float] = []
        for asked in subjects:
            with torch.no_grad():
                before, after = (
                    asked.model(some.to(run.device)).argmax(1).cpu() for some in (images, moved)
                )
            right = before == labels
            row.append((after != labels)[right].double().mean().item())
        rate.append(row)
    return {"names": [subject.model.name for subject in subjects], "rate": rate}


STUDY = Study(
    name="advgan",
    title="A generator of adversarial images beside FGSM and PGD",
    source="Xiao et al., Generating Adversarial Examples with Adversarial Networks, "
    "arXiv:1801.02610",
    data="mnist",
    options=Options,
    quick={
        "models": ("small_cnn",),
        "networks_epochs": 5,
        "epochs": 3,
        "per_class": 4,
    },
    measure=measure,
    render=render,
)
