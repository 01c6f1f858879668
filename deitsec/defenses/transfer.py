"""Whether images made to fool one model fool others."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks import Attack, HopSkipJumpLinf, Square, format_spec
from deitsec.defenses.flight import in_flight
from deitsec.defenses.same_size_noise import noise_of_same_size
from deitsec.engine import Engine
from deitsec.engine.access import access_of
from deitsec.engine.guard import attack_mode
from deitsec.types import ACCESSES

_TOGETHER = 256

Progress = Callable[[str, int, int], object]


@dataclass(frozen=True, kw_only=True)
class TransferMatrix:
    """Shares of images that fool a target, by the model that they were made on.

    All shares are of the rows that the target was right about before.

    Attributes:
        names: of the S models, which are sources and targets.
        attacks: S specs, what the images were made by on each source.
        rate: (S, S) share that the target (column) gets wrong, of images made on the source (row);
            the diagonal is the attack on the source itself. None where a target was never right.
        noise: the same of noise of the same size (`noise_of_same_size`).
        accuracy: (S,) of each target on the clean images.
        rows: images.
    """

    names: tuple[str, ...]
    attacks: tuple[str, ...]
    rate: tuple[tuple[float | None, ...], ...]
    noise: tuple[tuple[float | None, ...], ...]
    accuracy: tuple[float, ...]
    rows: int

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


def transfer_matrix(
    models: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    surrogates: Mapping[str, nn.Module] | None = None,
    seed: int = 0,
    queries: int = 1000,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> TransferMatrix:
    """Make images on every model, and ask every model about them.

    An attack spends its whole budget on the highest loss of its source (`stop="never"`): one that
    stops at the border of the source's class says little of others. On a source that gives no
    gradients the images are made by Square (scores) or HopSkipJump (decisions) within the same eps,
    unless there is a surrogate of it.

    Args:
        models: by name; images (B, C, H, W) in [0, 1] -> (B, K) logits.
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) int64.
        attack: what is run on each source; with an L-infinity radius where a source gives no
            gradients.
        surrogates: by name of a model: one whose gradients the attack follows in its stead; the
            model itself judges which of the images are its highest loss.
        seed: of the attacks and the noise.
        queries: of an image, on a source that gives no gradients.
        batch_size: of the attacks; None takes what fits.
        progress: called with (source, rows done, rows in all).

    Raises:
        ValueError: no model, models of different classes, labels out of range, or an attack that
            has no form for a source.
    """
    _check_classes(models, images, labels)
    followed = surrogates or {}
    chosen = {
        name: attack_for(name, followed.get(name, model), attack, queries=queries)
        for name, model in models.items()
    }
    clean = {name: predict(model, images, seed=seed) == labels for name, model in models.items()}
    ids = torch.arange(len(images))
    rate: list[tuple[float | None, ...]] = []
    noise: list[tuple[float | None, ...]] = []
    for name, model in models.items():
        engine = Engine(
            model,
            surrogate=followed.get(name),
            stop="never",
            seed=seed,
            batch_size=batch_size or "auto",
        )
        adv = engine.run(chosen[name], images, labels, progress=_told(progress, name)).adv
        shuffled = noise_of_same_size(images, adv, ids.to(images.device), seed=seed)
        for found, shown in ((rate, adv), (noise, shuffled)):
            found.append(_fooled(models, clean, shown, labels, seed))
    return TransferMatrix(
        names=tuple(models),
        attacks=tuple(format_spec(chosen[name]) for name in models),
        rate=tuple(rate),
        noise=tuple(noise),
        accuracy=tuple(right.double().mean().item() for right in clean.values()),
        rows=len(images),
    )


def _told(progress: Progress | None, name: str) -> Callable[[int, int], None]:
    """What to tell of one source."""

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(name, done, total)

    return tell


def _fooled(
    models: Mapping[str, nn.Module],
    clean: Mapping[str, Tensor],
    shown: Tensor,
    labels: Tensor,
    seed: int,
) -> tuple[float | None, ...]:
    """Of each target the share of its `clean` right rows that it gets wrong as they are shown."""
    return tuple(
        _share((predict(target, shown, seed=seed) != labels)[clean[name]])
        for name, target in models.items()
    )


def attack_for(name: str, model: nn.Module, attack: Attack, *, queries: int = 1000) -> Attack:
    """The attack itself, or one within its radius that asks for no more than a model gives.

    Raises:
        ValueError: the model gives too little, and the attack has no L-infinity radius, or a
            target.
    """
    access = access_of(model)
    if ACCESSES.index(attack.traits.needs) <= ACCESSES.index(access):
        return attack
    if attack.target is not None:
        raise ValueError(
            f"{attack.name} aims at {attack.target} and needs gradients, and {name} gives {access} "
            "only: give an attack without a target, for which Square or HopSkipJump stand in"
        )
    if attack.radius is None or attack.traits.norm != "linf":
        raise ValueError(
            f"{attack.name} needs gradients and {name} gives {access} only; give an attack with an "
            "L-infinity radius (eps), for which Square or HopSkipJump stand in"
        )
    if access == "scores":
        return Square(eps=attack.radius, n_queries=queries)
    return HopSkipJumpLinf(eps=attack.radius, max_queries=queries)


def predict(model: nn.Module, images: Tensor, *, seed: int = 0) -> Tensor:
    """Return the predicted classes (N,) int64, in eval mode; the model is left as it was found.

    Row i is sample i to a model that draws, whose draws `seed` decides.
    """
    place = next((p.device for p in model.parameters()), images.device)
    with attack_mode(model), torch.no_grad():
        ids = torch.arange(len(images), device=place).split(_TOGETHER)
        found: list[Tensor] = []
        for part, some in zip(images.split(_TOGETHER), ids, strict=True):
            with in_flight(some, seed):
                found.append(model(part.to(place)).argmax(1))
    return torch.cat(found).to(images.device)


def _share(hits: Tensor) -> float | None:
    return hits.double().mean().item() if len(hits) else None


def _check_classes(models: Mapping[str, nn.Module], images: Tensor, labels: Tensor) -> None:
    if not models or len(images) == 0:
        raise ValueError(f"models and images must be given, got {len(models)} and {len(images)}")
    counts: dict[str, int] = {}
    for name, model in models.items():
        place = next((p.device for p in model.parameters()), images.device)
        with attack_mode(model), torch.no_grad():
            counts[name] = model(images[:1].to(place)).shape[-1]
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"models of a transfer matrix must have the same classes, got {told}")
    most = min(counts.values())
    if int(labels.min()) < 0 or int(labels.max()) >= most:
        raise ValueError(
            f"labels must be in 0 to {most - 1}, got {int(labels.min())} to {int(labels.max())}"
        )
