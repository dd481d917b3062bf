"""A dictionary that cannot grow for ever."""

from collections import OrderedDict
from typing import TypeVar

from lowcomm_node.core.places import Fullness

__all__ = ["Newest"]

_K = TypeVar("_K")
_V = TypeVar("_V")


class Newest(OrderedDict[_K, _V]):
    """Of so many entries at most: what is set becomes the newest, and the oldest goes for one too many."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: _K, value: _V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)

    @property
    def fullness(self) -> Fullness:
        return Fullness(len(self), self._most)
