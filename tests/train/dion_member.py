"""One member of a group of two, as a process: ``python -m tests.train.dion_member FOLDER RANK STEPS TIMEOUT_S``.

Trains two matrices by Dion on gradients of its own and writes X and Q; a group that fails ends it with the error's sentence.
"""

import sys
from contextlib import closing
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lowcomm_node.algo.group import ALONE, Group
from lowcomm_node.errors import TrainerError
from lowcomm_node.settings.manifest import OptimizerConfig
from lowcomm_node.train.device_group import ProcessGroup
from lowcomm_node.train.optimizers.dion import DionOptimizer
from lowcomm_node.units import Stream

_SHAPES = ((24, 16), (8, 32))


def gradients(step: int, rank: int) -> list[Tensor]:
    """What the replica ``rank`` finds at ``step``."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    return [torch.randn(shape, generator=generator) for shape in _SHAPES]


def trained(gradients_by_step: list[list[Tensor]], group: Group = ALONE) -> dict[str, Tensor]:
    """X and Q after as many steps as there are gradients."""
    generator = torch.Generator().manual_seed(1)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in _SHAPES]
    optimizer = DionOptimizer(parameters, (0, 1), ["a", "b"], OptimizerConfig(kind="dion"), b"run", group=group)
    for found in gradients_by_step:
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
        optimizer.step(0.02)
    kept = {f"X{index}": parameter.detach() for index, parameter in enumerate(parameters)}
    return kept | {f"Q{index}": basis for index, basis in enumerate(optimizer.tensors(Stream.BASIS))}


def main() -> None:
    folder, rank, steps, timeout_s = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    try:
        with closing(ProcessGroup(folder / "rendezvous", rank, 2, timeout_s, joining_s=timeout_s)) as group:
            kept = trained([gradients(step, rank) for step in range(steps)], group)
    except TrainerError as error:
        sys.exit(f"refused: {error}")
    save_file(kept, folder / f"{rank}.safetensors")


if __name__ == "__main__":
    main()
