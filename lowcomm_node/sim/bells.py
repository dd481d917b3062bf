"""How virtual nodes reach each other: by port, by bell, or by a hole punched from both sides."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Generic

from lowcomm_node.core.commands import HangBell, SeekPath, TakeBell
from lowcomm_node.core.events import BellHung, BellLost, BellsHeld, Event, PathSought
from lowcomm_node.core.node import NodeCore
from lowcomm_node.sim.conditions import Conditions
from lowcomm_node.sim.node import Node, T
from lowcomm_node.units import LinkKind, PeerId

__all__ = ["VirtualBells"]

_REACH_OUT_S = 0.3
"""Until a bell hangs, or it is known whether there is a direct path."""
_NOBODY_S = 2.0
"""Until it is known that nobody comes."""


class VirtualBells(Generic[T]):
    """Whose bell hangs with whom, kept from both sides in the order in which they were hung."""

    def __init__(
        self,
        nodes: Mapping[PeerId, Node[T]],
        conditions: Conditions,
        *,
        now: Callable[[], float],
        at: Callable[[float, Callable[[], None]], None],
        feed: Callable[[Node[T], Event], None],
    ) -> None:
        self._nodes = nodes
        self._conditions = conditions
        self._now, self._at, self._feed = now, at, feed
        self._holders: dict[PeerId, dict[PeerId, None]] = {}
        self._owners: dict[PeerId, dict[PeerId, None]] = {}

    def impossible_s(self, initiator: PeerId, answerer: PeerId, kind: LinkKind) -> float | None:
        """Seconds until a connection of this kind is found to be impossible; None when it can be made."""
        match kind:
            case LinkKind.GRPC:
                return self._conditions.dial(initiator, answerer, self._now())
            case LinkKind.GRPC_REVERSED if initiator in self._holders.get(answerer, {}):
                return self._conditions.dial(answerer, initiator, self._now())
            case LinkKind.LIBP2P if self._conditions.can_punch(initiator, answerer, self._now()):
                return None
        return _NOBODY_S

    def carry_out(self, node: Node[T], command: HangBell | TakeBell | SeekPath) -> None:
        """What a core has decided about its reach."""
        peer = command.peer
        if isinstance(command, TakeBell):
            self._holders.get(node.name, {}).pop(peer, None)
            self._owners.get(peer, {}).pop(node.name, None)
            self._tell_holders((peer,))
        elif isinstance(command, HangBell):
            self._at(_REACH_OUT_S, partial(self._hang, node, node.core, peer))
        else:
            is_direct = peer in self._nodes and self._conditions.can_punch(node.name, peer, self._now())
            self._at(_REACH_OUT_S, partial(self._tell, node, node.core, PathSought(peer=peer, is_direct=is_direct)))

    def cut(self, node: Node[T]) -> None:
        """The node's process is gone: all its bells fall down, and all that it held."""
        holders, owners = self._holders.pop(node.name, {}), self._owners.pop(node.name, {})
        for holder in holders:
            self._owners[holder].pop(node.name, None)
        for owner in owners:
            self._holders[owner].pop(node.name, None)
        self._tell_holders(holders)
        for owner in owners:
            self._feed(self._nodes[owner], BellLost(peer=node.name))

    def _hang(self, node: Node[T], core: NodeCore, peer: PeerId) -> None:
        if peer not in self._nodes or self._conditions.dial(node.name, peer, self._now()) is not None:
            self._tell(node, core, BellLost(peer=peer))
        elif not node.is_gone and node.core is core:
            self._holders.setdefault(node.name, {})[peer] = None
            self._owners.setdefault(peer, {})[node.name] = None
            self._feed(node, BellHung(peer=peer))
            self._tell_holders((peer,))

    def _tell_holders(self, holders: Iterable[PeerId]) -> None:
        for holder in holders:
            if holder in self._nodes:
                self._feed(self._nodes[holder], BellsHeld(peers=tuple(self._owners.get(holder, ()))))

    def _tell(self, node: Node[T], core: NodeCore, event: Event) -> None:
        if not node.is_gone and node.core is core:
            self._feed(node, event)
