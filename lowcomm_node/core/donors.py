"""Whom does a node ask for a state, and is what it gets one that it may take? Rounds of a few donors each.

Donors are compared with other members by their fingerprints (``core.fingerprint``). Those of a round are asked for when it begins,
the donors' own among them: what a donor says of itself may already be enough to know that it will not do.
"""

from collections import Counter
from collections.abc import Collection, Sequence

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import MIN_REFERENCES, Fingerprint, Misfit, find_misfit
from lowcomm_node.units import PeerId

__all__ = ["DonorChoice"]

_MAX_DONORS_PER_ROUND = 4
_MAX_REFERENCES = 6
"""Members asked for their fingerprint in a round; more than needed, since the donor's own does not count for it."""


class DonorChoice:
    """One node's choice, over all its rounds.

    Args:
        initial_sketch: of the run's initial weights.
        total_steps: of the run.
        chance: draws whom a donor is compared with.
        begun: whose state has been fetched in part before; they are asked before others, so that this was not in vain.
    """

    def __init__(
        self, *, initial_sketch: Sequence[float], total_steps: int, chance: Chance, begun: Collection[PeerId] = ()
    ) -> None:
        self._initial_sketch = initial_sketch
        self._total_steps = total_steps
        self._chance = chance
        self._begun = frozenset(begun)
        self._taken: set[PeerId] = set()
        self._failures: Counter[PeerId] = Counter()
        self._members: tuple[Member, ...] = ()
        self._fingerprints: dict[PeerId, Fingerprint] = {}
        """What members say of their live state, this round."""

    def look(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """Whom to ask in the round that begins, of ``members`` to whom there is a way; forgets the fingerprints of the last one.

        In the order of progress, those that nobody can dial after those that can be. Those that have failed come after all others:
        what a member says of its progress must not bring it to the front for ever. Nobody is asked whose state was taken.
        """
        self._fingerprints.clear()
        self._members = tuple(member for member in members if member.has_state)
        left = (member for member in self._members if member.peer not in self._taken)
        return tuple(sorted(left, key=self._rank)[:_MAX_DONORS_PER_ROUND])

    def references(self, donors: Sequence[Member]) -> list[Member]:
        """Whose fingerprint is asked for: the donors', and those of some others, drawn by chance."""
        rest = [member for member in self._members if member not in donors]
        num_drawn = min(len(rest), max(0, _MAX_REFERENCES - len(donors)))
        return [*donors, *(rest.pop(self._chance.below(len(rest))) for _ in range(num_drawn))]

    def holders(self, donor: Member) -> list[PeerId]:
        """Who may hold the same snapshot, the donor first."""
        return [donor.peer, *(member.peer for member in self._members if member.peer != donor.peer)]

    def told(self, peer: PeerId, fingerprint: Fingerprint) -> None:
        """What a member says of its state."""
        self._fingerprints[peer] = fingerprint

    def misfit_as_claimed(self, donor: Member) -> Misfit | None:
        """Why the donor's state will not do by what it says of it itself."""
        claimed = self._fingerprints.get(donor.peer)
        return None if claimed is None else self.misfit(donor, claimed)

    def misfit(self, donor: Member, state: Fingerprint) -> Misfit | None:
        """Why the state that the donor has given will not do."""
        return find_misfit(state, self._others(donor), self._initial_sketch, self._total_steps)

    def num_compared(self, donor: Member) -> int:
        """With how many others its state is compared; 0 when they are too few."""
        num_others = len(self._others(donor))
        return num_others if num_others >= MIN_REFERENCES else 0

    def failed(self, donor: Member) -> None:
        """It has given nothing that could be taken."""
        self._failures[donor.peer] += 1

    def took(self, donor: Member) -> None:
        """Its state was taken; whoever wants several wants another's next."""
        self._taken.add(donor.peer)

    def has_failed(self, donor: Member) -> bool:
        """Has this one been asked in vain?"""
        return self._failures[donor.peer] > 0

    def _rank(self, member: Member) -> tuple[int, bool, bool, float]:
        is_new = member.peer not in self._begun
        return self._failures[member.peer], is_new, not member.grpc_address, -member.progress_steps

    def _others(self, donor: Member) -> list[Fingerprint]:
        return [fingerprint for peer, fingerprint in self._fingerprints.items() if peer != donor.peer]
