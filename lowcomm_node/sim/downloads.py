"""How newcomers and nodes that heal come by a state, and all by frozen factors: the daemon's rounds, in virtual time.

Whom a node asks, what it compares and what it refuses is decided by the daemon's own ``core.donors``. Here is what that takes: the
way to a donor, and the time that the state is under way. What members say of their state is there at once.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Generic

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.commands import FetchFrozen
from lowcomm_node.core.donors import DonorChoice
from lowcomm_node.core.events import Event, FetchFailed, FrozenHeld, Member
from lowcomm_node.sim.host import Host, T
from lowcomm_node.sim.node import Node
from lowcomm_node.sim.population import Population
from lowcomm_node.sim.tally import Tally
from lowcomm_node.units import PeerId

__all__ = ["Downloads"]

_RETRY_S = 2.0
_UNANSWERED_S = 2.0
"""A question for frozen factors to somebody who has none, or cannot be reached, until the next one is asked."""


class Downloads(Generic[T]):
    """Of a whole world.

    Args:
        population: what states are like.
        hosts: all machines that are there.
        tally: counts what is taken and refused.
        chance: gives each download's own choice a seed.
        at: calls back after so many seconds.
        members: the directory's answer to a host.
        leads: is there a way from one host to a member now?
        rate: bytes per second from a donor to a host.
        on_ready: told when a host's trainer has a state.
        feed: tells a node what has happened.
    """

    def __init__(
        self,
        *,
        population: Population[T],
        hosts: Mapping[PeerId, Host[T]],
        tally: Tally,
        chance: Random,
        at: Callable[[float, Callable[[], None]], None],
        members: Callable[[Host[T]], Sequence[Member]],
        leads: Callable[[Host[T], Member], bool],
        rate: Callable[[PeerId, PeerId], float],
        on_ready: Callable[[Host[T]], None],
        feed: Callable[[Node[T], Event], None],
    ) -> None:
        self._population = population
        self._hosts = hosts
        self._tally = tally
        self._chance = chance
        self._at = at
        self._members = members
        self._leads = leads
        self._rate = rate
        self._on_ready = on_ready
        self._feed = feed

    def begin(self, host: Host[T]) -> None:
        """Get a state for this host, however long it takes."""
        choice = DonorChoice(
            initial_sketch=self._population.initial_sketch,
            total_steps=self._population.total_steps,
            chance=Chance(self._chance.randbytes(16)),
        )
        self._round(host, choice)

    def fetch_frozen(self, host: Host[T], command: FetchFrozen) -> None:
        """From the first of those named that can give it. Takes the place of an earlier one of this host."""
        host.fetching = command
        self._ask_frozen(host, command, command.holders)

    def _ask_frozen(self, host: Host[T], command: FetchFrozen, holders: Sequence[PeerId]) -> None:
        if host.node.is_gone or host.fetching is not command:
            return
        if not holders:
            host.fetching = None
            self._feed(host.node, FetchFailed(epoch=command.epoch, digest=command.digest, is_busy=False))
            return
        data = self._frozen_at(host, holders[0], command.digest)
        if data is None:
            self._at(_UNANSWERED_S, partial(self._ask_frozen, host, command, holders[1:]))
        else:
            seconds = len(data) / self._rate(holders[0], host.node.name)
            self._at(seconds, partial(self._frozen_arrived, host, command, holders, data))

    def _frozen_arrived(self, host: Host[T], command: FetchFrozen, holders: Sequence[PeerId], data: bytes) -> None:
        if host.node.is_gone or host.fetching is not command:
            return
        if self._frozen_at(host, holders[0], command.digest) is None:
            self._ask_frozen(host, command, holders[1:])
            return
        host.fetching = None
        self._tally.bytes_by_message["frozen factors"] += len(data)
        host.trainer.frozen_files[command.digest] = data
        self._feed(host.node, FrozenHeld(epoch=command.epoch, digest=command.digest, is_own=False))

    def _frozen_at(self, host: Host[T], holder: PeerId, digest: str) -> bytes | None:
        """None where it is not, or where there is no way to it."""
        giver = self._hosts.get(holder)
        if giver is None or giver.record is None or not self._leads(host, giver.record):
            return None
        return giver.trainer.frozen_files.get(digest)

    def _round(self, host: Host[T], choice: DonorChoice) -> None:
        if host.node.is_gone:
            return
        members = self._members(host)
        donors = choice.look([member for member in members if self._is_there(host, member)])
        for reference in choice.references(donors):
            told = self._hosts[reference.peer].trainer.fingerprint()
            if told is not None:
                choice.told(reference.peer, told)
        self._ask(host, choice, donors)

    def _ask(self, host: Host[T], choice: DonorChoice, donors: Sequence[Member]) -> None:
        """The first of those that are left in the round."""
        if not donors:
            self._at(_RETRY_S, partial(self._round, host, choice))
            return
        donor, rest = donors[0], donors[1:]
        giver = self._hosts.get(donor.peer)
        if giver is None or choice.misfit_as_claimed(donor) is not None:
            if giver is not None:
                self._count("refused", host, giver)
            choice.failed(donor)
            self._ask(host, choice, rest)
            return
        host.trainer.take_over(giver.trainer)
        seconds = self._population.state_bytes / self._rate(donor.peer, host.node.name)
        self._at(seconds, partial(self._arrived, host, choice, donors, giver))

    def _arrived(self, host: Host[T], choice: DonorChoice, donors: Sequence[Member], giver: Host[T]) -> None:
        if host.node.is_gone:
            return
        donor = donors[0]
        if giver.node.is_gone or not self._is_there(host, donor):
            choice.failed(donor)
            self._ask(host, choice, donors[1:])
            return
        state = host.trainer.fingerprint()
        # A hostile node takes what it is given: it shows what it likes anyway.
        if not host.trainer.is_hostile and (state is None or choice.misfit(donor, state) is not None):
            self._count("refused", host, giver)
            choice.failed(donor)
            self._ask(host, choice, donors[1:])
            return
        self._count("taken", host, giver)
        self._on_ready(host)

    def _is_there(self, host: Host[T], member: Member) -> bool:
        return member.has_state and member.peer in self._hosts and self._leads(host, member)

    def _count(self, what: str, host: Host[T], giver: Host[T]) -> None:
        if not host.trainer.is_hostile:
            is_attacker = giver.trainer.is_hostile and self._population.is_attacking
            self._tally.states[is_attacker, what] += 1
