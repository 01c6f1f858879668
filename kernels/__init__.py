"""Triton kernels, one op a file: each `deitsec.kernels.<op>` has the launchers of that op.

They import torch and triton only. A launcher takes contiguous tensors on one device, positionally
as in the op's schema, and checks nothing: `deitsec.ops` does.
"""
