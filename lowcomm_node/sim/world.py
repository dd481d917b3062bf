"""A swarm with a directory, lines, comings and goings, partitions and hostile members; and what is seen of it.

Nodes, meetings and frames are those of ``VirtualSwarm``; here is what surrounds them. A newcomer does what a daemon does: it starts,
reads the directory, downloads a member's state and takes part. Half of those who leave say so and finish their meeting.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from statistics import fmean

from lowcomm_node.core.commands import Command, FetchFrozen, HealReason, ReportMeeting
from lowcomm_node.core.events import (
    DrainRequested,
    Event,
    FrozenUsed,
    Member,
    MembersSeen,
    MessageProgressed,
    ReachabilityMeasured,
    RecordRenewed,
)  # fmt: skip
from lowcomm_node.core.messages import Answer, Close, Message, Offer
from lowcomm_node.sim.conditions import Passage
from lowcomm_node.sim.directory import Registrant, VirtualDirectory
from lowcomm_node.sim.downloads import Downloads
from lowcomm_node.sim.figures import Life, attack_figures, expected_spread, join_figures
from lowcomm_node.sim.host import Host, T, avoidance
from lowcomm_node.sim.lines import Lines
from lowcomm_node.sim.link import VirtualLink, as_bytes, virtual_peer
from lowcomm_node.sim.population import Centre, Look, Population
from lowcomm_node.sim.report import DirectoryFigures, Point, Report
from lowcomm_node.sim.scenario import Partition, Scenario
from lowcomm_node.sim.swarm import Node, VirtualSwarm
from lowcomm_node.sim.tally import Tally
from lowcomm_node.units import LinkKind, PeerId

__all__ = ["World"]

_LOOKS = 60
_QUICK_POLLS = 20
"""A newcomer's first looks into the directory come once a second, as the daemon's do; the first nodes have them behind them."""
_FIRST_START_S = 10.0
"""The first nodes come up within this time."""
_PROCESS_START_S = 3.0
_DRAIN_S = 5.0
_CENTRE_S = 1.0
"""So long a mean of all nodes is good enough to compare newcomers with."""
_SIGN_S = 2.0
_MOST_SIGNS = 300
"""While a message travels, a sign of life every two seconds, for ten minutes at most."""
_TICK_S = 1.0
"""Coarser than a daemon's quarter of a second: deadlines are tens of seconds."""


class World(VirtualSwarm[T]):
    """One run of a scenario. ``run_scenario`` gives the report."""

    def __init__(
        self,
        scenario: Scenario,
        population: Population[T],
        *,
        max_payload_bytes: int,
        max_tensors: int,
        on_decision: Callable[[float, Event, Sequence[Command]], None] | None = None,
    ) -> None:
        self._scenario = scenario
        self._on_decision = on_decision
        self._population = population
        self._chance = Random(f"world|{scenario.seed}")
        self._sides: dict[PeerId, int] = {}
        """Of nodes that are cut off; empty while nobody is."""
        lines = Lines(scenario, Random(f"lines|{scenario.seed}"), self._are_apart, population.stride)
        super().__init__(
            (),
            seed=scenario.seed,
            conditions=lines,
            make_rules=population.make_rules,
            max_payload_bytes=max_payload_bytes,
            max_tensors=max_tensors,
            tick_s=_TICK_S,
            is_lazy=True,
        )
        self._lines = lines
        self._directory = VirtualDirectory(scenario.settings.network.record_ttl_s, self._chance)
        self._tally = Tally(population.codec_of)
        self._hosts: dict[PeerId, Host[T]] = {}
        self._downloads = Downloads(
            population=population,
            hosts=self._hosts,
            tally=self._tally,
            chance=self._chance,
            at=self.at,
            members=lambda host: self._directory.members(host.registrant, self.now),
            leads=self._leads,
            rate=lines.rate,
            on_ready=self._ready,
            feed=self.feed,
        )
        self._changes: Counter[str] = Counter()
        self._newcomers: list[Life] = []
        """Of newcomers that are gone."""
        self._node_s = 0.0
        self._own_steps = 0
        self._timeline: list[Point] = []
        self._completed_before = 0
        self._centre: Centre | None = None
        self._centre_at = 0.0
        self._heals: Counter[str] = Counter()

    def run_scenario(self, on_look: Callable[[Point], None]) -> Report:
        """Run it to its end; ``on_look`` hears of each look."""
        scenario = self._scenario
        hostile = round(scenario.hostile_ratio * scenario.nodes)
        self.at(scenario.attack_from_s, self._attack)
        for index in range(scenario.nodes):
            self._come(is_initial=True, is_hostile=index < hostile)
        if scenario.churn_per_minute:
            self.at(self._churn_gap_s(), self._churn)
        for change in scenario.trace:
            for _ in range(change.count):
                self.at(change.at_s, partial(self._change, change.kind))
        for partition in scenario.partitions:
            self.at(partition.from_s, partial(self._part, partition))
            self.at(partition.until_s, self._heal)
        every_s = scenario.duration_s / _LOOKS
        for number in range(1, _LOOKS + 1):
            self.at(number * every_s, partial(self._look, every_s, on_look))
        self.run(scenario.duration_s)
        return self._report()

    # What VirtualSwarm asks.

    def introduce(self, node: Node[T]) -> None:
        self.feed(node, ReachabilityMeasured(reachability=self._lines.reachability(node.name)))

    def passage(self, link: VirtualLink, sender: PeerId, message: Message, *, is_first: bool) -> Passage:
        frames = as_bytes(message)
        part_bytes = self._population.weigh(message)
        parts = message.parts if isinstance(message, Offer | Answer | Close) else ()
        num_bytes = sum(map(len, frames)) - sum(map(len, parts)) + sum(part_bytes)
        self._tally.sent(message, num_bytes, part_bytes)
        passage = self._lines.ship(sender, link.other(sender), frames, num_bytes, self.now, is_first=is_first)
        for delay_s, _ in passage.arrivals:
            for number in range(1, min(_MOST_SIGNS, int(delay_s / _SIGN_S)) + 1):
                self.at(number * _SIGN_S, partial(self._progress, link))
        return passage

    def _progress(self, link: VirtualLink) -> None:
        """Bytes are moving: deadlines of silence hear of it at both ends."""
        for end in self._listening(link):
            self.feed(self.nodes[end], MessageProgressed(meeting_id=link.meeting_id))

    def heard(self, node: Node[T], message: Message) -> None:
        if isinstance(message, Offer):
            sender = self._hosts.get(message.sender)
            if sender is not None and sender.record is not None and sender.record.expires_at > self.now:
                self.feed(node, MembersSeen(members=(sender.record,)))

    def handled(self, node: Node[T], event: Event, commands: Sequence[Command]) -> None:
        if self._on_decision is not None:
            self._on_decision(self.now, event, commands)
        if isinstance(event, FrozenUsed):
            self.at(0.0, partial(self._announce, self._hosts[node.name], is_repeated=False))

    def fetch_frozen(self, node: Node[T], command: FetchFrozen) -> None:
        self._downloads.fetch_frozen(self._hosts[node.name], command)

    def reported(self, node: Node[T], report: ReportMeeting) -> None:
        self._tally.reported(report)
        host, partner = self._hosts.get(node.name), self._hosts.get(report.peer)
        if host is None:
            return
        if not host.trainer.is_hostile:
            is_with_hostile = partner is not None and partner.trainer.is_hostile
            if self._population.is_attacking:
                self._tally.judged(report, is_with_hostile=is_with_hostile)
            self._population.pushed(
                host.trainer, report.meeting_id, is_by_hostile=is_with_hostile and self._population.is_attacking
            )
        if report.outcome == "completed" and not host.is_initial:
            if math.isnan(host.met_at):
                host.met_at = self.now - host.joined_at
            self._see_informed(host)

    def remove(self, node: Node[T]) -> None:
        if node.is_gone:
            return
        host = self._hosts.pop(node.name)
        if not host.is_initial:
            self._newcomers.append((host.ready_at, host.met_at, host.informed_at))
        self._own_steps += host.trainer.steps
        self._node_s += self.now - host.joined_at
        super().remove(node)
        self._lines.remove(node.name)
        self._sides.pop(node.name, None)

    def heal(self, node: Node[T], reason: HealReason) -> None:
        if self._is_attacking(node):
            self.restart(node)  # it wants to stay as it is
            return
        self._heals[reason.value] += 1
        node.trainer.forget()
        node.answered.clear()
        node.has_trainer = False
        node.life += 1
        host = self._hosts[node.name]
        self._announce(host, is_repeated=False)  # nobody should ask it now
        self._downloads.begin(host)

    def give_up(self, node: Node[T]) -> None:
        if self._is_attacking(node):
            self.restart(node)
        else:
            self._heals["gave_up"] += 1
            self.remove(node)

    # Lives.

    def _come(self, *, is_initial: bool, is_hostile: bool) -> None:
        name = virtual_peer(self._count)
        self._lines.add(name)
        trainer = self._population.make(self._count, self._chance, is_hostile=is_hostile)
        skew_s = self._scenario.skew_s * self._chance.gauss(0, 1) if self._scenario.skew_s else 0.0
        registrant = Registrant(name, skew_s, reachability=self._lines.reachability(name))
        if self._sides:
            registrant.side = self._sides[name] = self._chance.choice(list(self._sides.values()))
        node = self.add(trainer, is_ready=is_initial)
        self._hosts[name] = host = Host(node, registrant, is_initial, self.now)
        if is_initial:
            host.ready_at, host.num_polls = 0.0, _QUICK_POLLS
        wait_s = _FIRST_START_S * self._chance.random() if is_initial else _PROCESS_START_S
        self.at(wait_s, partial(self._announce, host))
        self.at(wait_s + 0.1, partial(self._poll, host))
        if not is_initial:
            self._changes["joined"] += 1
            self.at(wait_s + 0.5, partial(self._downloads.begin, host))

    def _announce(self, host: Host[T], *, is_repeated: bool = True) -> None:
        if host.node.is_gone or host.is_leaving:
            return
        trainer, settings = host.trainer, self._scenario.settings.network
        host.record = self._directory.announce(
            host.registrant,
            progress_steps=trainer.progress_steps,
            has_state=host.node.core.has_sound_state,
            now=self.now,
            frozen=host.node.core.frozen.note,
        )
        self.feed(host.node, RecordRenewed(member=host.signed_record()))
        if is_repeated:
            self.at(settings.record_ttl_s / 3, partial(self._announce, host))

    def _poll(self, host: Host[T]) -> None:
        if host.node.is_gone:
            return
        self.feed(host.node, MembersSeen(members=self._directory.members(host.registrant, self.now)))
        host.node.core.partners.expire(self.now)  # a tick would do it; nodes without a meeting have none here
        host.num_polls += 1
        is_eager = host.num_polls < _QUICK_POLLS or host.node.core.frozen.is_seeking
        wait_s = 1.0 if is_eager else self._scenario.settings.network.poll_every_s
        self.at(wait_s, partial(self._poll, host))

    def _leads(self, host: Host[T], member: Member) -> bool:
        """Is there a way to be given a state: its port, its bell here, or a direct connection?"""
        kind = LinkKind.GRPC if member.grpc_address else host.node.core.partners.link_to(member.peer)
        return kind is not None and self._bells.impossible_s(host.node.name, member.peer, kind) is None

    def _ready(self, host: Host[T]) -> None:
        """Its trainer has a state."""
        if math.isnan(host.ready_at):
            host.ready_at = self.now - host.joined_at
        self.make_ready(host.node)
        self._announce(host, is_repeated=False)  # others may ask it from now on
        self._see_informed(host)

    def _go(self, kind: str) -> None:
        """A random node leaves in order, or dies. The last two stay."""
        staying = [host for host in self._hosts.values() if not host.is_leaving]
        if len(staying) <= 2:
            return
        host = self._chance.choice(staying)
        self._changes["left" if kind == "leave" else "killed"] += 1
        host.is_leaving = True
        if kind == "leave":
            self.feed(host.node, DrainRequested())
            self._directory.withdraw(host.registrant)
            self.at(_DRAIN_S, partial(self.remove, host.node))
        else:
            self.remove(host.node)

    def _change(self, kind: str) -> None:
        if kind == "join":
            self._come(is_initial=False, is_hostile=self._chance.random() < self._scenario.hostile_ratio)
        else:
            self._go(kind)

    def _churn(self) -> None:
        self._change(self._chance.choice(("leave", "kill")))
        self._change("join")
        self.at(self._churn_gap_s(), self._churn)

    def _churn_gap_s(self) -> float:
        return self._chance.expovariate(self._scenario.churn_per_minute * self._scenario.nodes / 60)

    # Trouble.

    def _is_attacking(self, node: Node[T]) -> bool:
        return node.trainer.is_hostile and self._population.is_attacking

    def _attack(self) -> None:
        self._population.is_attacking = True

    def _are_apart(self, one: PeerId, other: PeerId) -> bool:
        return bool(self._sides) and self._sides.get(one, 0) != self._sides.get(other, 0)

    def _part(self, partition: Partition) -> None:
        for host in self._hosts.values():
            host.registrant.side = int(self._chance.random() < partition.ratio)
            self._sides[host.node.name] = host.registrant.side
        self._directory.part(self.now)

    def _heal(self) -> None:
        self._sides.clear()
        for host in self._hosts.values():
            host.registrant.side = 0
        self._directory.part(None)

    # Looking.

    def _honest(self) -> list[T]:
        return [h.trainer for h in self._hosts.values() if h.node.has_trainer and not h.trainer.is_hostile]

    def _see_informed(self, host: Host[T]) -> None:
        if not math.isnan(host.informed_at):
            return
        if self._centre is None or self.now > self._centre_at + _CENTRE_S:
            self._centre, self._centre_at = self._population.centre(self._honest()), self.now
        if self._population.distance(host.trainer, self._centre) <= 2 * self._centre.spread:
            host.informed_at = self.now - host.joined_at

    def _look(self, every_s: float, on_look: Callable[[Point], None]) -> None:
        honest = self._honest()
        look = self._population.look(honest, self.now) if honest else Look(0.0, 0.0, 0.0, {})
        completed, self._completed_before = self._tally.completed - self._completed_before, self._tally.completed
        point = Point(
            at_s=self.now,
            nodes=len(self._hosts),
            spread=look.spread,
            progress_spread=look.progress_spread,
            consensus_error=look.consensus_error,
            completed_per_node_minute=60 * completed / every_s / max(1, len(self._hosts)),
            extra=dict(look.extra),
        )
        self._timeline.append(point)
        on_look(point)

    def _report(self) -> Report:
        scenario = self._scenario
        for host in self._hosts.values():
            self._own_steps += host.trainer.steps
            self._node_s += self.now - host.joined_at
        node_minutes = self._node_s / 60
        steady = [point.spread for point in self._timeline[_LOOKS // 2 :]]
        return Report(
            scenario=scenario,
            spread=fmean(steady),
            expected_spread=expected_spread(scenario, self._tally.completed, self._own_steps),
            own_steps=self._own_steps / scenario.nodes,
            meetings=self._tally.meetings(node_minutes),
            traffic=self._tally.traffic(node_minutes),
            directory=DirectoryFigures(
                gets_per_node_minute=self._directory.num_gets / node_minutes,
                puts_per_node_minute=self._directory.num_puts / node_minutes,
                largest_bucket=self._directory.largest_answer,
                depth=self._directory.depths(),
            ),
            joins=join_figures(self._changes, self._lives()),
            attack=(
                attack_figures(
                    self._tally,
                    self._timeline[-1],
                    avoidance(self._hosts, self.now),
                    num_hostile=sum(host.trainer.is_hostile for host in self._hosts.values()),
                )
                if scenario.hostile_ratio
                else None
            ),
            heals=dict(self._heals.most_common()),
            refused_frames=dict(Counter(reason.value for reason in self.refused).most_common()),
            timeline=tuple(self._timeline),
        )

    def _lives(self) -> list[Life]:
        here = [(h.ready_at, h.met_at, h.informed_at) for h in self._hosts.values() if not h.is_initial]
        return [*self._newcomers, *here]
