"""Error-correcting output codes: bits in the place of classes, read by the nearest code word."""

import torch
from torch import Tensor, nn

from deitsec.models import Classifier, wrap

_LEAST = 1e-12  # probability of a class that the bits speak against


class OutputCode(nn.Module):
    """A classifier by code words (Dietterich and Bakiri 1995; Verma and Swami, NeurIPS 2019).

    The network gives L bits, squashed by tanh; a class's probability is the share of the positive
    correlation of the bits with its code word. tanh saturates, and a class with a negative
    correlation has a constant probability: both hide the gradient. `linear` is the same without
    either, and what an attacker follows (Tramer et al., arXiv:2002.08347, section 12). In train
    mode the correlations themselves are the logits.

    Args:
        network: (B, C, H, W) -> (B, L) bits before tanh.
        codes: (K, L) of -1 and 1, a code word a class.

    Raises:
        ValueError: codes that are not of -1 and 1, or two classes with the same.
    """

    codes: Tensor

    def __init__(self, network: nn.Module, codes: Tensor) -> None:
        super().__init__()
        if codes.ndim != 2 or not bool((codes.abs() == 1).all()):
            raise ValueError(f"codes must be (K, L) of -1 and 1, got shape {tuple(codes.shape)}")
        if len(codes.unique(dim=0)) < len(codes):
            raise ValueError("codes must differ from class to class")
        self.network = network
        self.register_buffer("codes", codes.float())

    def forward(self, images: Tensor) -> Tensor:
        """Return log probabilities (B, K); in train mode the correlations times L."""
        bits = self.network(images)
        correlation = bits.tanh() @ self.codes.to(bits.dtype).T
        if self.training:
            return correlation
        share = (correlation / self.codes.shape[1]).clamp(min=0)
        return (share / (share.sum(1, keepdim=True) + _LEAST) + _LEAST).log()

    def linear(self) -> nn.Module:
        """The module images -> bits @ codes, without tanh: the face that gradients pass."""
        return _LinearCode(self)


def coded(network: Classifier, codes: Tensor) -> Classifier:
    """A classifier of K classes of one whose L logits are the bits.

    Args:
        network: images in [0, 1] -> (B, L); not copied.
        codes: (K, L).

    Raises:
        ValueError: the network gives another number of bits, or codes that are none.
    """
    if codes.ndim == 2 and network.num_classes != codes.shape[1]:
        raise ValueError(
            f"the network gives {network.num_classes} bits, and the codes have {codes.shape[1]}"
        )
    module = OutputCode(network, codes)
    return wrap(module, mean=0.0, std=1.0, num_classes=len(codes), name=f"{network.name}_coded")


class _LinearCode(nn.Module):
    def __init__(self, coded: OutputCode) -> None:
        super().__init__()
        self.coded = coded
        self.training = coded.training

    def forward(self, images: Tensor) -> Tensor:
        bits = self.coded.network(images)
        return bits @ self.coded.codes.to(bits.dtype).T


def hadamard_codes(num_classes: int) -> Tensor:
    """(K, L) code words of a Hadamard matrix, any two of them L / 2 + 1/2 bits apart.

    L + 1 is the least power of 2 that is at least K: 15 bits for 10 classes, 8 bits apart.

    Raises:
        ValueError: fewer than 2 classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be >= 2, got {num_classes}")
    matrix = torch.ones(1, 1)
    while len(matrix) < num_classes:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix[:num_classes, 1:]  # the first bit is the same in all


def random_codes(num_classes: int, bits: int, *, seed: int = 0) -> Tensor:
    """(K, L) random code words of -1 and 1 that all differ.

    Raises:
        ValueError: fewer than 2 classes, or so few bits that the words cannot differ.
    """
    if num_classes < 2 or bits < 1 or (bits < 60 and 2**bits < num_classes):
        raise ValueError(
            f"{bits} bits cannot tell {num_classes} classes apart; give at least 2 classes and "
            "2**bits >= classes"
        )
    generator = torch.Generator().manual_seed(seed)
    while True:
        codes = 2.0 * torch.randint(2, (num_classes, bits), generator=generator) - 1
        if len(codes.unique(dim=0)) == num_classes:
            return codes
