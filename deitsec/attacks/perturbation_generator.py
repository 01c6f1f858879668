"""A trained generator of perturbations: the record, and its file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.func import functional_call  # pyright: ignore[reportUnknownVariableType]

from deitsec.attacks.attack import check_budget
from deitsec.attacks.generator_network import GeneratorNetwork
from deitsec.whole_files import replace_files

Aim = int | Literal["any"] | None
"""A class, any class that is asked for, or none: the label is to lose."""

_CARD_KEY, _FORMAT = "deitsec_generator", 1
_MOST_CLASSES, _MOST_WIDTH, _MOST_BLOCKS = 1 << 20, 1 << 12, 1 << 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PerturbationGenerator:
    """A network that makes an image adversarial in one pass (Xiao et al., arXiv:1801.02610).

    Attributes:
        network: what makes the perturbations; it is not changed.
        eps: L-infinity radius that it was trained for, in (0, 1].
        shape: (C, H, W) of the images that it was trained on.
        num_classes: of the model that it was trained against.
        target: the class it aims at, `any` where it is told with each image, None where the labels
            are to lose.
        model: name and `sha256` (of the weights) of the model that it was trained against.
        training: the recipe, seed and data, anything that JSON can say.

    Raises:
        ValueError: attributes that do not fit each other, or weights that are not finite.
    """

    network: GeneratorNetwork
    eps: float
    shape: tuple[int, int, int]
    num_classes: int
    target: Aim
    model: Mapping[str, str]
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    _placed: dict[Any, dict[str, Tensor]] = field(
        init=False, repr=False, default_factory=dict[Any, dict[str, Tensor]]
    )

    def __post_init__(self) -> None:
        """Validate the record."""
        check_budget("generator", self.eps)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be (C, H, W), got {self.shape}")
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {self.num_classes}")
        if isinstance(self.target, int) and not 0 <= self.target < self.num_classes:
            raise ValueError(f"target must be in 0 to {self.num_classes - 1}, got {self.target}")
        classes = self.num_classes if self.target == "any" else 0
        if (self.network.channels, self.network.classes) != (self.shape[0], classes):
            raise ValueError(
                f"the network must be of {self.shape[0]} channels and {classes} classes to aim at, "
                f"got {self.network.channels} and {self.network.classes}"
            )
        if set(self.model) != {"name", "sha256"}:
            raise ValueError(f"model must say name and sha256, got {sorted(self.model)}")
        if not all(bool(tensor.isfinite().all()) for tensor in self.network.state_dict().values()):
            raise ValueError("a weight of the generator is not finite")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise a ValueError for images (C, H, W) of another shape than it was trained on."""
        if tuple(shape) != self.shape:
            raise ValueError(f"is for images of {self.shape}, got {tuple(shape)}")

    def apply(
        self, images: Tensor, targets: Tensor | None = None, *, eps: float | None = None
    ) -> Tensor:
        """(B, C, H, W) the adversarial images, in [0, 1], in the dtype of the images.

        Args:
            images: (B, C, H, W) float in [0, 1].
            targets: (B,) int64 whom to aim at; of a generator for any class, and only then.
            eps: a smaller radius than its own, to which the perturbations are clipped.

        Raises:
            ValueError: images of another shape, targets where it takes none or none where it takes
                them, or a radius beyond its own.
        """
        self.check_shape(tuple(images.shape[1:]))
        if (targets is None) == (self.target == "any"):
            wants = "needs targets" if targets is None else "takes no targets"
            raise ValueError(f"the generator {wants}: it was trained for target={self.target!r}")
        radius = self.eps if eps is None else eps
        if not 0 < radius <= self.eps:
            raise ValueError(f"eps must be in (0, {self.eps:g}], as trained, got {radius}")
        wide = torch.promote_types(images.dtype, torch.float32)
        clean = images.to(wide)
        weights = self._weights(images.device, wide)
        with torch.no_grad():
            unit: Tensor = functional_call(self.network, weights, (clean, targets))
        change = (self.eps * unit).clamp(-radius, radius)
        # clipped in the images' own dtype: within the ball to the last bit
        low, high = images - radius, images + radius
        return (clean + change).to(images.dtype).clamp(low, high).clamp(0, 1)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; folders are made.

        Raises:
            ValueError: a name that does not end in .safetensors.
            TypeError: `training` that JSON cannot say.
        """
        if Path(path).suffix != ".safetensors":
            raise ValueError(f"path must end in .safetensors, got {path}")
        card = {"format": _FORMAT, **self.card()}
        owned = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.network.state_dict().items()
        }
        text = json.dumps(card, sort_keys=True, allow_nan=False)
        replace_files({Path(path): to_safetensors(owned, {_CARD_KEY: text})})

    def card(self) -> dict[str, Any]:
        """What the file says beside the weights, as plain values."""
        return {
            "eps": self.eps,
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "target": self.target,
            "width": self.network.width,
            "blocks": len(self.network.blocks),
            "model": dict(self.model),
            "training": dict(self.training),
        }

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote, to the CPU; nothing in the file is run.

        Raises:
            ValueError: no such file, one of another kind, or a damaged one.
        """
        card, tensors = _read(Path(path))
        try:
            return cls(
                network=_network(card, tensors),
                eps=float(card["eps"]),
                shape=cast(Any, tuple(map(int, card["shape"]))),
                num_classes=int(card["num_classes"]),
                target=_aim(card["target"]),
                model={str(key): str(value) for key, value in card["model"].items()},
                training=dict(card["training"]),
            )
        except KeyError as error:
            raise ValueError(f"{path}: the generator's card lacks {error}") from error
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            line = " ".join(str(error).split())
            raise ValueError(f"{path}: does not fit its own card: {line}") from error

    def _weights(self, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The weights where and as the images are; they are moved once."""
        if (device, dtype) not in self._placed:
            state = self.network.state_dict()
            moved = {name: tensor.to(device, dtype) for name, tensor in state.items()}
            self._placed[device, dtype] = moved
        return self._placed[device, dtype]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        with cast(Any, safe_open)(str(path), framework="pt", device="cpu") as file:
            text = dict(file.metadata() or {}).get(_CARD_KEY)
            if text is None:
                raise ValueError(
                    f"{path}: holds no generator; `deitsec train-generator` writes one"
                )
            # cloned: safetensors maps the file, and a later change of it would reach the weights
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: no safetensors file, or damaged ({error})") from error
    try:
        card: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: the generator's card is not JSON ({error})") from error
    if not isinstance(card, dict) or cast(Any, card).get("format") != _FORMAT:
        raise ValueError(f"{path}: the generator's card must be an object of format {_FORMAT}")
    return cast(dict[str, Any], card), tensors


def _network(card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GeneratorNetwork:
    classes = int(card["num_classes"]) if card["target"] == "any" else 0
    width, blocks = int(card["width"]), int(card["blocks"])
    if classes > _MOST_CLASSES or width > _MOST_WIDTH or not 0 <= blocks <= _MOST_BLOCKS:
        raise ValueError(f"{width} channels, {blocks} blocks and {classes} classes are too many")
    with torch.device("meta"):  # the card alone takes no memory: the weights must bear it out
        network = GeneratorNetwork(
            int(card["shape"][0]), width=width, blocks=blocks, classes=classes
        )
    network.load_state_dict(tensors, assign=True)
    return network.requires_grad_(False).eval()


def _aim(value: object) -> Aim:
    if value is None or value == "any" or (isinstance(value, int) and not isinstance(value, bool)):
        return cast(Aim, value)
    raise ValueError(f"target must be a class, 'any' or null, got {value!r}")
