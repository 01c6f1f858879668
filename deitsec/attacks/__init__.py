"""The attacks, one a file."""

from deitsec.attacks.attack import Attack
from deitsec.attacks.bim import BIM
from deitsec.attacks.fgsm import FGSM
from deitsec.attacks.illc import ILLC
from deitsec.attacks.mifgsm import MIFGSM
from deitsec.attacks.pgd import PGD
from deitsec.attacks.pgd_l1 import PGDL1
from deitsec.attacks.pgd_l2 import PGDL2
from deitsec.attacks.registry import create_attack, list_attacks
from deitsec.attacks.spec import format_spec, parse_spec

__all__ = [
    "BIM",
    "FGSM",
    "ILLC",
    "MIFGSM",
    "PGD",
    "PGDL1",
    "PGDL2",
    "Attack",
    "create_attack",
    "format_spec",
    "list_attacks",
    "parse_spec",
]
