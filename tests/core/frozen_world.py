"""A swarm that agrees on frozen factors, in virtual time: records that spread, splits and downloads that take a while and may fail."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import count

from lowcomm_node.core.ab_stages import Stage
from lowcomm_node.core.chance import Chance
from lowcomm_node.core.commands import Command, FetchFrozen, SplitTensors, UseFrozen
from lowcomm_node.core.events import (
    FetchFailed,
    FrozenHeld,
    FrozenNote,
    FrozenRefused,
    FrozenUsed,
    Member,
    SplitFailed,
)
from lowcomm_node.core.frozen import FrozenAgreement
from lowcomm_node.core.partners import Partners
from lowcomm_node.units import PeerId

__all__ = ["FrozenWorld", "VirtualNode", "digest_of"]

_TICK_S = 0.25
_LOOK_S = 1.0
_RECORD_S = 60.0


def digest_of(name: str) -> str:
    """A digest that stands for a file of this name."""
    return sha256(name.encode()).hexdigest()


@dataclass(eq=False)
class VirtualNode:
    """One node and what it has done."""

    peer: PeerId
    partners: Partners
    agreement: FrozenAgreement
    is_alive: bool = True
    life: int = 0
    shelf: set[str] = field(default_factory=set)
    splits: list[int] = field(default_factory=list)
    """Epoch of each split that was begun."""
    fetches: list[str] = field(default_factory=list)
    taken: list[tuple[int, str]] = field(default_factory=list)
    cut_from: set[PeerId] = field(default_factory=set)
    """Members whose files it cannot get."""
    is_busy: bool = False
    """It tells who asks to come back."""


class FrozenWorld:
    """``bad``: digests whose files no trainer takes; ``fails``: whether a split comes to nothing."""

    def __init__(
        self,
        num_nodes: int,
        *,
        seed: int = 0,
        split_s: float = 0.5,
        fetch_s: float = 0.5,
        look_s: float = _LOOK_S,
        patience_s: float = 5.0,
        fails: Callable[[VirtualNode], bool] = lambda _node: False,
    ) -> None:
        self.now = 0.0
        self.bad: set[str] = set()
        self.records: dict[PeerId, Member] = {}
        self.nodes: list[VirtualNode] = []
        self.chance = random.Random(seed)
        self._split_s, self._fetch_s, self._look_s, self._patience_s = split_s, fetch_s, look_s, patience_s
        self._fails = fails
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        for index in range(num_nodes):
            self.join(f"n{index:03}")

    def join(self, name: str) -> VirtualNode:
        """A new node, which sees records at its first look."""
        node = VirtualNode(PeerId(name), *self._mind(name, 0))
        self.nodes.append(node)
        self._start(node)
        return node

    def enter(self, node: VirtualNode, epoch: int, stage: Stage = Stage.FACTORS, after_s: float = 0.0) -> None:
        """Its trainer comes to this stage."""
        self._later(node, after_s, lambda: self._do(node, node.agreement.stepped(stage, epoch, self.now)))

    def kill(self, node: VirtualNode) -> None:
        """Its record stays until it runs out."""
        node.is_alive = False
        node.life += 1

    def revive(self, node: VirtualNode) -> None:
        """As a new process with the old shelf."""
        node.is_alive = True
        node.partners, node.agreement = self._mind(node.peer, node.life)
        self._start(node)

    def announce(self, peer: str, note: FrozenNote | None) -> None:
        """A record that may be a lie."""
        self.records[PeerId(peer)] = _member(PeerId(peer), note, self.now + _RECORD_S)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, act = heapq.heappop(self._queue)
            act()
        self.now = end

    def used(self) -> set[str]:
        """What the live nodes in role train with."""
        return {note.digest if (note := node.agreement.in_role) else "" for node in self.nodes if node.is_alive}

    def _mind(self, name: str, life: int) -> tuple[Partners, FrozenAgreement]:
        seed = f"{name}/{life}".encode()
        partners = Partners(PeerId(name), 64, Chance(seed + b"p"))
        return partners, FrozenAgreement(
            own=PeerId(name), partners=partners, chance=Chance(seed), patience_s=self._patience_s
        )

    def _start(self, node: VirtualNode) -> None:
        node.agreement.trainer_ready(self.now)
        self._renew(node)
        self._later(node, self.chance.uniform(0.0, _TICK_S), lambda: self._tick(node))
        self._later(node, self.chance.uniform(0.0, self._look_s), lambda: self._look(node))

    def _tick(self, node: VirtualNode) -> None:
        node.partners.expire(self.now)
        self._do(node, node.agreement.ticked(self.now))
        self._later(node, _TICK_S, lambda: self._tick(node))

    def _look(self, node: VirtualNode) -> None:
        self._renew(node)
        for member in self.records.values():
            if member.expires_at > self.now:
                node.partners.see(member, self.now)
        self._do(node, node.agreement.looked(self.now))
        self._later(node, self._look_s, lambda: self._look(node))

    def _renew(self, node: VirtualNode) -> None:
        self.records[node.peer] = _member(node.peer, node.agreement.note, self.now + _RECORD_S)

    def _do(self, node: VirtualNode, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SplitTensors(epoch=epoch):
                    node.splits.append(epoch)
                    self._later(node, self._split_s, partial(self._split, node, epoch))
                case FetchFrozen():
                    node.fetches.append(command.digest)
                    self._later(node, self._fetch_s, partial(self._fetch, node, command))
                case UseFrozen():
                    self._later(node, 0.1, partial(self._use, node, command))

    def _split(self, node: VirtualNode, epoch: int) -> None:
        if self._fails(node):
            self._tell(node, SplitFailed(epoch=epoch))
            return
        digest = digest_of(f"{node.peer}/{node.life}/{epoch}")
        node.shelf.add(digest)
        self._tell(node, FrozenHeld(epoch=epoch, digest=digest, is_own=True))

    def _fetch(self, node: VirtualNode, command: FetchFrozen) -> None:
        by_name = {other.peer: other for other in self.nodes if other.is_alive and other.peer not in node.cut_from}
        holders = [by_name[peer] for peer in command.holders if peer in by_name]
        able = [other for other in holders if command.digest in other.shelf]
        if command.digest in node.shelf or any(not other.is_busy for other in able):
            node.shelf.add(command.digest)
            self._tell(node, FrozenHeld(epoch=command.epoch, digest=command.digest, is_own=False))
        else:
            self._tell(node, FetchFailed(epoch=command.epoch, digest=command.digest, is_busy=bool(able)))

    def _use(self, node: VirtualNode, command: UseFrozen) -> None:
        epoch, digest = command.epoch, command.digest
        if digest in self.bad:
            self._tell(node, FrozenRefused(epoch=epoch, digest=digest))
            return
        node.taken.append((epoch, digest))
        self._tell(node, FrozenUsed(epoch=epoch, digest=digest, factor=command.factor))
        self._renew(node)

    def _tell(
        self, node: VirtualNode, event: FrozenHeld | FrozenUsed | FrozenRefused | FetchFailed | SplitFailed
    ) -> None:
        self._do(node, node.agreement.handle(event, self.now))

    def _later(self, node: VirtualNode, after_s: float, act: Callable[[], None]) -> None:
        """In this life of the node."""
        life = node.life

        def unless_dead() -> None:
            if node.is_alive and node.life == life:
                act()

        heapq.heappush(self._queue, (self.now + after_s, next(self._order), unless_dead))


def _member(peer: PeerId, note: FrozenNote | None, expires_at: float) -> Member:
    return Member(peer=peer, grpc_address="h:1", progress_steps=0.0, has_state=True, expires_at=expires_at, frozen=note)
