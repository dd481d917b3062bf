"""What can a meeting with one member travel over? A memory of what was tried, and of what worked."""

from dataclasses import dataclass, field

from lowcomm_node.core.events import Member
from lowcomm_node.units import LinkKind

__all__ = ["Paths"]

_FIRST_SEEK_AGAIN_S = 60.0
_LONGEST_SEEK_AGAIN_S = 3600.0
_MAX_DOUBLINGS = 8
_DOUBTFUL = 2
"""So many failures in a row, and another way is looked for."""


@dataclass(slots=True)
class Paths:
    """The ways from this node to one other. A way that fails gives way to one that has failed less often in a row."""

    failures: dict[LinkKind, int] = field(default_factory=dict)
    """In a row, by kind of link."""
    is_direct: bool = False
    """Its p2pd and ours have a connection that no relay carries."""
    seek_at: float = 0.0
    """No direct connection is looked for before."""
    seek_failures: int = 0
    bell_at: float = 0.0
    """No bell is hung there before."""

    def link_to(self, member: Member, *, is_ringable: bool) -> LinkKind | None:
        """The way to take now, None where there is none: the two are not partners then.

        Of ways that have failed equally often: the member's port, its bell here, libp2p, in this order.
        """
        ways = [
            kind
            for kind, is_open in (
                (LinkKind.GRPC, bool(member.grpc_address)),
                (LinkKind.GRPC_REVERSED, is_ringable),
                (LinkKind.LIBP2P, self.is_direct),
            )
            if is_open
        ]
        return min(ways, key=lambda kind: self.failures.get(kind, 0)) if ways else None

    def worked(self, kind: LinkKind) -> None:
        """A meeting went over it."""
        self.failures.pop(kind, None)

    def failed(self, kind: LinkKind, now: float) -> None:
        """No connection came about."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        if kind is LinkKind.LIBP2P and self.is_direct:
            # It was there a moment ago, and a correction may be held until it is there again: look for it at once.
            self.is_direct, self.seek_at = False, now

    def wants_seeking(self, member: Member, now: float, *, is_ringable: bool) -> bool:
        """Is there no way to the member, or none that can be relied on, and is it time to look for one?"""
        if self.is_direct or now < self.seek_at:
            return False
        link = self.link_to(member, is_ringable=is_ringable)
        return link is None or self.failures.get(link, 0) >= _DOUBTFUL

    def seeking(self, now: float) -> None:
        """A look is under way. Should nothing be heard of it, it is not taken again at once."""
        self.seek_at = now + _FIRST_SEEK_AGAIN_S

    def sought(self, now: float, *, is_direct: bool) -> None:
        """What came of it. In vain, the next look waits twice as long, up to an hour."""
        self.is_direct = is_direct
        if is_direct:
            self.seek_failures = 0
            self.failures.pop(LinkKind.LIBP2P, None)
        else:
            self._seek_later(now)

    def _seek_later(self, now: float) -> None:
        doublings = min(self.seek_failures, _MAX_DOUBLINGS)
        self.seek_at = now + min(_LONGEST_SEEK_AGAIN_S, _FIRST_SEEK_AGAIN_S * 2**doublings)
        self.seek_failures += 1
