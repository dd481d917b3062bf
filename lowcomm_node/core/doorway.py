"""Which connections to this node's port should end? Those that do not say who they are, and those that one peer has too many of.

gRPC itself takes connections until there are as many as it may hold, and then nobody's: without an eye on who has proven
himself a few hundred silent ones would keep everybody out.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import PeerId

__all__ = ["Address", "Doorway", "Ending"]

Address = tuple[str, int]
"""Host, as an IP address, and port of a connection's far end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A connection that should end, and why."""

    address: Address
    reason: RefusalReason
    detail: str


class Doorway:
    """Looked at every second or so, with all connections that there are.

    Invariants: of those who have not said who they are, ``most_unproven`` stay after each look, ``most_of_host`` of one host, and
    none for longer than ``patience_s``; of one peer ``most_of_peer``. The newest stay: who means well proves itself at once.
    """

    def __init__(
        self, *, patience_s: float = 10.0, most_unproven: int = 128, most_of_host: int = 64, most_of_peer: int = 8
    ) -> None:
        self._patience_s = patience_s
        self._most_unproven = most_unproven
        self._most_of_host = most_of_host
        self._most_of_peer = most_of_peer
        self._seen_at: dict[Address, float] = {}
        self._peers: dict[Address, PeerId] = {}

    def proven(self, address: Address, peer: PeerId) -> None:
        """The far end of this connection has proven to be ``peer``."""
        self._peers.pop(address, None)
        self._peers[address] = peer

    def disowned(self, peer: PeerId) -> None:
        """Nothing more is wanted of this peer: its connections end at the next look."""
        for address in [address for address, owner in self._peers.items() if owner == peer]:
            del self._peers[address]
            self._seen_at[address] = float("-inf")

    def looked(self, addresses: Collection[Address], now: float) -> list[Ending]:
        """Take in which connections there are; those that should end."""
        self._seen_at = {address: self._seen_at.get(address, now) for address in addresses}
        self._peers = {address: peer for address, peer in self._peers.items() if address in self._seen_at}
        unproven = sorted((at, address) for address, at in self._seen_at.items() if address not in self._peers)
        overdue = [address for at, address in unproven if now - at > self._patience_s]
        fresh = [address for at, address in unproven if now - at <= self._patience_s]
        of_hosts = _surplus(((address, address[0]) for address in fresh), self._most_of_host)
        left = [address for address in fresh if address not in of_hosts]
        of_peers = _surplus(self._peers.items(), self._most_of_peer)
        return [
            *_ending(overdue, RefusalReason.UNPROVEN, f"has not said in {self._patience_s:g} s who it is"),
            *_ending(of_hosts, RefusalReason.TOO_MANY, f"one of over {self._most_of_host} that have not, of one host"),
            *_ending(
                left[: max(0, len(left) - self._most_unproven)],
                RefusalReason.TOO_MANY,
                f"one of over {self._most_unproven} that have not said yet who they are",
            ),
            *_ending(of_peers, RefusalReason.TOO_MANY, f"one of over {self._most_of_peer} of one peer"),
        ]


def _surplus(owned: Iterable[tuple[Address, str]], most: int) -> set[Address]:
    """Of each owner all but the newest ``most``; oldest first in."""
    by_owner: dict[str, list[Address]] = {}
    for address, owner in owned:
        by_owner.setdefault(owner, []).append(address)
    return {address for addresses in by_owner.values() for address in addresses[: max(0, len(addresses) - most)]}


def _ending(addresses: Iterable[Address], reason: RefusalReason, detail: str) -> list[Ending]:
    return [Ending(address=address, reason=reason, detail=f"{address[0]}: {detail}") for address in addresses]
