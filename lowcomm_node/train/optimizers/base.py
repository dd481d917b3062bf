"""What training, meetings and state files need to know of an inner optimizer, and nothing more."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lowcomm_node.settings.streams import StateStream
from lowcomm_node.units import Stream

__all__ = ["InnerOptimizer", "ZeroStateOptimizer", "decays"]


class InnerOptimizer(ABC):
    """Updates parameters in place from their ``grad``.

    State is made at once, before the first step, so that it can be loaded, described and exchanged at any time.
    Steps are bit-exact functions of parameters, gradients, state tensors and ``optimizer_steps``: nothing else is kept.
    """

    streams: tuple[StateStream, ...]
    """What is kept, as ``settings.streams.state_streams`` declares it."""
    members: Mapping[Stream, tuple[int, ...]]
    """Per stream, the positions (in the order of ``model.parameters()``) of the parameters that have it."""
    local_streams: tuple[Stream, ...] = ()
    """Those of which each device of a node keeps its own: ``step`` wants the device's own gradients of their parameters, and
    brings together what it needs of them. Of all other parameters it wants the mean gradient of the devices."""
    optimizer_steps: int
    """t: updates behind the state; set it after loading state."""

    @abstractmethod
    def step(self, lr: float) -> None:
        """One update with learning rate ``lr``. A parameter without gradient stays as it is."""

    @abstractmethod
    def tensors(self, stream: Stream) -> list[Tensor]:
        """The live tensors of one stream, one per position in ``members[stream]``; the same objects at every call."""

    def guard(self) -> None:  # noqa: B027 - most optimizers need none
        """Called after state was exchanged: bring it back to where the next step is safe."""


class ZeroStateOptimizer(InnerOptimizer):
    """One whose streams all start at zero and have the shapes of the parameters."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], positions: Sequence[int], streams: tuple[StateStream, ...]
    ) -> None:
        self._parameters = list(parameters)
        self.streams = streams
        self.members = {stream.name: tuple(positions) for stream in streams}
        self._tensors = {stream.name: [torch.zeros_like(p.data) for p in self._parameters] for stream in streams}
        self.optimizer_steps = 0

    def tensors(self, stream: Stream) -> list[Tensor]:
        return self._tensors[stream]


def decays(parameter: nn.Parameter) -> bool:
    """Does weight decay act on it? On matrices, not on vectors."""
    return parameter.ndim >= 2
