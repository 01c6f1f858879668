"""The iterative least-likely class method."""

from dataclasses import dataclass
from typing import ClassVar

from deitsec.attacks.bim import BIM
from deitsec.types import Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class ILLC(BIM):
    """Iterative least-likely class method (Kurakin et al., arXiv:1607.02533, section 2.3).

    BIM aimed at the class that the model finds least likely on the clean image.
    """

    name: ClassVar[str] = "illc"
    traits: ClassVar[Traits] = Traits(norm="linf", untargeted=False)

    target: str | int | None = "least-likely"
