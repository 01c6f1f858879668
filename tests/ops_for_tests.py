"""What the tests of the kernels hold them to."""

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# ops that every backend computes as the reference does, to the last bit, and in which dtypes
BITWISE = {
    "apgd_step": (torch.float32,),
    "linf_step": (torch.float32,),
    "random_start": DTYPES,
    "track_best": DTYPES,
    "quantize_uint8": DTYPES,
    "square_window": DTYPES,
}
