"""Two inner optimizers as one: hidden matrices by the first, everything else by the second."""

from torch import Tensor

from lowcomm_node.train.optimizers.base import InnerOptimizer
from lowcomm_node.units import Stream

__all__ = ["Composite"]


class Composite(InnerOptimizer):
    """Both step together; their streams must differ. The second's learning rate is ``lr_ratio`` times the first's."""

    def __init__(self, first: InnerOptimizer, second: InnerOptimizer, lr_ratio: float) -> None:
        self._first, self._second, self._lr_ratio = first, second, lr_ratio
        self.streams = (*first.streams, *second.streams)
        self.members = {**first.members, **second.members}
        self.local_streams = (*first.local_streams, *second.local_streams)

    @property
    def optimizer_steps(self) -> int:
        """t, the same for both."""
        return self._first.optimizer_steps

    @optimizer_steps.setter
    def optimizer_steps(self, steps: int) -> None:
        self._first.optimizer_steps = self._second.optimizer_steps = steps

    def step(self, lr: float) -> None:
        self._first.step(lr)
        self._second.step(lr * self._lr_ratio)

    def tensors(self, stream: Stream) -> list[Tensor]:
        return (self._first if stream in self._first.members else self._second).tensors(stream)

    def guard(self) -> None:
        self._first.guard()
        self._second.guard()
