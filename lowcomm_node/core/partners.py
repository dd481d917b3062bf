"""Whom could we meet? A bounded sample of live members, and a uniform choice among those not under suspicion."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.events import FrozenNote, Member
from lowcomm_node.core.paths import Paths
from lowcomm_node.units import LinkKind, PeerId

__all__ = ["Partners", "PeerView"]

_FIRST_SUSPICION_S = 2.0
_LONGEST_SUSPICION_S = 120.0
_MAX_DOUBLINGS = 8
_REMEMBERED_MEETINGS = 5
_MANY_CLIPPED = 4
_CHANGED_PART = 4


@dataclass(slots=True)
class PeerView:
    """What this node knows of one other member."""

    member: Member
    seen_at: float
    """When it last gave a sign of life: its record was renewed, or it sent something."""
    suspect_until: float = 0.0
    failed_at: float = -inf
    failures: int = 0
    avoid_until: float = 0.0
    """Until then not our choice while there is another one. No sign of life ends it: the peer is alive, and far from us."""
    meetings: int = 0
    clipped: deque[bool] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_MEETINGS))
    """Of the last meetings with it: was a correction scaled down?"""
    paths: Paths = field(default_factory=Paths)
    link: LinkKind | None = None
    """What the last meeting with it travelled over, whichever end had started it."""

    def is_suspect(self, now: float) -> bool:
        return now < max(self.suspect_until, self.avoid_until)


class Partners:
    """The sample. All times are on the clock of the events' ``now``."""

    def __init__(self, own: PeerId, capacity: int, chance: Chance) -> None:
        self._own = own
        self._capacity = capacity
        self._chance = chance
        self._known: dict[PeerId, PeerView] = {}
        self._ringable: frozenset[PeerId] = frozenset()
        self.in_role: FrozenNote | None = None
        """Of AB-training: only members that announce the very same are met; None: everybody is."""

    def __len__(self) -> int:
        return len(self._known)

    def see_all(self, members: Sequence[Member], now: float) -> None:
        """Take in what a look into the directory brought.

        Of strangers for whom there is no room, only so many that a quarter of the sample changes. A look in a large swarm brings
        more of them than the sample holds; if all came in, nothing would be left of what was learnt of anybody: suspicion,
        clipped meetings.
        """
        strangers = []
        for member in members:
            known = self._known.get(member.peer)
            if known is None:
                strangers.append(member)
            elif member.expires_at > known.member.expires_at:
                self.see(member, now)
        room = max(0, self._capacity - len(self._known))
        for _ in range(min(len(strangers), room + max(1, self._capacity // _CHANGED_PART))):
            self.see(strangers.pop(self._chance.below(len(strangers))), now)

    def see(self, member: Member, now: float) -> None:
        """Take in a verified record. A newer one of a known peer is a sign of life, and shortens suspicion: who was cut off is met soon."""
        if member.peer == self._own or member.expires_at <= now:
            return
        known = self._known.get(member.peer)
        if known is None:
            if len(self._known) >= self._capacity:
                # A full sample swaps a random member out, so that it stays a random sample of a large swarm. Those whose bell is
                # here have few others who can ask them.
                victims = [peer for peer in self._known if peer not in self._ringable] or list(self._known)
                del self._known[victims[self._chance.below(len(victims))]]
            self._known[member.peer] = PeerView(member=member, seen_at=now)
        elif member.expires_at >= known.member.expires_at:
            if member.grpc_address != known.member.grpc_address:
                known.suspect_until, known.failures, known.paths = 0.0, 0, Paths()
            if member.expires_at > known.member.expires_at:
                known.seen_at = now
                known.suspect_until = min(known.suspect_until, now + _FIRST_SUSPICION_S * known.failures)
            known.member = member

    def heard_from(self, peer: PeerId, now: float) -> None:
        """The peer is alive: it has just sent a message that makes sense."""
        known = self._known.get(peer)
        if known is None:
            return
        if all(now < other.suspect_until for other in self._known.values()):
            for other in self._known.values():
                other.suspect_until, other.failures = 0.0, 0
        known.seen_at, known.suspect_until, known.failures = now, 0.0, 0

    def failed(self, peer: PeerId, now: float) -> None:
        """Contact with the peer failed: leave it alone for a while, doubling with each failure in a row."""
        known = self._known.get(peer)
        if known is not None:
            doublings = min(known.failures, _MAX_DOUBLINGS)
            known.suspect_until = now + min(_LONGEST_SUSPICION_S, _FIRST_SUSPICION_S * 2**doublings)
            known.failed_at = now
            known.failures += 1

    def met(self, peer: PeerId, now: float, *, is_clipped: bool = False) -> None:
        """A meeting with the peer is complete. One that is clipped again and again is avoided for a while.

        It is hostile, or so far away that few meetings with it are worth their bytes. Its own offers are answered still, and
        where there is nobody else it is asked: two nodes that were separated must find together again.
        """
        known = self._known.get(peer)
        if known is None:
            return
        known.meetings += 1
        known.clipped.append(is_clipped)
        if sum(known.clipped) >= _MANY_CLIPPED:
            known.avoid_until = now + _LONGEST_SUSPICION_S
            known.clipped.clear()

    def expire(self, now: float) -> None:
        """Forget members whose record has run out: they are gone, or will be seen again."""
        for peer in [peer for peer, known in self._known.items() if known.member.expires_at <= now]:
            del self._known[peer]

    def choose(self, now: float, excluded: frozenset[PeerId]) -> Member | None:
        """A uniformly random live member that has state to meet with, our role in it, and to which there is a way, or None.

        Where all are under suspicion it is more likely that this node was cut off than that all others are gone: then each is tried
        again soon, however often it has failed.
        """
        able = [known for peer, known in self._known.items() if peer not in excluded and self._is_able(known)]
        live = [known for known in able if now >= known.suspect_until]
        if not live and not excluded:
            live = [known for known in able if now >= known.failed_at + _FIRST_SUSPICION_S]
        candidates = [known for known in live if now >= known.avoid_until] or live
        return candidates[self._chance.below(len(candidates))].member if candidates else None

    def bells_held(self, peers: Sequence[PeerId]) -> None:
        """These members have their bell here now: they can be rung."""
        self._ringable = frozenset(peers)

    @property
    def num_bells(self) -> int:
        """Members that can be rung."""
        return len(self._ringable)

    def link_to(self, peer: PeerId) -> LinkKind | None:
        """What a meeting with this member should go over now; None where there is no way, or it is not known."""
        known = self._known.get(peer)
        return self._link(known) if known is not None else None

    def link_failed(self, peer: PeerId, kind: LinkKind, now: float) -> None:
        """No connection of this kind came about."""
        known = self._known.get(peer)
        if known is not None:
            known.paths.failed(kind, now)

    def came_over(self, peer: PeerId, kind: LinkKind, *, is_own_choice: bool) -> None:
        """A meeting is complete that went over this kind of link; ``is_own_choice``: we had started it."""
        known = self._known.get(peer)
        if known is not None:
            known.link = kind
            if is_own_choice:
                known.paths.worked(kind)

    def dialable(self, now: float) -> list[PeerId]:
        """Members that can be dialled, are not under suspicion, and have refused no bell lately."""
        return [
            peer
            for peer, known in self._known.items()
            if known.member.grpc_address and now >= max(known.suspect_until, known.paths.bell_at)
        ]

    def no_bell_before(self, peer: PeerId, until: float) -> None:
        known = self._known.get(peer)
        if known is not None:
            known.paths.bell_at = until

    def pathless(self, now: float) -> list[PeerId]:
        """Members worth meeting to which a way should be looked for now."""
        return [
            peer
            for peer, known in self._known.items()
            if known.member.has_state
            and known.paths.wants_seeking(known.member, now, is_ringable=peer in self._ringable)
        ]

    def seeking(self, peer: PeerId, now: float) -> None:
        """A direct connection to the member is being looked for."""
        self._known[peer].paths.seeking(now)

    def sought(self, peer: PeerId, now: float, *, is_direct: bool) -> None:
        """What came of it."""
        known = self._known.get(peer)
        if known is not None:
            known.paths.sought(now, is_direct=is_direct)

    def views(self) -> tuple[PeerView, ...]:
        return tuple(self._known.values())

    def num_with_state(self) -> int:
        """Members that have state to meet with, as their records say."""
        return sum(known.member.has_state for known in self._known.values())

    def counts(self, now: float) -> tuple[int, int]:
        """Members reachable as far as we know, and members under suspicion."""
        suspect = sum(known.is_suspect(now) for known in self._known.values())
        return len(self._known) - suspect, suspect

    def _is_able(self, known: PeerView) -> bool:
        has_role = self.in_role is None or known.member.frozen == self.in_role
        return known.member.has_state and has_role and self._link(known) is not None

    def _link(self, known: PeerView) -> LinkKind | None:
        return known.paths.link_to(known.member, is_ringable=known.member.peer in self._ringable)
