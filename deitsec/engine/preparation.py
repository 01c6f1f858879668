"""Makes the model fast: precision, layout, attention and compilation, with a reason for each."""

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from deitsec.engine.attention import Attention, attention_by, attention_of, attention_on
from deitsec.engine.checked_model import CheckedModel, ModelError
from deitsec.engine.driver import Driver, Setting
from deitsec.engine.memory import is_out_of_memory
from deitsec.engine.precision import HALVES, Precision, tf32
from deitsec.engine.timing import Remembered, fastest, model_key
from deitsec.engine.twin import Twin

Compile = bool | Literal["max-autotune"]

_DTYPE_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# every batch size of a ladder is one variant of the compiled model, for every image shape
_VARIANTS = 64
_PYTORCHS = "PyTorch's choice"
_NO_ATTENTION = "none: the model calls no scaled_dot_product_attention"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What was asked for, as `Engine` takes it.

    Attributes:
        precision, channels_last, attention: as there.
        measure: whether time may be spent on finding out what is faster.
        recall: whether what was found out before may decide.
    """

    precision: Precision
    channels_last: bool | Literal["auto"]
    attention: Attention
    measure: bool
    recall: bool


@dataclass(kw_only=True, slots=True)
class Prepared:
    """A model ready to drive attacks.

    Attributes:
        ask: images to logits.
        module: the same, not compiled.
        scaled: as in `Driver`.
        memory_format: as in `Driver`.
        settings: as in `Driver`.
        twin: the copy that is asked, or None where it is the caller's model.
        compiled: whether it was compiled.
        reduced: whether its logits are of less than fp32.
        decisions: what was decided, and why, by subject.
    """

    ask: Callable[[Tensor], Tensor]
    module: nn.Module
    scaled: bool = False
    memory_format: torch.memory_format = torch.contiguous_format
    settings: tuple[Setting, ...] = ()
    twin: Twin | None = None
    compiled: bool = False
    reduced: bool = False
    decisions: dict[str, str] = field(default_factory=dict)

    @property
    def same_model(self) -> bool:
        """Whether the logits are, to the bit, those of the caller's model."""
        return self.twin is None and not self.settings and not self.reduced

    def driver(self, labels: Tensor) -> Driver:
        """What the steps ask, for rows of these labels."""
        return Driver(
            CheckedModel(self.ask, labels),
            scaled=self.scaled,
            memory_format=self.memory_format,
            settings=self.settings,
            module=self.module,
        )

    def step(self, x: Tensor) -> Tensor:
        """One forward pass and input gradient, as a step makes them."""
        driver = self.driver(torch.zeros(1, dtype=torch.int64))
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            output = driver(leaf)
        return driver.backward(output, leaf, torch.ones_like(driver.widened(output)))


def prepare(model: nn.Module, wishes: Wishes, x: Tensor) -> Prepared:
    """Choose precision, layout and attention by trying them on a few images.

    Args:
        model: in eval mode, with frozen parameters.
        wishes: what was asked for.
        x: (B, C, H, W) some of the images to come.
    """
    prepared = _in_precision(model, wishes, x)
    _lay_out(prepared, model, wishes, x)
    _choose_attention(prepared, model, wishes, x)
    return prepared


def _in_precision(model: nn.Module, wishes: Wishes, x: Tensor) -> Prepared:
    weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)
    name = _DTYPE_NAMES.get(weights, str(weights).removeprefix("torch."))
    plain = Prepared(ask=model, module=model, scaled=weights in HALVES.values())
    asked = wishes.precision
    if asked == "fp32" or (asked in HALVES and weights is HALVES[asked]):
        why = "fp32" if weights is torch.float32 else f"{name}, as the model's weights are"
        plain.decisions["precision"] = why
    elif asked == "tf32" and x.device.type != "cuda":
        _instead(plain, "precision", "fp32", f"tf32 was asked for, but a {x.device.type} has none")
    elif asked == "tf32":
        plain.settings, plain.reduced = (tf32,), True
        plain.decisions["precision"] = "tf32; successes are confirmed in fp32"
    elif weights is not torch.float32:
        _instead(plain, "precision", name, f"{asked} was asked for, but the weights are {name}")
    else:
        return _halved(model, wishes, x, plain)
    return plain


def _halved(model: nn.Module, wishes: Wishes, x: Tensor, plain: Prepared) -> Prepared:
    """The model in half precision, by the first way that works."""
    asked = wishes.precision
    dtype = HALVES[asked]
    try:
        finite = bool(plain.step(x).isfinite().all())
    except ModelError as error:  # an attack on scores does not mind
        _instead(plain, "precision", "fp32", f"{asked} was asked for, but {error}")
        return plain
    reasons: list[str] = []
    for how, prepared in _half_ways(model, dtype, x.device, reasons):
        try:
            gradient = prepared.step(x)
        except (RuntimeError, ValueError, TypeError) as error:
            reasons.append(f"{how}: {_first_line(error)}")
            continue
        if finite and not gradient.isfinite().all():
            reasons.append(f"{how}: its gradients are not finite, where those of fp32 are")
            continue
        prepared.decisions["precision"] = f"{asked} ({how}); successes are confirmed in fp32"
        return prepared
    _instead(plain, "precision", "fp32", f"{asked} was asked for, but {'; '.join(reasons)}")
    return plain


def _half_ways(
    model: nn.Module, dtype: torch.dtype, device: torch.device, reasons: list[str]
) -> Iterator[tuple[str, Prepared]]:
    for how, narrow in (("a copy of the weights", False), ("a copy, narrow images", True)):
        try:
            twin = Twin(model, dtype=dtype, narrow=narrow)
        except Exception as error:  # deepcopy runs the model's own code
            reasons.append(f"it cannot be copied: {_first_line(error)}")
            break
        yield how, Prepared(ask=twin, module=twin, twin=twin, scaled=True, reduced=True)
    casting = functools.partial(torch.autocast, device.type, dtype=dtype)
    yield (
        "autocast",
        Prepared(ask=model, module=model, settings=(casting,), scaled=True, reduced=True),
    )


def _lay_out(prepared: Prepared, model: nn.Module, wishes: Wishes, x: Tensor) -> None:
    """channels_last where it was asked for, or where it is faster."""
    subject, wish = "channels_last", wishes.channels_last
    choice, why = ("channels_last" if wish else "contiguous"), "as asked"
    try:
        if wish == "auto":
            choice, why = _faster_layout(prepared, model, wishes, x)
        _adopt(prepared, model, choice)
    except Exception as error:  # deepcopy runs the model's own code
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        choice, why = "contiguous", f"the model cannot be copied: {_first_line(error)}"
        if wish is True:
            _instead(prepared, subject, "off", f"it was asked for, but {why}")
            return
    prepared.decisions[subject] = f"{'on' if choice == 'channels_last' else 'off'}: {why}"


def _faster_layout(
    prepared: Prepared, model: nn.Module, wishes: Wishes, x: Tensor
) -> tuple[str, str]:
    if not _convolves(model):
        return "contiguous", "no convolution of more than 4 channels"
    key = model_key(model, "layout", prepared.decisions["precision"], tuple(x.shape[1:]))
    form = functools.partial(_in_layout, prepared, model)
    return _choose(key, list(_LAYOUTS), wishes, form, x)


def _choose(
    key: str,
    names: list[str],
    wishes: Wishes,
    form: Callable[[str], Prepared],
    x: Tensor,
) -> tuple[str, str]:
    """The fastest of the names and the reason: remembered, measured now, or else the first."""
    if not wishes.recall:
        return names[0], "nothing is decided by measurement in deterministic mode"
    known = Remembered().get(key)
    if known in names:
        return known, "measured before on this machine"
    if not wishes.measure:
        return names[0], "not measured yet: too few images to pay for it"
    ways = {name: functools.partial(form(name).step, x) for name in names}
    choice, seconds = fastest(ways, x.device)
    Remembered().put(key, choice)
    figures = ", ".join(f"{name} {1e3 * least:.2f} ms" for name, least in seconds.items())
    return choice, f"{figures} for a step of {len(x)} images"


def _adopt(prepared: Prepared, model: nn.Module, layout: str) -> None:
    if layout == "channels_last":
        other = _in_layout(prepared, model, layout)
        prepared.ask, prepared.module, prepared.twin = other.ask, other.module, other.twin
        prepared.memory_format = other.memory_format


def _in_layout(prepared: Prepared, model: nn.Module, layout: str) -> Prepared:
    if layout == "contiguous":
        return prepared
    dtype, narrow = None, False
    if prepared.twin is not None:
        dtype = next(p.dtype for p in prepared.twin.parameters() if p.is_floating_point())
        narrow = prepared.twin.narrow is not None
    memory_format = _LAYOUTS[layout]
    twin = Twin(model, dtype=dtype, memory_format=memory_format, narrow=narrow)
    return Prepared(
        ask=twin,
        module=twin,
        twin=twin,
        scaled=prepared.scaled,
        reduced=prepared.reduced,
        settings=prepared.settings,
        memory_format=memory_format,
    )


def _convolves(model: nn.Module) -> bool:
    """Whether a layout could matter: a patch embedding of 3 channels alone does not count."""
    return any(isinstance(m, nn.Conv2d) and m.in_channels > 4 for m in model.modules())


def _choose_attention(prepared: Prepared, model: nn.Module, wishes: Wishes, x: Tensor) -> None:
    """The kernels of attention; PyTorch's own choice stands where no other is clearly faster."""
    subject, names = "attention", [_PYTORCHS, *attention_on(x.device)]
    if wishes.attention != "auto":
        prepared.decisions[subject] = f"{wishes.attention}: as asked"
        if wishes.attention != "default":
            prepared.settings = (*prepared.settings, attention_by(wishes.attention))
        return
    key = model_key(model, subject, prepared.decisions["precision"], tuple(x.shape[1:]), names)
    found: tuple[str, str] | None = None
    known = Remembered().get(key) if wishes.recall else None
    if wishes.measure and known is None:
        try:
            with torch.no_grad():
                found = attention_of(lambda: prepared.driver(torch.zeros(1, dtype=torch.int64))(x))
        except RuntimeError as error:
            prepared.decisions[subject] = f"{_PYTORCHS}: {_first_line(error)}"
            return
        if found is None:
            known = _NO_ATTENTION
            Remembered().put(key, known)
    if known == _NO_ATTENTION:
        prepared.decisions[subject] = known
        return
    choice, why = _choose(key, names, wishes, lambda name: _with(prepared, name), x)
    about = "" if found is None else f" ({found[0]} by PyTorch, {found[1]})"
    prepared.decisions[subject] = f"{choice}{about}: {why}"
    if choice != _PYTORCHS:
        prepared.settings = (*prepared.settings, attention_by(choice))


def _with(prepared: Prepared, attention: str) -> Prepared:
    if attention == _PYTORCHS:
        return prepared
    return Prepared(
        ask=prepared.ask,
        module=prepared.module,
        scaled=prepared.scaled,
        memory_format=prepared.memory_format,
        settings=(*prepared.settings, attention_by(attention)),
    )


def compile_model(prepared: Prepared, wish: Compile, x: Tensor) -> None:
    """Compile the prepared model for batches of the shape of `x`, or say why not.

    Its parameters are frozen by now: the compiled backward pass knows of no weight gradient.
    """
    eager = prepared.ask
    mode = "max-autotune-no-cudagraphs" if wish == "max-autotune" else None
    variants = functools.partial(torch._dynamo.config.patch, recompile_limit=_VARIANTS)  # pyright: ignore
    # several gradients of one forward pass: its saved tensors are not to be written over
    kept = functools.partial(torch._functorch.config.patch, donated_buffer=False)  # pyright: ignore
    prepared.ask = torch.compile(eager, dynamic=False, mode=mode)
    prepared.settings = (*prepared.settings, variants, kept)
    try:
        prepared.step(x)
    except Exception as error:  # the compiler's own errors have no common class
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            prepared.ask, prepared.settings = eager, prepared.settings[:-2]
            raise
        prepared.ask, prepared.settings = eager, prepared.settings[:-2]
        _instead(prepared, "compile", "off", f"it was asked for, but {_first_line(error)}")
        return
    prepared.compiled = True
    prepared.decisions["compile"] = "on" if mode is None else f"on: {mode}"


def _instead(prepared: Prepared, subject: str, done: str, why: str) -> None:
    """Write down and say once what was done instead of what was asked for."""
    prepared.decisions[subject] = f"{done}: {why}"
    warnings.warn(f"{subject}: {why}; {done} it is", stacklevel=6)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
