"""timm, or one clear line about why it cannot be imported."""

from importlib import import_module
from typing import Any

from deitsec.environment import package_version


def import_timm(submodule: str = "") -> Any:
    """Import timm, or `timm.<submodule>`; typed Any, for timm carries no types.

    Raises:
        ImportError: if timm is missing, or torchvision, which timm imports, was built for another
            torch.
    """
    try:
        timm = import_module("timm")
    except (RuntimeError, AttributeError) as error:
        # torchvision's C++ ops fail to register, and its Python half then raises one of these two.
        if "torchvision" not in str(error):
            raise
        raise ImportError(
            f"torch {package_version('torch')} and torchvision {package_version('torchvision')} do "
            f"not match, so timm cannot be imported ({error}): install the torchvision built for "
            "this torch"
        ) from error
    return import_module(f"timm.{submodule}") if submodule else timm
