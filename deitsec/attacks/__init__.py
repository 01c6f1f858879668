"""The attacks, one a file."""

from deitsec.attacks.advgan import AdvGAN
from deitsec.attacks.apgd import APGD
from deitsec.attacks.apgd_l1 import APGDL1
from deitsec.attacks.apgd_l2 import APGDL2
from deitsec.attacks.attack import Attack
from deitsec.attacks.attention_pgd import AttentionPGD
from deitsec.attacks.autoattack import AutoAttack, AutoAttackL1, AutoAttackL2
from deitsec.attacks.bim import BIM
from deitsec.attacks.cascade import Cascade
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
from deitsec.attacks.perturbation_generator import PerturbationGenerator
from deitsec.attacks.pgd import PGD
from deitsec.attacks.pgd_heads import PGDHeads
from deitsec.attacks.pgd_l1 import PGDL1
from deitsec.attacks.pgd_l2 import PGDL2
from deitsec.attacks.random_search import RandomSearch
from deitsec.attacks.registry import create_attack, list_attacks
from deitsec.attacks.reliable import Reliable, ReliableL1, ReliableL2
from deitsec.attacks.rfgsm import RFGSM
from deitsec.attacks.sinifgsm import SINIFGSM
from deitsec.attacks.spec import format_spec, parse_spec
from deitsec.attacks.spsa import SPSA
from deitsec.attacks.square import Square
from deitsec.attacks.square_l1 import SquareL1
from deitsec.attacks.square_l2 import SquareL2
from deitsec.attacks.tifgsm import TIFGSM
from deitsec.attacks.universal import Universal, UniversalL2
from deitsec.attacks.universal_perturbation import UniversalPerturbation
from deitsec.attacks.vat import VAT
from deitsec.attacks.vmifgsm import VMIFGSM

__all__ = [
    "APGD",
    "APGDL1",
    "APGDL2",
    "BIM",
    "CW",
    "DDN",
    "DIFGSM",
    "FAB",
    "FABL1",
    "FABL2",
    "FGSM",
    "FMN",
    "FMNL0",
    "FMNL1",
    "ILLC",
    "JSMA",
    "LBFGS",
    "MIFGSM",
    "NES",
    "NIFGSM",
    "PGD",
    "PGDL1",
    "PGDL2",
    "RFGSM",
    "SINIFGSM",
    "SPSA",
    "TIFGSM",
    "VAT",
    "VMIFGSM",
    "AdvGAN",
    "Attack",
    "AttentionPGD",
    "AutoAttack",
    "AutoAttackL1",
    "AutoAttackL2",
    "CWLinf",
    "Cascade",
    "DeepFool",
    "DeepFoolLinf",
    "Evolution",
    "EvolutionCPPN",
    "FMNLinf",
    "Fooling",
    "FoolingLookalike",
    "HopSkipJump",
    "HopSkipJumpLinf",
    "LinearL1",
    "LinearL2",
    "LinearLinf",
    "PGDHeads",
    "Patch",
    "PatchFool",
    "PerturbationGenerator",
    "RandomSearch",
    "Reliable",
    "ReliableL1",
    "ReliableL2",
    "Square",
    "SquareL1",
    "SquareL2",
    "Universal",
    "UniversalL2",
    "UniversalPerturbation",
    "create_attack",
    "format_spec",
    "list_attacks",
    "parse_spec",
]
