"""A workload as it travels: once, from one machine to all workers."""

import io
import pickle
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitsec.generation.workload import Workload

_SHARED_BYTES = 1 << 16  # of a tensor from which on it is not copied by each worker


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """A workload, packed.

    Attributes:
        images: the split, pickled, without its pixels.
        pixels: the arrays of the split, which the workers of one machine share; read-only there.
        work: everything else, pickled, on the CPU.
    """

    images: bytes
    pixels: tuple[NDArray[Any], ...]
    work: bytes


def pack(work: Workload) -> Parcel:
    """Pack a workload.

    What engines have learnt stays behind, and weights go by way of the CPU. Classes and functions
    that live in `__main__` go along; others must be importable where the parcel arrives.

    Raises:
        ValueError: something in it cannot be pickled.
    """
    pixels: list[NDArray[Any]] = []
    images = _pickled(work.images, pixels)
    rest = _pickled(replace(work, images=None), None)  # pyright: ignore[reportArgumentType]
    return Parcel(images=images, pixels=tuple(pixels), work=rest)


def unpack(parcel: Parcel, device: torch.device | str) -> Workload:
    """Unpack a workload, with its models on a device."""
    pixels = iter(parcel.pixels)
    images: Any = pickle.loads(parcel.images, buffers=pixels)
    work: Workload = pickle.loads(parcel.work)
    for variant in work.variants:
        for model in variant.engine.models:
            model.to(device)
    return replace(work, images=images)


def _pickled(value: Any, pixels: list[NDArray[Any]] | None) -> bytes:
    from ray.cloudpickle import CloudPickler  # pyright: ignore

    class Packer(CloudPickler):  # pyright: ignore
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, Tensor) and obj.device.type != "cpu":
                return obj.cpu().__reduce_ex__(5)
            if pixels is not None and _is_shared(obj):
                return _tensor, (np.asarray(obj.numpy()),)
            return super().reducer_override(obj)

    def beside(buffer: pickle.PickleBuffer) -> bool:
        if pixels is not None:
            pixels.append(np.frombuffer(buffer.raw(), np.uint8))
        return pixels is None  # whether it goes into the stream

    stream = io.BytesIO()
    try:
        Packer(stream, protocol=5, buffer_callback=beside).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the attacks, models or data cannot be sent to a worker ({error}): run them with the "
            "local runner, or make them picklable"
        ) from error
    return stream.getvalue()


def _is_shared(value: Any) -> bool:
    return (
        type(value) is Tensor
        and value.dtype in (torch.uint8, torch.int64)
        and value.is_contiguous()
        and not value.requires_grad
        and value.nbytes >= _SHARED_BYTES
    )


def _tensor(array: NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is read-only, and nobody writes into a split
        return torch.from_numpy(array)
