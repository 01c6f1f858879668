"""Makes the inputs that ops are tested on."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SampleMaker:
    """Random tensors of one dtype on one device, from a fixed seed.

    Attributes:
        dtype: the floating dtype of the samples.
        device: where they live.
        seed: what makes them the same in each run.
    """

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    seed: int = 0
    _generator: list[torch.Generator] = field(default_factory=list[torch.Generator])

    @property
    def generator(self) -> torch.Generator:
        """The CPU generator behind every draw."""
        if not self._generator:
            self._generator.append(torch.Generator().manual_seed(self.seed))
        return self._generator[0]

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Gaussian values."""
        values = torch.randn(shape, generator=self.generator) * scale
        return values.to(self.device, self.dtype)

    def hostile_rows(self, *shape: int) -> Tensor:
        """Gaussian rows, the first nine of which a norm or a sign may stumble over."""
        values = self.normal(*shape)
        rows = values.flatten(1)
        rows[0] = 0
        rows[1] *= 1e-30
        rows[2] *= 1e30
        rows[3, 0] = float("nan")
        rows[4, -1] = float("inf")
        rows[5] = float("nan")
        rows[6] = 0
        rows[6, 1] = -1e-38
        rows[7] = torch.finfo(self.dtype).max
        rows[8, 2] = -float("inf")
        return values

    def images(self, *shape: int) -> Tensor:
        """Values in [0, 1]."""
        return torch.rand(shape, generator=self.generator).to(self.device, self.dtype)

    def levels(self, *shape: int) -> Tensor:
        """The uint8 levels 0 to 255."""
        values = torch.randint(0, 256, shape, generator=self.generator, dtype=torch.uint8)
        return values.to(self.device)

    def labels(self, rows: int, num_classes: int) -> Tensor:
        """Class indices, int64."""
        return torch.randint(0, num_classes, (rows,), generator=self.generator).to(self.device)

    def sample_ids(self, rows: int) -> Tensor:
        """Row identities, int64, some beyond 32 bits."""
        ids = torch.randint(0, 1 << 40, (rows,), generator=self.generator)
        return ids.to(self.device)
