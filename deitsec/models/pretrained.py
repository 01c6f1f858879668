"""Finds the published weights of a timm model: in the cache, else on the network, and soon."""

from pathlib import Path
from threading import Thread
from typing import Any, cast
from urllib.parse import urlparse

import torch

from deitsec.models.checkpoint_error import CheckpointError

# Without a probe, huggingface_hub retries two files for 46 s on a machine without a network
# (measured), and longer where packets are dropped.
PROBE_SECONDS = 5.0

_FILENAMES = ("model.safetensors", "pytorch_model.bin")


def weights_overlay(name: str, cfg: Any) -> dict[str, Any]:
    """Return what to overlay on a timm pretrained_cfg so that building the model finds its weights.

    Weights in the cache are used without asking the network. Weights that are not are fetched, once
    the host has answered within `PROBE_SECONDS`.

    Args:
        name: name of the model, for errors.
        cfg: its timm `PretrainedCfg`, or None.

    Raises:
        CheckpointError: if none were published, or the cache has none and they cannot be fetched.
    """
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise CheckpointError(
            f"no pretrained weights of {name} were published: pass checkpoint=FILE"
        )
    if not cfg.hf_hub_id:
        _prepare_url(name, cfg.url)
        return {}
    repo, _, revision = str(cfg.hf_hub_id).partition("@")
    filenames = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _FILENAMES
    file = _cached(repo, revision or None, filenames) or _fetch(
        name, repo, revision or None, filenames
    )
    return {"file": file, "custom_load": cfg.custom_load}


def _cached(repo: str, revision: str | None, filenames: tuple[str, ...]) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    for filename in filenames:
        found = try_to_load_from_cache(repo, filename, revision=revision)
        if isinstance(found, str):
            return found
    return None


def _fetch(name: str, repo: str, revision: str | None, filenames: tuple[str, ...]) -> str:
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError

    _probe(name, constants.ENDPOINT)
    for filename in filenames:
        try:
            return cast(Any, huggingface_hub).hf_hub_download(repo, filename, revision=revision)
        except EntryNotFoundError as error:
            if filename == filenames[-1]:
                raise _unavailable(name, constants.ENDPOINT, error) from error
        except (
            Exception
        ) as error:  # the client's own errors and those of its HTTP library, httpx or requests
            raise _unavailable(name, constants.ENDPOINT, error) from error
    raise AssertionError("filenames are never empty")


def _prepare_url(name: str, url: str) -> None:
    parts = urlparse(url)
    if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(parts.path).name).is_file():
        _probe(name, f"{parts.scheme}://{parts.netloc}")


def _probe(name: str, host: str) -> None:
    """Ask `host` for anything, on a thread, for name resolution obeys no timeout."""
    errors: list[Exception] = [TimeoutError(f"no answer within {PROBE_SECONDS:g} s")]
    thread = Thread(target=_ask, args=(host, errors), daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if errors:
        raise _unavailable(name, host, errors[-1]) from errors[-1]


def _ask(host: str, errors: list[Exception]) -> None:
    from huggingface_hub.utils import get_session

    try:
        # The hub's own session: its proxies, certificates and offline mode are those of the
        # download.
        get_session().head(host, timeout=PROBE_SECONDS)
    except Exception as error:  # httpx's errors share no base with requests' or the offline mode's
        errors.append(error)
    else:
        errors.clear()


def _unavailable(name: str, host: str, error: Exception) -> CheckpointError:
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return CheckpointError(
        f"the pretrained weights of {name} could not be fetched from {host} ({line}): "
        "pass checkpoint=FILE, or run where there is a network"
    )
