"""Which frozen factors does the swarm train with in this epoch of AB-training, and which factor does this node train?

Nobody leads. Where members announce frozen factors of the epoch, those with the lowest digest count: all who see the same records
choose the same. Where nobody announces any, one member after the other may split its own weights, in an order that all can work
out; who has none meanwhile trains whole. Late or different news cost a second split or a second download, and never more than
that: from whatever views, members that can reach one another end with the same frozen factors.

A record is only a claim. What it names counts once it has been fetched, is what its digest says and the trainer has taken it;
until then what is there is used, and whoever does not deliver is asked less and less, and then not at all.

Peer ids and digests are compared here and nothing else is made of them, so that a dump without names runs as before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from lowcomm_node.core.ab_stages import Stage
from lowcomm_node.core.chance import Chance
from lowcomm_node.core.commands import Command, FetchFrozen, SplitTensors, UseFrozen
from lowcomm_node.core.events import (
    FetchFailed,
    FrozenHeld,
    FrozenNote,
    FrozenRefused,
    FrozenUsed,
    SplitFailed,
)
from lowcomm_node.core.partners import Partners, PeerView
from lowcomm_node.units import Factor, PeerId

__all__ = ["FrozenAgreement"]

_MOST_HOLDERS = 8
"""Members asked in one download."""
_MOST_FETCHES = 32
"""In one epoch, those apart that were told to come back: a swarm needs two or three, a liar gets no more."""
_MOST_FAILURES = 5
"""Downloads in vain after which a member is not asked again in this epoch."""
_DOUBTED_FAILURES = 2
"""After so many a member's announcement does not keep others from splitting."""
_MOST_SPLITS = 3
"""Attempts in one epoch, all but the last of which have come to nothing."""
_SEEKING_S = 120.0
"""Much longer than it takes a swarm to agree, downloads of large files apart, which say for themselves that they go on."""
_BUSY_S = 2.0
_LONGEST_BUSY_S = 30.0


@dataclass(slots=True)
class _Tried:
    """What came of asking a member in this epoch."""

    failures: int = 0
    refusals: int = 0
    """In a row: it was busy."""
    rests_until: float = 0.0


class FrozenAgreement:
    """Of one node. It sees members through ``partners``, and tells those whom meetings are to be started with.

    Each command ends with one event: SplitTensors with FrozenHeld or SplitFailed, FetchFrozen with FrozenHeld or FetchFailed,
    UseFrozen with FrozenUsed or FrozenRefused; or with TrainerLost, or it is overtaken by another of its kind. ``patience_s``:
    how long the next in the order waits for the one before it.
    """

    def __init__(self, *, own: PeerId, partners: Partners, chance: Chance, patience_s: float) -> None:
        self._own = own
        self._partners = partners
        self._chance = chance
        self._patience_s = patience_s
        self._stage: Stage | None = None
        self._epoch = 0
        self._is_ready = False
        self._has_looked = False
        self._now = 0.0
        self._came_at = 0.0
        """When this node has last come to the stage, or got another trainer."""
        self._waits_since = 0.0
        """When this node has last begun to wait for others to split."""
        self._held: set[str] = set()
        """Digests of this epoch that are on this node's shelf."""
        self._refused: set[str] = set()
        self._tried: dict[PeerId, _Tried] = {}
        self._factor: Factor | None = None
        self._used = ""
        """What the trainer that there is now has taken, of this epoch."""
        self._giving = ""
        self._fetching = ""
        self._asked: tuple[PeerId, ...] = ()
        self._num_fetches = 0
        self._is_splitting = False
        self._num_splits = 0
        self._newest_split = 0
        """Epoch of the last split of our own that has come to something: there is no second one."""
        self.note: FrozenNote | None = None
        """What this node's record says from now on: the newest frozen factors that its trainer has taken."""

    @property
    def in_role(self) -> FrozenNote | None:
        """What a partner must have announced for a meeting in role; None: meetings are ordinary ones."""
        is_used = self.note is not None and self._used == self.note.digest and self.note.epoch == self._epoch
        return self.note if is_used and self._stage is Stage.FACTORS else None

    @property
    def is_seeking(self) -> bool:
        """Is news of the others wanted soon? Not for ever: who has found nothing for a while may well go on whole."""
        is_early = self._now < self._came_at + _SEEKING_S
        return self._stage is Stage.FACTORS and self._is_ready and not self._used and is_early

    @property
    def doing(self) -> str:
        """For people: splitting, fetching, waiting; empty where there is nothing to be done."""
        if self._is_splitting:
            return "splitting"
        if self._fetching:
            return "fetching"
        is_without = self._stage is Stage.FACTORS and self._is_ready and not self._used
        return "waiting" if is_without and not self._giving else ""

    def looked(self, now: float) -> list[Command]:
        """Records of others have been seen."""
        self._has_looked = True
        return self._decided(now)

    def ticked(self, now: float) -> list[Command]:
        """Time passes."""
        return self._decided(now)

    def stepped(self, stage: Stage | None, epoch: int, now: float) -> list[Command]:
        """The trainer has come to this stage, or is still in it."""
        if stage is None or (stage is self._stage and epoch == self._epoch):
            return []  # the tick sees to all that takes its time
        if epoch != self._epoch:
            self._begin(epoch)
        if stage is Stage.FACTORS:
            self._came_at = self._waits_since = now
        self._stage = stage
        return self._decided(now)

    def trainer_ready(self, now: float) -> None:
        """There is a trainer, which remembers nothing of what was given to one before it."""
        self._is_ready = True
        self._came_at = self._waits_since = now

    def trainer_lost(self) -> None:
        self._is_ready = False
        self._used = self._giving = ""
        self._partners.in_role = None

    def handle(
        self, event: FrozenHeld | FrozenUsed | FrozenRefused | FetchFailed | SplitFailed, now: float
    ) -> list[Command]:
        """What has come of a command; of an epoch that is over it is no news."""
        if event.epoch != self._epoch:
            return []
        match event:
            case FrozenHeld():
                self._held.add(event.digest)
                if event.digest == self._fetching:
                    self._fetching = ""
                elif event.is_own:
                    self._is_splitting, self._newest_split = False, event.epoch
            case FrozenUsed():
                self._giving, self._used = "", event.digest
                self.note = FrozenNote(epoch=event.epoch, digest=event.digest, factor=event.factor)
            case FrozenRefused():
                self._giving = ""
                self._refused.add(event.digest)
                self._waits_since = now
            case FetchFailed() if event.digest == self._fetching:
                self._fetching = ""
                self._not_delivered(event, now)
            case SplitFailed():
                self._is_splitting, self._waits_since = False, now
            case FetchFailed():
                pass  # another download has taken its place
        return self._decided(now)

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        self._held, self._refused, self._tried = set(), set(), {}
        self._factor = None
        self._used = self._giving = self._fetching = ""
        self._num_fetches = self._num_splits = 0
        self._is_splitting = False

    def _decided(self, now: float) -> list[Command]:
        self._now = now
        self._partners.in_role = self.in_role
        if self._stage is not Stage.FACTORS or not self._is_ready:
            return []
        best = min(self._held - self._refused, default="")
        return [*self._use(best), *self._fetch(best, now), *self._split(best, now)]

    def _use(self, best: str) -> list[Command]:
        if not best or best == self._used or self._giving:
            return []
        self._giving = best
        self._factor = self._factor or self._factor_by_place()
        return [UseFrozen(epoch=self._epoch, digest=best, factor=self._factor)]

    def _fetch(self, best: str, now: float) -> list[Command]:
        """Get what counts, if that is not here: the lowest that somebody can be asked for now."""
        if self._fetching or self._num_fetches >= _MOST_FETCHES:
            return []
        holders: dict[str, list[PeerId]] = {}
        for peer, digest in self._announced():
            tried = self._tried.get(peer)
            if tried is None or (tried.failures < _MOST_FAILURES and now >= tried.rests_until):
                holders.setdefault(digest, []).append(peer)
        digest = min(holders, default="")
        if not digest or (best and best < digest):
            return []
        self._fetching, self._asked = digest, self._drawn(holders[digest])
        self._num_fetches += 1
        return [FetchFrozen(epoch=self._epoch, digest=digest, holders=self._asked)]

    def _split(self, best: str, now: float) -> list[Command]:
        """Split when nobody has announced anything for as long as it takes those before us in the order."""
        is_done = best or self._fetching or self._is_splitting or self._newest_split >= self._epoch
        if is_done or not self._has_looked or self._num_splits >= _MOST_SPLITS:
            return []
        if any(self._failures(peer) < _DOUBTED_FAILURES for peer, _ in self._announced()) or self._would_be_alone():
            return []
        if now < self._waits_since + self._turn() * self._patience_s:
            return []
        self._is_splitting = True
        self._num_splits += 1
        return [SplitTensors(epoch=self._epoch)]

    def _not_delivered(self, failed: FetchFailed, now: float) -> None:
        self._waits_since = now
        if failed.is_busy:
            self._num_fetches -= 1
        for peer in self._asked:
            tried = self._tried.setdefault(peer, _Tried())
            if failed.is_busy:
                tried.refusals += 1
                rest_s = min(_LONGEST_BUSY_S, _BUSY_S * 2.0 ** min(tried.refusals - 1, 8))
            else:
                tried.refusals = 0
                tried.failures += 1
                rest_s = self._patience_s * 2.0 ** (tried.failures - 1)
            tried.rests_until = now + rest_s

    def _failures(self, peer: PeerId) -> float:
        tried = self._tried.get(peer)
        if self._num_fetches >= _MOST_FETCHES:
            return inf  # nobody is asked any more
        return tried.failures if tried is not None else 0

    def _announced(self) -> Iterable[tuple[PeerId, str]]:
        """Who announces which frozen factors of this epoch that are not here and not known to be of no use."""
        known = self._held | self._refused
        for view in self._partners.views():
            note = view.member.frozen
            if note is not None and note.epoch == self._epoch and note.digest not in known:
                yield view.member.peer, note.digest

    def _would_be_alone(self) -> bool:
        """Most others have frozen factors of this epoch, which we cannot get or use, or are in a later one.

        With others of our own we would start no meeting; whole we meet everybody.
        """
        views = self._partners.views()
        return 2 * sum(_epoch_of(view) >= self._epoch for view in views) > len(views)

    def _place(self) -> int:
        """Among the members that this node knows and itself, by peer id; 0 is the lowest."""
        return sum(view.member.peer < self._own for view in self._able())

    def _turn(self) -> int:
        """How many are to split before this node: from the lowest up, in every other epoch from the highest down."""
        place = self._place()
        return place if self._epoch % 2 else len(self._able()) - place

    def _factor_by_place(self) -> Factor:
        """Every other member trains A, and in the next epoch B: with equal views, halves that differ by one at most."""
        return Factor.A if (self._place() + self._epoch) % 2 else Factor.B

    def _able(self) -> list[PeerView]:
        return [view for view in self._partners.views() if view.member.has_state]

    def _drawn(self, peers: list[PeerId]) -> tuple[PeerId, ...]:
        """Some of them, in an order of chance: not all should ask the same one first."""
        count = min(_MOST_HOLDERS, len(peers))
        return tuple(peers.pop(self._chance.below(len(peers))) for _ in range(count))


def _epoch_of(view: PeerView) -> int:
    return view.member.frozen.epoch if view.member.frozen is not None else 0
