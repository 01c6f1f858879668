"""AutoAttack as its authors' package is called, with the log lines that people parse."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks.attack import check_budget
from deitsec.attacks.autoattack import VERSIONS
from deitsec.compat.autoattack_options import (
    APGDOptions,
    AttackOptions,
    FABOptions,
    SquareOptions,
    TargetedAPGDOptions,
    checked_names,
)
from deitsec.engine.engine import Engine
from deitsec.engine.guard import attack_mode, calculation
from deitsec.types import Norm

_NORMS: dict[str, Norm] = {"Linf": "linf", "L2": "l2", "L1": "l1"}
_KNOWN = (*VERSIONS, "custom")
_OPTIONS = ("apgd", "apgd_targeted", "fab", "square")
_SET = ("model", "epsilon", "seed", "verbose", "attacks_to_run", "log_path")
_MASKED = 0.002  # a drop of accuracy by Square alone that theirs warns of
Individual = Tensor | tuple[Tensor, Tensor]


class AutoAttack:
    """The class of the package `autoattack` (Croce and Hein, arXiv:2003.01690), on the engine.

    Args:
        model: (B, C, H, W) images in [0, 1] -> (B, K) logits; a module, or any callable.
        norm: `Linf`, `L2` or `L1`.
        eps: radius.
        seed: of every draw; None takes the time.
        verbose: whether to print, and to write to the log file; a warning about Square always is.
        attacks_to_run: names of attacks, with version="custom" only.
        version: `standard`, `plus`, `rand` or `custom`.
        is_tf_model: must be False.
        device: where a callable that is no module computes; a module stays where it is.
        log_path: file that the lines are added to.

    Attributes:
        attacks_to_run: names of the attacks, in order; may be set.
        epsilon: radius; may be set, as may model, seed, verbose and log_path.
        apgd: options of `apgd-ce` and `apgd-dlr`, which may be set: `apgd.n_restarts = 2`. So have
            apgd_targeted, fab and square theirs. An attack uses them as they are when it starts.

    Raises:
        ValueError: an unknown norm, version or attack.
        AttributeError: on setting what is no attribute or option here.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: torch.device | str | None = None,
        log_path: str | Path | None = None,
    ) -> None:
        if norm not in _NORMS:
            raise ValueError(f"AutoAttack: norm must be one of {', '.join(_NORMS)}, got {norm!r}")
        if is_tf_model:
            raise ValueError("AutoAttack: is_tf_model must be False: models are PyTorch's here")
        if attacks_to_run and version != "custom":
            raise ValueError("AutoAttack: attacks_to_run goes with version='custom' only")
        self._device, self._norm = device, norm
        self.model: nn.Module = self._module(model)
        self.epsilon, self.seed = eps, seed
        self.verbose, self.log_path = verbose, log_path
        self._take(version)
        if attacks_to_run:
            self.attacks_to_run = checked_names(attacks_to_run, version)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what there is to set: a misspelt name would be ignored, and the figure be another's.

        Raises:
            AttributeError: there is no such attribute, or it is not set like this.
        """
        if name in _OPTIONS:
            raise AttributeError(f"AutoAttack: set the options of {name}, as in {name}.n_iter = 50")
        if not name.startswith("_") and name not in _SET:
            raise AttributeError(
                f"AutoAttack has no attribute {name!r} to set here; known: {', '.join(_SET)}, and "
                f"the options of {', '.join(_OPTIONS)}"
            )
        if name == "epsilon":
            check_budget("AutoAttack", value, norm=_NORMS[self._norm])
        object.__setattr__(self, name, self._module(value) if name == "model" else value)

    def _module(self, model: nn.Module | Callable[[Tensor], Tensor]) -> nn.Module:
        return model if isinstance(model, nn.Module) else _Function(model, self._device)

    @property
    def norm(self) -> str:
        """`Linf`, `L2` or `L1`."""
        return self._norm

    @property
    def version(self) -> str:
        """See `set_version`."""
        return self._version

    @property
    def apgd(self) -> APGDOptions:
        """Options of APGD on cross-entropy and on DLR."""
        return self._options.apgd

    @property
    def apgd_targeted(self) -> TargetedAPGDOptions:
        """Options of APGD on the targeted DLR loss."""
        return self._options.apgd_targeted

    @property
    def fab(self) -> FABOptions:
        """Options of FAB."""
        return self._options.fab

    @property
    def square(self) -> SquareOptions:
        """Options of Square."""
        return self._options.square

    def set_version(self, version: str = "standard") -> None:
        """Take the attacks and all options of `standard`, `plus` or `rand`."""
        if self.verbose:
            print(f"setting parameters for {version} version")
        self._take(version)

    def _take(self, version: str) -> None:
        if version not in _KNOWN:
            raise ValueError(
                f"AutoAttack: version must be one of {', '.join(_KNOWN)}, got {version!r}"
            )
        self._version = version
        self._options = AttackOptions(self._norm, version)
        self.attacks_to_run = list(VERSIONS.get(version, ()))

    def run_standard_evaluation(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the attacks in turn, each on the images that the model still gets right.

        Args:
            x_orig: (B, C, H, W) images in [0, 1].
            y_orig: (B,) labels.
            bs: most images that go together.
            return_labels: whether to give the predicted classes of the result too.

        Returns:
            (B, C, H, W) images, the original where nothing broke them; and (B,) classes if asked.
        """
        self._announce()
        x_adv, y_adv = self._evaluate(x_orig, y_orig, bs, self.attacks_to_run, self._log)
        return (x_adv, y_adv) if return_labels else x_adv

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Individual]:
        """Run each attack by itself on all images that the model gets right; see above.

        Returns:
            Name of the attack -> what `run_standard_evaluation` gives.
        """
        self._announce()
        found: dict[str, Individual] = {}
        for name in self.attacks_to_run:
            started = time.time()
            x_adv, y_adv = self._evaluate(x_orig, y_orig, bs, [name], lambda line: None)
            found[name] = (x_adv, y_adv) if return_labels else x_adv
            accuracy = (y_adv == y_orig).double().mean().item()
            tabs = "\t \t" if name == "fab" else "\t"
            self._log(
                f"robust accuracy by {name.upper()} {tabs} {accuracy:.2%} \t "
                f"(time attack: {time.time() - started:.1f} s)"
            )
        return found

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Share of the images that the model gets right."""
        right = self._predict(x_orig, bs) == y_orig
        accuracy = right.double().mean().item()
        if self.verbose:
            print(f"clean accuracy: {accuracy:.2%}")
        return accuracy

    def _evaluate(
        self,
        x: Tensor,
        y: Tensor,
        bs: int,
        names: Sequence[str],
        log: Callable[[str], None],
    ) -> tuple[Tensor, Tensor]:
        names = checked_names(names, self.version)
        stages = [self._options.stage(name, self.epsilon) for name in names]
        seed = int(time.time()) if self.seed is None else self.seed
        engine = Engine(self.model, batch_size=bs, seed=seed)
        x_adv, y_adv = x.clone(), self._predict(x, bs)
        standing, started = (y_adv == y).nonzero()[:, 0], time.time()
        accuracy = {"clean": len(standing) / len(x)}
        log(f"initial accuracy: {accuracy['clean']:.2%}")
        for name, stage in zip(names, stages, strict=True):
            if len(standing) == 0:
                break
            result = engine.run(stage, x[standing], y[standing], sample_ids=standing)
            fell = result.success
            x_adv[standing[fell]] = result.adv[fell]
            y_adv[standing[fell]] = result.logits[fell].argmax(1)
            log(f"{name} - 1/1 - {int(fell.sum())} out of {len(fell)} successfully perturbed")
            standing = standing[~fell]
            accuracy[name] = len(standing) / len(x)
            log(
                f"robust accuracy after {name.upper()}: {accuracy[name]:.2%} "
                f"(total time {time.time() - started:.1f} s)"
            )
        self._report(x, x_adv, accuracy, log)
        return x_adv, y_adv

    def _report(
        self, x: Tensor, x_adv: Tensor, accuracy: dict[str, float], log: Callable[[str], None]
    ) -> None:
        others = [value for name, value in accuracy.items() if name != "square"]
        if len(accuracy) > 2 and accuracy.get("square", 1.0) < min(others) - _MASKED:
            drop = min(others) - accuracy["square"]
            self._write(  # whether or not it is verbose, as in the original
                f"Warning: Square Attack has decreased the robust accuracy of {drop:.2%}. This "
                "might indicate that the robustness evaluation using AutoAttack is unreliable."
            )
        order = {"Linf": torch.inf, "L2": 2, "L1": 1}[self.norm]
        moved = torch.linalg.vector_norm((x_adv - x).flatten(1), order, dim=1).max()
        log(
            f"max {self.norm} perturbation: {moved:.5f}, nan in tensor: {int(x_adv.isnan().sum())},"
            f" max: {x_adv.max():.5f}, min: {x_adv.min():.5f}"
        )
        log(f"robust accuracy: {list(accuracy.values())[-1]:.2%}")

    def _predict(self, x: Tensor, bs: int) -> Tensor:
        """(B,) classes, where the images are."""
        device = next((p.device for p in self.model.parameters()), x.device)
        with (
            torch.no_grad(),
            attack_mode(self.model),
            calculation(device, deterministic=False),
        ):
            found = [self.model(part.to(device)).argmax(1) for part in x.split(bs)]
        return torch.cat(found).to(x.device)

    def _announce(self) -> None:
        names = checked_names(self.attacks_to_run, self.version)
        if self.verbose:
            print(f"using {self.version} version including {', '.join(names)}")

    def _log(self, line: str) -> None:
        if self.verbose:
            self._write(line)

    def _write(self, line: str) -> None:
        print(line)
        if self.log_path is not None:
            with Path(self.log_path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")


class _Function(nn.Module):
    """A callable as a module, on a device."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], device: torch.device | str | None
    ) -> None:
        super().__init__()
        self.function = function
        self.place = nn.Parameter(torch.empty(0, device=device))

    def forward(self, images: Tensor) -> Tensor:
        """(B, K) logits."""
        return self.function(images)
