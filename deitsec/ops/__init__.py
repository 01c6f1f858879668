"""Fused operations: one a file, each with its meaning in PyTorch and its faster backends."""

from deitsec.ops._op import BackendUnavailableError, Op, backend_in_use, list_ops, use
from deitsec.ops.adam_tanh_step import adam_tanh_step, adam_tanh_step_
from deitsec.ops.apgd_step import apgd_step, apgd_step_
from deitsec.ops.classification_loss import classification_loss
from deitsec.ops.cross_entropy_loss import cross_entropy_loss
from deitsec.ops.deepfool_step import deepfool_step
from deitsec.ops.distillation_loss import distillation_loss, distillation_rows
from deitsec.ops.dlr_loss import dlr_loss
from deitsec.ops.fab_projection import fab_projection
from deitsec.ops.fab_step import fab_step
from deitsec.ops.l1_projection import l1_projection
from deitsec.ops.l1_step import l1_step, l1_step_
from deitsec.ops.l2_step import l2_step, l2_step_
from deitsec.ops.linf_step import linf_step, linf_step_
from deitsec.ops.margin_loss import margin_loss
from deitsec.ops.momentum_step import momentum_step, momentum_step_
from deitsec.ops.quantize_uint8 import grey_levels, quantize_uint8
from deitsec.ops.random_start import random_start
from deitsec.ops.row_norms import row_norms
from deitsec.ops.saliency_pair import saliency_pair
from deitsec.ops.square_window import square_window
from deitsec.ops.targeted_dlr_loss import targeted_dlr_loss
from deitsec.ops.track_best import track_best, track_best_

__all__ = [
    "BackendUnavailableError",
    "Op",
    "adam_tanh_step",
    "adam_tanh_step_",
    "apgd_step",
    "apgd_step_",
    "backend_in_use",
    "classification_loss",
    "cross_entropy_loss",
    "deepfool_step",
    "distillation_loss",
    "distillation_rows",
    "dlr_loss",
    "fab_projection",
    "fab_step",
    "grey_levels",
    "l1_projection",
    "l1_step",
    "l1_step_",
    "l2_step",
    "l2_step_",
    "linf_step",
    "linf_step_",
    "list_ops",
    "margin_loss",
    "momentum_step",
    "momentum_step_",
    "quantize_uint8",
    "random_start",
    "row_norms",
    "saliency_pair",
    "square_window",
    "targeted_dlr_loss",
    "track_best",
    "track_best_",
    "use",
]
