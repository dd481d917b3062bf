"""Which of a model's tensors AB-training splits into factors."""

from torch import nn

from lowcomm_node.algo.shapes import matrix_shape
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.model import matrices_of

__all__ = ["factored_positions"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def factored_positions(model: nn.Module, manifest: Manifest, least_side: int) -> tuple[int, ...]:
    """Positions, in the order of ``parameters()``: hidden matrices (``matrices_of``), and kernels, as matrices of out x in k k.

    Whole stay: vectors and scalars, embeddings, positions, class tokens, the output head, the first convolution (it reads the input,
    and is the patch embedding of a ViT), and what has fewer than ``least_side`` rows or columns.
    """
    kernels = [module.weight for module in model.modules() if isinstance(module, _CONVOLUTIONS)][1:]
    hidden = set(matrices_of(model, manifest))
    return tuple(
        position
        for position, parameter in enumerate(model.parameters())
        if (position in hidden or any(parameter is kernel for kernel in kernels))
        and min(matrix_shape(parameter.shape) or (0,)) >= least_side
    )
