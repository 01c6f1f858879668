"""One perturbation for all images: the record, and its file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from deitsec.types import NORMS, Norm
from deitsec.whole_files import replace_files

_KIND = "deitsec universal perturbation"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UniversalPerturbation:
    """A change that fools a model on most images (Moosavi-Dezfooli et al., arXiv:1610.08401).

    Attributes:
        delta: (C, H, W) what is added to every image.
        eps: radius that it stays in.
        norm: of the radius.
        target: class that it aims at; None aims at none.
        fooling_rate: share of the images it was fitted on whose answer it changes, or turns into
            the target; NaN where nobody measured.
        rates: the same after each epoch of the fit.
    """

    delta: Tensor
    eps: float
    norm: Norm = "linf"
    target: int | None = None
    fooling_rate: float = float("nan")
    rates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Validate the record.

        Raises:
            ValueError: a delta of another shape, not finite or beyond its radius.
        """
        if self.delta.ndim != 3 or not self.delta.is_floating_point():
            shape = tuple(self.delta.shape)
            raise ValueError(f"delta must be (C, H, W) float, got {shape} {self.delta.dtype}")
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"norm must be linf or l2, got {self.norm!r}")
        if not 0 < self.eps < float("inf"):
            raise ValueError(f"eps must be > 0 and finite, got {self.eps}")
        size = self.size
        if not size <= self.eps * (1 + 1e-5):  # also false for NaN
            raise ValueError(f"delta must be within eps={self.eps:g} in {self.norm}, got {size:g}")

    @property
    def size(self) -> float:
        """Norm of delta."""
        flat = self.delta.flatten().double()
        return float(flat.abs().max() if self.norm == "linf" else flat.norm())

    def apply(self, images: Tensor) -> Tensor:
        """(B, C, H, W) the images with the perturbation, in [0, 1], in their dtype.

        Raises:
            ValueError: images of another shape.
        """
        if images.shape[1:] != self.delta.shape:
            raise ValueError(
                f"the perturbation is for images of {tuple(self.delta.shape)}, got "
                f"{tuple(images.shape[1:])}"
            )
        return (images + self.delta.to(images.device)).clamp(0, 1).to(images.dtype)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        about = {
            "kind": _KIND,
            "eps": repr(self.eps),
            "norm": self.norm,
            "target": "" if self.target is None else str(self.target),
            "fooling_rate": repr(self.fooling_rate),
            "rates": ",".join(map(repr, self.rates)),
        }
        delta = self.delta.detach().cpu().contiguous()
        replace_files({Path(path): to_safetensors({"delta": delta}, about)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote, to the CPU.

        Raises:
            ValueError: no such file, or one of another kind.
        """
        if not Path(path).is_file():
            raise ValueError(f"{path}: there is no such file")
        try:
            with cast(Any, safe_open)(str(path), framework="pt", device="cpu") as file:
                about: dict[str, str] = dict(file.metadata() or {})
                if about.get("kind") != _KIND:
                    raise ValueError(f"{path}: holds no universal perturbation")
                delta: Tensor = file.get_tensor("delta").clone()
        except SafetensorError as error:
            raise ValueError(f"{path}: no safetensors file, or damaged ({error})") from error
        try:
            if about["norm"] not in NORMS:
                raise ValueError(f"norm must be linf or l2, got {about['norm']!r}")
            return cls(
                delta=delta,
                eps=float(about["eps"]),
                norm=about["norm"],
                target=int(about["target"]) if about["target"] else None,
                fooling_rate=float(about["fooling_rate"]),
                rates=tuple(float(rate) for rate in filter(None, about["rates"].split(","))),
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error


def projected(delta: Tensor, eps: float, norm: Norm) -> Tensor:
    """The nearest point of the ball around 0."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    size = torch.linalg.vector_norm(delta)
    return delta * torch.where(size > eps, eps / size, 1.0)
