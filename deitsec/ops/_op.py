"""An op is declared once here: schema, meaning, backends, cost, samples. The only dispatch."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import inspect
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.compiler import is_compiling

from deitsec import native

P = ParamSpec("P")
R = TypeVar("R")

REFERENCE = "reference"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_LIBRARY = torch.library.Library("deitsec", "FRAGMENT")
_NATIVE_LIBRARIES = {
    name: torch.library.Library(f"deitsec_{name}", "FRAGMENT") for name in ("cpp", "cuda")
}
_OPS: dict[str, Op[..., Any]] = {}


def _validate(backend: str) -> None:
    known = (REFERENCE, "cpp", "triton", "cuda")
    if backend not in known:
        raise ValueError(f"backend must be one of {', '.join(known)}, got {backend!r}")


def _backend_of_process() -> str | None:
    backend = os.environ.get("DEITSEC_BACKEND") or None
    if backend is not None:
        _validate(backend)
    return backend


_OF_PROCESS = _backend_of_process()
# A thread starts with none of the values that were set in another one, but with the default.
_FORCED: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=_OF_PROCESS)


class BackendUnavailableError(RuntimeError):
    """A backend was asked for by name and cannot take the call; the message says why."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of an op and what it accepts.

    Attributes:
        name: `cpp`, `triton` or `cuda`.
        target: `torch.ops.<namespace>.<op>` or `module:function`.
        device: the device type it runs on.
        dtypes: floating dtypes that it takes.
    """

    name: str
    target: str
    device: str
    dtypes: tuple[torch.dtype, ...] = _FLOATS

    def missing(self) -> str | None:
        """Why this backend cannot run in this process, or None if it can."""
        if self.name == "triton":
            return _triton_missing()
        return native.missing(self.name)

    def refusal(self, tensors: Iterable[Tensor]) -> str | None:
        """Why this backend cannot take these tensors, or None if it can."""
        for tensor in tensors:
            device = tensor.device.type
            if device != self.device and not (self.name == "triton" and _interpreting()):
                return f"it runs on {self.device}, and a tensor is on {device}"
            if tensor.is_floating_point() and tensor.dtype not in self.dtypes:
                return f"it does not take {tensor.dtype}"
            if not tensor.is_contiguous():
                return "it takes contiguous tensors only"
        return None

    def load(self) -> Callable[..., Any]:
        """Find the function behind `target`."""
        if self.target.startswith("torch.ops."):
            _, _, namespace, name = self.target.split(".")
            return getattr(getattr(torch.ops, namespace), name).default
        module, function = self.target.split(":")
        return getattr(importlib.import_module(module), function)


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def _triton_missing() -> str | None:
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    if not torch.cuda.is_available() and not _interpreting():
        return "no CUDA device (set TRITON_INTERPRET=1 before the import to run it interpreted)"
    return None


class Op(Generic[P, R]):
    """A named operation with one meaning and several implementations.

    Calling it picks the first backend that takes the tensors, and remembers the choice by device,
    dtype and layout; under `torch.compile` it is the torch op `torch.ops.deitsec.<name>`.
    """

    def __init__(self, name: str, schema: str, reference: Callable[P, R]) -> None:
        functools.update_wrapper(self, reference)
        self.name = name
        self.schema = schema
        self.reference = reference
        self.backends: list[Backend] = []
        self.bytes_moved: Callable[..., int] | None = None
        self.make_samples: Callable[..., Iterator[tuple[Any, ...]]] | None = None
        self.inplace: Op[P, Any] | None = None
        self.mutates: tuple[int, ...] = ()  # positions of the arguments that it changes
        self._gives_changed = False
        self._tensors_at = _tensor_positions(schema)
        self._check: Callable[..., None] | None = None
        self._blame: Callable[..., None] | None = None
        self._chosen: dict[Any, Callable[..., R]] = {}
        _LIBRARY.define(name + schema)
        for library in _NATIVE_LIBRARIES.values():
            library.define(name + schema)
        _LIBRARY.impl(name, self._run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"deitsec::{name}", self._fake, lib=_LIBRARY)
        self._torch_op = getattr(torch.ops.deitsec, name).default
        _OPS[name] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs:
            args = self._positional(args, kwargs)  # pyright: ignore[reportAssignmentType]
        if is_compiling():
            result = self._torch_op(*args)
        else:
            if self._check is not None:
                self._check(*args)
            result = self._run(*args)
        if self._gives_changed:
            changed: list[Any] = [args[i] for i in self.mutates]
            return tuple(changed) if len(changed) > 1 else changed[0]  # pyright: ignore
        return result

    def backend(
        self,
        name: str,
        target: str,
        *,
        device: str,
        dtypes: tuple[torch.dtype, ...] = _FLOATS,
    ) -> None:
        """Declare an implementation; those declared first are preferred."""
        self.backends.append(Backend(name, target, device, dtypes))
        if self.inplace is not None:
            self.inplace.backends.append(Backend(name, target + "_", device, dtypes))

    def check(self, function: Callable[..., None]) -> Callable[..., None]:
        """Declare the validation of the arguments: raises what a user should read."""
        self._check = function
        if self.inplace is not None:
            self.inplace._check = function
        return function

    def blame(self, function: Callable[..., None]) -> Callable[..., None]:
        """Declare what to raise when an implementation fails because of the tensors' values.

        It is called after the failure, so that a check which reads every value costs nothing.
        """
        self._blame = function
        return function

    def cost(self, function: Callable[..., int]) -> Callable[..., int]:
        """Declare the bytes that a perfect implementation moves, for the roofline."""
        self.bytes_moved = function
        return function

    def samples(self, function: Callable[..., Iterator[tuple[Any, ...]]]) -> Callable[..., Any]:
        """Declare the inputs that every backend is tested on; takes a `SampleMaker`."""
        self.make_samples = function
        return function

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, str]:
        """Say for each backend whether it would take this call, or why not.

        Returns:
            Backend name to `"taken"`, `"available"` or the reason against it. Where a backend is
            asked for (`use`, DEITSEC_BACKEND), no other is taken.
        """
        tensors = self._tensors(self._positional(args, kwargs))
        forced = _FORCED.get()
        against = {b.name: b.missing() or b.refusal(tensors) for b in self.backends}
        against[REFERENCE] = None
        fit = [name for name, reason in against.items() if reason is None]
        taken = fit[0] if forced is None else forced
        return {
            name: reason or ("taken" if name == taken else "available")
            for name, reason in against.items()
        }

    def _positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        bound = inspect.signature(self.reference).bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.args

    def _run(self, *args: Any) -> R:
        # a small step takes 5 us in eager PyTorch: what is done here counts
        forced = _FORCED.get()
        layout = [forced]
        for i in self._tensors_at:
            if i < len(args) and (a := args[i]) is not None:
                layout += (a.is_cpu or a.device, a.dtype, a.is_contiguous())
        key = tuple(layout)
        function = self._chosen.get(key)
        if function is None:
            function = self._chosen[key] = self._choose(forced, self._tensors(args))
        for i in self.mutates:
            if args[i].requires_grad:
                _refuse_grad(self.name)
        try:
            result = function(*args)
        except RuntimeError:
            if self._blame is not None:
                self._blame(*args)
            raise
        for i in self.mutates:
            if not args[i].is_inference():
                # stable-ABI kernels do not bump it, and autograd would use the changed values
                increment_version(args[i])
        return result

    def _choose(self, forced: str | None, tensors: list[Tensor]) -> Callable[..., R]:
        if forced == REFERENCE:
            return self._reference
        reasons: list[str] = []
        for backend in self.backends:
            if forced is not None and backend.name != forced:
                continue
            reason = backend.missing() or backend.refusal(tensors)
            if reason is None:
                return backend.load()
            reasons.append(reason)
        if forced is not None:
            why = "; ".join(reasons) or f"{self.name} has no such backend"
            raise BackendUnavailableError(
                f"{self.name}: backend {forced!r} was asked for, but {why}"
            )
        return self._reference

    def _tensors(self, args: tuple[Any, ...]) -> list[Tensor]:
        return [args[i] for i in self._tensors_at if i < len(args) and args[i] is not None]

    def _reference(self, *args: Any) -> Any:
        with torch.no_grad():
            return cast(Callable[..., R], self.reference)(*args)

    def _fake(self, *args: Any) -> Any:
        return cast(Callable[..., R], self.reference)(*args)


def _tensor_positions(schema: str) -> tuple[int, ...]:
    arguments = schema[1 : schema.index(") ->")].split(", ")
    return tuple(i for i, argument in enumerate(arguments) if argument.startswith("Tensor"))


def _refuse_grad(name: str) -> None:
    if torch.is_grad_enabled():
        raise ValueError(
            f"{name}: the tensor to be changed requires grad, and its gradient would be silently "
            "wrong; use the functional form or call it under torch.no_grad()"
        )


def op(schema: str, *, inplace: str | tuple[str, ...] = ()) -> Callable[[Callable[P, R]], Op[P, R]]:
    """Declare an op by its plain PyTorch meaning.

    Args:
        schema: torch schema without the name, `"(Tensor x, float eps) -> Tensor"`.
        inplace: name of the argument, or names of those, that a second form changes; that form is
            `op.inplace`, named with a trailing underscore. They become the first outputs of the
            functional form, in this order, and what remains is returned: one tensor or a tuple.
            Where nothing remains, the changed arguments themselves are returned.

    Returns:
        A decorator that makes an `Op` of the function; the function stays its reference, its
        fallback, its fake implementation and its test oracle.
    """

    def declare(reference: Callable[P, R]) -> Op[P, R]:
        name = reference.__name__  # pyright: ignore[reportFunctionMemberAccess]
        functional = Op(name, schema, reference)
        if inplace:
            names = (inplace,) if isinstance(inplace, str) else inplace
            functional.inplace = _inplace_form(name, schema, names, reference)
        return functional

    return declare


def _inplace_form(
    name: str, schema: str, changed: tuple[str, ...], reference: Callable[P, R]
) -> Op[P, Any]:
    arguments, outputs = schema.split(" -> ")
    names = list(inspect.signature(reference).parameters)
    at = tuple(names.index(argument) for argument in changed)

    @functools.wraps(reference)
    def change(*args: Any, **kwargs: Any) -> Any:
        result: Any = reference(*args, **kwargs)
        values: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
        for i, value in zip(at, values, strict=False):
            args[i].copy_(value)
        rest = values[len(at) :]
        return rest if len(rest) > 1 else (rest[0] if rest else None)

    for alias, argument in zip("abcdefgh", changed, strict=False):
        arguments = re.sub(rf"Tensor {argument}\b", f"Tensor({alias}!) {argument}", arguments)
    num_rest = outputs.count("Tensor") - len(changed)
    returned = {0: "()", 1: "Tensor"}.get(num_rest, f"({', '.join(['Tensor'] * num_rest)})")
    form = Op(f"{name}_", f"{arguments} -> {returned}", cast(Callable[P, Any], change))
    form.__name__ = name + "_"  # pyright: ignore[reportAttributeAccessIssue]
    form.mutates = at
    form._gives_changed = num_rest == 0  # pyright: ignore[reportPrivateUsage]
    return form


@contextlib.contextmanager
def use(backend: str) -> Generator[None]:
    """Force a backend (`reference`, `cpp`, `triton`, `cuda`) inside the block.

    Raises:
        ValueError: for a name that no op knows.
        BackendUnavailableError: at the call, where the backend cannot take it.
    """
    _validate(backend)
    token = _FORCED.set(backend)
    try:
        yield
    finally:
        _FORCED.reset(token)


def backend_in_use() -> str | None:
    """The backend that is forced here, by `use` or DEITSEC_BACKEND; None where none is."""
    return _FORCED.get()


def list_ops() -> dict[str, Op[..., Any]]:
    """Every declared op by name, those in place included."""
    return dict(sorted(_OPS.items()))
