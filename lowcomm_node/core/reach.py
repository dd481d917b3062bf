"""How others get to this node, and what it does about it: bells at members that can be dialled, direct paths to the rest.

Who cannot be dialled hangs bells: over such a standing stream the other end rings when it has a meeting, and is dialled at
once. To members with neither port nor bell a direct libp2p connection is sought, a few at a time and outside of meetings, so
that the choice of a partner never waits for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.commands import Command, HangBell, SeekPath, TakeBell
from lowcomm_node.core.partners import Partners
from lowcomm_node.core.places import Fullness
from lowcomm_node.units import PeerId, Reachability

__all__ = ["DialledBack", "Reach", "judge", "lasting_address"]

_BELL_AGAIN_S = 30.0
_MAX_SEEKING = 2
_SEEK_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DialledBack:
    """What a member says that has tried to dial this node."""

    host: str
    """Where it tried: this node's address as that member sees it."""
    is_global: bool
    """It is an address of the whole internet, not of a network at home."""
    is_reachable: bool


def judge(answers: Sequence[DialledBack]) -> DialledBack | None:
    """Can this node be dialled? The answer to go by, None when nobody could tell.

    Who sees us from outside of our own network knows better than who sits in it. One that has reached our port is enough: it
    says so of its own accord, and if it lies, others dial in vain and look for another way. Who says no may lie too, so several
    are asked.
    """
    outside = [answer for answer in answers if answer.is_global] or list(answers)
    reached = [answer for answer in outside if answer.is_reachable]
    if reached:
        return reached[0]
    return outside[0] if outside else None


def lasting_address(seen: Sequence[str]) -> str:
    """Where everybody sees this node, as far as some have told; empty when nobody has, or when they differ.

    A router that shows each of them another port (symmetric) would show the next one another port still.
    """
    told = {address for address in seen if address}
    return told.pop() if len(told) == 1 else ""


class Reach:
    """Decides at each look around; ``num_bells`` is the most that hang at a time."""

    def __init__(self, *, num_bells: int, partners: Partners, chance: Chance) -> None:
        self.own = Reachability.PUBLIC
        """As measured last."""
        self._num_bells = num_bells
        self._partners = partners
        self._chance = chance
        self._hung: dict[PeerId, bool] = {}
        """Our bells; False: asked for, and not known to hang."""
        self._seeking: dict[PeerId, float] = {}
        """Paths that are being looked for, and since when."""

    @property
    def fullness(self) -> Fullness:
        """Of paths that are being looked for."""
        return Fullness(len(self._seeking), _MAX_SEEKING)

    def bells(self) -> tuple[PeerId, ...]:
        """Members that can ring us."""
        return tuple(peer for peer, is_up in self._hung.items() if is_up)

    def measured(self, reachability: Reachability, now: float) -> list[Command]:
        """A node that can be dialled needs no bell."""
        self.own = reachability
        return self.looked_around(now)

    def looked_around(self, now: float) -> list[Command]:
        """Members were seen: hang what bells are missing, look for what paths are missing."""
        return self._hang(now) + self._seek(now)

    def hung(self, peer: PeerId) -> None:
        if peer in self._hung:
            self._hung[peer] = True

    def lost(self, peer: PeerId, now: float) -> None:
        """It could not be hung, or is gone: another member gets one at the next look around."""
        self._hung.pop(peer, None)
        self._partners.no_bell_before(peer, now + _BELL_AGAIN_S)

    def sought(self, peer: PeerId, now: float, *, is_direct: bool) -> None:
        self._seeking.pop(peer, None)
        self._partners.sought(peer, now, is_direct=is_direct)

    def _hang(self, now: float) -> list[Command]:
        if self.own is Reachability.PUBLIC:
            taken = [TakeBell(peer=peer) for peer in self._hung]
            self._hung.clear()
            return list(taken)
        peers = [peer for peer in self._partners.dialable(now) if peer not in self._hung]
        commands: list[Command] = []
        while peers and len(self._hung) < self._num_bells:
            peer = peers.pop(self._chance.below(len(peers)))
            self._hung[peer] = False
            commands.append(HangBell(peer=peer))
        return commands

    def _seek(self, now: float) -> list[Command]:
        for peer in [peer for peer, since in self._seeking.items() if now - since > _SEEK_PATIENCE_S]:
            del self._seeking[peer]
        pathless = [peer for peer in self._partners.pathless(now) if peer not in self._seeking]
        commands: list[Command] = []
        while pathless and len(self._seeking) < _MAX_SEEKING:
            peer = pathless.pop(self._chance.below(len(pathless)))
            self._seeking[peer] = now
            self._partners.seeking(peer, now)
            commands.append(SeekPath(peer=peer))
        return commands
