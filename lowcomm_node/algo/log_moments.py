"""Second moments in the log domain, so that any linear codec can exchange them and they stay non-negative.

v a raw second moment, v^ = v / c its bias-corrected form, c = 1 - beta2^t, eps the optimizer's; all fp32 but in the reference.

    view  l = log(v^ + eps^2)        correction  l <- l + wC,  so  v^ <- (v^ + eps^2) exp(wC) - eps^2, not below 0

eps^2 is what v^ may hold without any effect on a step (DES-LOC 2505.22549 writes its denominator sqrt(v + lambda^2)), so entries
without gradient are alike on all nodes. Averaging logarithms keeps the pair's geometric mean, as the rank-1 codec does.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lowcomm_node.algo.correction import Correction

__all__ = ["apply_log_correction_", "log_view", "reference_apply_log_correction"]

_MAX_LOG_RATIO = math.log(4.0)
"""One meeting changes no entry of v^ + eps^2 by more than this factor: the bound of the rank-1 codec."""


def log_view(v: Tensor, *, bias_correction: float, eps: float) -> Tensor:
    """log(v^ + eps^2), newly made, of a raw second moment."""
    return (v / bias_correction).add_(eps * eps).log_()


def reference_apply_log_correction(
    v: Tensor, c: Tensor, weight: float, *, bias_correction: float, eps: float
) -> Tensor:
    """The corrected v in fp64, line by line; ``c`` is C, of v's shape."""
    v, c = v.double(), c.double()
    view = torch.log(v / bias_correction + eps**2)
    view = view + (weight * c).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    v_hat = (view.exp() - eps**2).clamp(min=0.0)
    return v_hat * bias_correction


@torch.no_grad()
def apply_log_correction_(
    tensors: Sequence[Tensor], correction: Correction, weight: float, *, bias_correction: float, eps: float
) -> None:
    """Add weight * C to the log views of raw second moments, in place. C = 0 leaves every bit as it is.

    Works on v itself, since exp(log(v)) would round it. Raises ValueError when the number of tensors is not that of C.
    """
    shifts = [torch.zeros_like(tensor) for tensor in tensors]
    correction.add_to_(shifts, weight)
    for tensor, shift in zip(tensors, shifts, strict=True):
        growth = shift.clamp_(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).expm1_()
        floor = growth * (bias_correction * eps * eps)
        tensor.addcmul_(tensor, growth).add_(floor).clamp_(min=0.0)
