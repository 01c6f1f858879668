"""The attacks by name."""

import dataclasses
import difflib
import fnmatch
from typing import Any

from deitsec.attacks.advgan import AdvGAN
from deitsec.attacks.apgd import APGD
from deitsec.attacks.apgd_l1 import APGDL1
from deitsec.attacks.apgd_l2 import APGDL2
from deitsec.attacks.attack import Attack
from deitsec.attacks.attention_pgd import AttentionPGD
from deitsec.attacks.autoattack import AutoAttack, AutoAttackL1, AutoAttackL2
from deitsec.attacks.bim import BIM
from deitsec.attacks.cw import CW
from deitsec.attacks.cw_linf import CWLinf
from deitsec.attacks.ddn import DDN
from deitsec.attacks.deepfool import DeepFool, DeepFoolLinf
from deitsec.attacks.difgsm import DIFGSM
from deitsec.attacks.evolution import Evolution
from deitsec.attacks.evolution_cppn import EvolutionCPPN
from deitsec.attacks.fab import FAB, FABL1, FABL2
from deitsec.attacks.fgsm import FGSM
from deitsec.attacks.fmn import FMN
from deitsec.attacks.fmn_l0 import FMNL0
from deitsec.attacks.fmn_l1 import FMNL1
from deitsec.attacks.fmn_linf import FMNLinf
from deitsec.attacks.fooling import Fooling
from deitsec.attacks.fooling_lookalike import FoolingLookalike
from deitsec.attacks.hopskipjump import HopSkipJump, HopSkipJumpLinf
from deitsec.attacks.illc import ILLC
from deitsec.attacks.jsma import JSMA
from deitsec.attacks.lbfgs import LBFGS
from deitsec.attacks.linear import LinearL1, LinearL2, LinearLinf
from deitsec.attacks.mifgsm import MIFGSM
from deitsec.attacks.nes import NES
from deitsec.attacks.nifgsm import NIFGSM
from deitsec.attacks.patch import Patch
from deitsec.attacks.patch_fool import PatchFool
from deitsec.attacks.pgd import PGD
from deitsec.attacks.pgd_heads import PGDHeads
from deitsec.attacks.pgd_l1 import PGDL1
from deitsec.attacks.pgd_l2 import PGDL2
from deitsec.attacks.random_search import RandomSearch
from deitsec.attacks.reliable import Reliable, ReliableL1, ReliableL2
from deitsec.attacks.rfgsm import RFGSM
from deitsec.attacks.sinifgsm import SINIFGSM
from deitsec.attacks.spsa import SPSA
from deitsec.attacks.square import Square
from deitsec.attacks.square_l1 import SquareL1
from deitsec.attacks.square_l2 import SquareL2
from deitsec.attacks.tifgsm import TIFGSM
from deitsec.attacks.universal import Universal, UniversalL2
from deitsec.attacks.vat import VAT
from deitsec.attacks.vmifgsm import VMIFGSM

ATTACKS: dict[str, type[Attack]] = {
    cls.name: cls
    for cls in (
        APGD,
        APGDL1,
        APGDL2,
        AdvGAN,
        AttentionPGD,
        AutoAttack,
        AutoAttackL1,
        AutoAttackL2,
        BIM,
        CW,
        CWLinf,
        DDN,
        DIFGSM,
        DeepFool,
        DeepFoolLinf,
        Evolution,
        EvolutionCPPN,
        FAB,
        FABL1,
        FABL2,
        FGSM,
        FMN,
        FMNL0,
        FMNL1,
        FMNLinf,
        Fooling,
        FoolingLookalike,
        HopSkipJump,
        HopSkipJumpLinf,
        ILLC,
        JSMA,
        LBFGS,
        LinearL1,
        LinearL2,
        LinearLinf,
        MIFGSM,
        NES,
        NIFGSM,
        Patch,
        PatchFool,
        PGD,
        PGDHeads,
        PGDL1,
        PGDL2,
        RFGSM,
        RandomSearch,
        Reliable,
        ReliableL1,
        ReliableL2,
        SINIFGSM,
        SPSA,
        Square,
        SquareL1,
        SquareL2,
        TIFGSM,
        Universal,
        UniversalL2,
        VAT,
        VMIFGSM,
    )
}


def list_attacks(pattern: str = "*") -> list[str]:
    """Names of the attacks that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(ATTACKS, pattern))


def attack_class(name: str) -> type[Attack]:
    """Find an attack by name.

    Raises:
        ValueError: no such attack; the message names the nearest.
    """
    if name not in ATTACKS:
        near = difflib.get_close_matches(name, ATTACKS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown attack {name!r}; {hint}known: {', '.join(list_attacks())}")
    return ATTACKS[name]


def create_attack(name: str, **options: Any) -> Attack:
    """Make an attack by name, `create_attack("pgd", eps=8/255, steps=20)`.

    Raises:
        ValueError: unknown attack or option, or an option out of range.
    """
    cls = attack_class(name)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{name} has no option {option!r}; {hint}known: {', '.join(known)}")
    return cls(**options)
