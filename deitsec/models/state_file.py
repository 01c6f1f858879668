"""Reads named tensors from a file, without ever running what the file says."""

import argparse
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deitsec.models.checkpoint_error import CheckpointError

_NESTS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_FORBIDDEN = re.compile(r"unsupported (?:global:? )?(?:global )?([\w.]+\.\w+)", re.IGNORECASE)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file or from a torch file, to the CPU.

    A torch file is unpickled with `weights_only=True`. State dicts that lie under "state_dict",
    "model_state_dict" or "model" are found.

    Raises:
        CheckpointError: if the file is missing, truncated, of another kind, holds no state dict, or
            would run code.
    """
    loaded = _read_safetensors(path) if is_safetensors(path) else _read_torch(path)
    return _find_state(loaded, path)


def strip_prefixes(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Take "module." (DataParallel) and "_orig_mod." (torch.compile) off names that all have them.

    Args:
        state: tensors by name.
        expected: names of the network; a state dict that has any of them is left as it is.
    """
    stripped = dict(state)
    for prefix in _PREFIXES * 2:
        if any(name in stripped for name in expected):
            break
        if all(name.startswith(prefix) for name in stripped):
            stripped = {name.removeprefix(prefix): value for name, value in stripped.items()}
    return stripped


def is_safetensors(path: Path) -> bool:
    """Whether a file is one of safetensors, by its first bytes, or by its ending.

    Raises:
        CheckpointError: if the file is missing.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    with path.open("rb") as file:
        head = file.read(9)
    # 8 bytes of header length, then the header, a JSON object.
    return head[8:] == b"{" or path.suffix == ".safetensors"


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file; {} for a file of another kind.

    Raises:
        CheckpointError: if the file is missing or truncated.
    """
    if not is_safetensors(path):
        return {}
    try:
        with _open(path) as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _open(path: Path) -> Any:
    return cast(Any, safe_open)(path, framework="pt", device="cpu")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with _open(path) as file:
            # clone: safetensors maps the file, and a later change of it would reach the weights.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != _ZIP and not magic.startswith(_PICKLE):
        raise CheckpointError(
            f"{path}: expected a safetensors file or a torch.save file, got neither"
        )
    try:
        # DeiT's and timm's training checkpoints carry their options in an argparse.Namespace: plain
        # data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises nearly any exception
        text = str(error)
        if "unsupported" in text.lower() or "TorchScript" in text:
            raise CheckpointError(_refusal(path, text)) from error
        raise _damaged(path, error) from error


def _refusal(path: Path, text: str) -> str:
    found = _FORBIDDEN.search(text)
    what = found.group(1) if found else "more than tensors"
    return (
        f"{path}: refused, for unpickling it could run code (it holds {what}): only tensors are "
        "read; save the state_dict() as safetensors where the file is trusted"
    )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return CheckpointError(f"{path}: truncated or damaged ({line})")


def _find_state(loaded: Any, path: Path) -> dict[str, Tensor]:
    state = loaded
    for key in _NESTS:
        if isinstance(state, Mapping) and isinstance(
            cast(Mapping[str, Any], state).get(key), Mapping
        ):
            state = cast(Any, state[key])
            break
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: expected a state dict, got a {type(loaded).__name__}")
    named = cast(Mapping[Any, Any], state)
    others = [str(name) for name, value in named.items() if not isinstance(value, Tensor)]
    if others or not named:
        got = (
            f"entries that are no tensors ({len(others)}): {', '.join(others[:5])}"
            if others
            else "nothing"
        )
        raise CheckpointError(f"{path}: expected a state dict of tensors, got {got}")
    return {str(name): value for name, value in named.items()}
