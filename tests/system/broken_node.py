"""``lowcomm-node`` whose core has a bug: it fails at the first tick after its twentieth step."""

import sys

from lowcomm_node.cli.app import main
from lowcomm_node.core.commands import Command
from lowcomm_node.core.events import Event, Ticked
from lowcomm_node.core.node import NodeCore

_sound = NodeCore.handle


def _broken(self: NodeCore, event: Event, now: float) -> list[Command]:
    if isinstance(event, Ticked) and self._schedule._steps > 20:
        raise KeyError("a bug")
    return _sound(self, event, now)


if __name__ == "__main__":
    NodeCore.handle = _broken  # type: ignore[method-assign]  # its parameters have the names of the true one's
    sys.exit(main())
