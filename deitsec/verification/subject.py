"""The model that is verified: loaded, or trained here and kept for the next time."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deitsec
from deitsec.data import DataSource
from deitsec.environment import cache_folder
from deitsec.models import HEADS, Classifier, load_model, save_checkpoint
from deitsec.models.checkpoint import find_model_card
from deitsec.training import FitResult, TrainingEvent, distill, fit
from deitsec.training.recipes import Recipe, new_model, recipe
from deitsec.verification.protocol import Origin

TEACHER = "small_cnn"
Progress = Callable[[str, TrainingEvent], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRequest:
    """Which model to verify.

    Attributes:
        name: a model name; None where a checkpoint tells it.
        checkpoint: weights to load; nothing is trained then.
        pretrained: take published weights: as they are where they have as many classes as the
            data, else fine-tuned on its training split.
        head: which head of a distilled model answers.
        seed: of weights and training.
        retrain: train again where a trained model is kept already.
        device: where the model goes.
        noise: of the images that a model is trained on here; see `Augmentation.noise`.
    """

    name: str | None = "deit_micro"
    checkpoint: str | None = None
    pretrained: bool = False
    head: str = "average"
    seed: int = 0
    retrain: bool = False
    device: str = "cpu"
    noise: float = 0.0


def obtain(
    request: ModelRequest, data: DataSource, *, progress: Progress | None = None
) -> tuple[Classifier, Origin]:
    """Load or train the model that a request names.

    A distilled transformer learns from a convolutional teacher that is trained first; any other
    model learns from the labels. Trained models are kept in the cache folder under a hash of
    everything that decides them. An interrupted training goes on where it was.

    Args:
        request: which model.
        data: what it classifies.
        progress: called with (stage, event) while training.

    Returns:
        The model in eval mode, and where it came from.

    Raises:
        ValueError: a name, checkpoint or head that is not one, or data without a training split.
    """
    if request.head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, got {request.head!r}")
    channels, height, _ = data.test.shape
    if request.checkpoint is not None:
        model = load_model(
            request.name,
            checkpoint=request.checkpoint,
            num_classes=data.num_classes,
            in_chans=channels,
            image_size=height,
            head=request.head,
        )
        _check_class_names(request.checkpoint, data)
        card = find_model_card(Path(request.checkpoint))
        training = None if card is None or card.training is None else dict(card.training)
        return model.to(request.device), Origin(kind="checkpoint", training=training)
    assert request.name is not None
    if request.pretrained:
        model = load_model(request.name, pretrained=True, head=request.head)
        if model.num_classes == data.num_classes:
            return model.to(request.device), Origin(kind="pretrained")
    return _trained(request, request.name, data, progress)


def _check_class_names(checkpoint: str, data: DataSource) -> None:
    """Refuse a checkpoint that numbers the classes otherwise than the data does."""
    card = find_model_card(Path(checkpoint))
    plain = tuple(map(str, range(data.num_classes)))
    if card is None or card.class_names is None or plain in (card.class_names, data.class_names):
        return
    for label, (theirs, ours) in enumerate(zip(card.class_names, data.class_names, strict=True)):
        if theirs != ours:
            raise ValueError(
                f"class {label} is {theirs!r} in {checkpoint} and {ours!r} in {data.uri}: the "
                "labels do not mean the same"
            )


def _trained(
    request: ModelRequest, name: str, data: DataSource, progress: Progress | None
) -> tuple[Classifier, Origin]:
    plan = recipe(data, name, pretrained=request.pretrained, seed=request.seed, noise=request.noise)
    identity = _identity(request, name, data, plan)
    path = _path(name, identity)
    if path.exists() and not request.retrain:
        model = load_model(checkpoint=path, head=request.head).to(request.device)
        return model, Origin(kind="cache", training=identity)
    if data.train is None:
        raise ValueError(
            f"{data.uri} has no training split and no trained {name} is kept for it; "
            "pass --checkpoint, or data with one"
        )
    model = new_model(name, data, pretrained=request.pretrained, seed=request.seed)
    if request.head != "average" and not model.distilled:
        raise ValueError(f"head {request.head!r} was asked for, but {name} has one head")
    model = model.to(request.device)
    result = _train(request, model, data, plan, path, progress)
    training = {**identity, "seconds": result.seconds, "best_epoch": result.best_epoch}
    save_checkpoint(model, path, training=training, class_names=data.class_names)
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    return load_model(checkpoint=path, head=request.head).to(request.device), Origin(
        kind="trained", training=training
    )


def _train(
    request: ModelRequest,
    model: Classifier,
    data: DataSource,
    plan: Recipe,
    path: Path,
    progress: Progress | None,
) -> FitResult:
    """Train beside `path`, so that an interrupted run is found again."""

    def tell(event: TrainingEvent) -> None:
        if progress is not None:
            progress(f"training {model.name}", event)

    state = path.with_suffix("")
    if request.retrain:
        shutil.rmtree(state, ignore_errors=True)
    if plan.distillation is None:
        return fit(model, data, plan.fit, out=state, resume=True, progress=tell)
    teacher_request = ModelRequest(
        name=TEACHER,
        seed=request.seed,
        retrain=request.retrain,
        device=request.device,
        noise=request.noise,
    )
    teacher, _ = _trained(teacher_request, TEACHER, data, progress)
    return distill(model, teacher, data, plan.distillation, out=state, resume=True, progress=tell)


def _identity(request: ModelRequest, name: str, data: DataSource, plan: Recipe) -> dict[str, Any]:
    """Everything that decides the weights."""
    identity: dict[str, Any] = {
        "model": name,
        "pretrained": request.pretrained,
        "seed": request.seed,
        "method": "fit" if plan.distillation is None else plan.distillation.method,
        "epochs": plan.fit.epochs,
        "recipe": asdict(plan),
        "image_shape": data.test.shape,
        "data": {"uri": data.uri, "sha256": data.sha256},
        "deitsec": deitsec.__version__,
    }
    if plan.distillation is not None:
        teacher = recipe(data, TEACHER, pretrained=False, seed=request.seed, noise=request.noise)
        identity["teacher"] = {"model": TEACHER, "recipe": asdict(teacher)}
    return identity


def _path(name: str, identity: Mapping[str, Any]) -> Path:
    decisive = {key: value for key, value in identity.items() if key != "data"}
    decisive["data"] = identity["data"]["sha256"]  # the same data under another path is the same
    text = json.dumps(decisive, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return cache_folder() / "models" / f"{name}-{digest}.safetensors"
