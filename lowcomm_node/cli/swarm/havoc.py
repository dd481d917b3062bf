"""Chaos in a running swarm: strikes when the decision says so, ends what lasts, and follows each victim back to health."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from lowcomm_node.cli.swarm.cases import Case, Pulse
from lowcomm_node.cli.swarm.chaos import DEADLY, Blow, Chaos, Fault
from lowcomm_node.cli.swarm.fleet import Fleet, Stage
from lowcomm_node.cli.swarm.halves import Death, Half, examine_meetings, read_outcomes
from lowcomm_node.cli.swarm.inflict import Inflictor
from lowcomm_node.cli.swarm.nap import Nap
from lowcomm_node.cli.swarm.observe import Observer

__all__ = ["Hang", "Havoc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """A node that took no step for long though nothing disturbed it. Times are seconds on the swarm's clock."""

    node: str
    from_s: float
    state: str
    """What it said it was doing; empty when it did not answer."""


class Havoc:
    """Asked once a second, after a look at the nodes. ``say`` tells the user, ``mark`` goes into the plot.

    ``verdict_keep_s`` is the nodes' setting: who sleeps longer comes back to partners that have stopped waiting.
    """

    def __init__(
        self,
        chaos: Chaos | Nap,
        *,
        fleet: Fleet,
        observer: Observer,
        inflictor: Inflictor,
        say: Callable[[str], None],
        mark: Callable[[str, str], None],
        verdict_keep_s: float,
    ) -> None:
        self.cases: list[Case] = []
        self.hangs: list[Hang] = []
        self._chaos = chaos
        self._fleet = fleet
        self._observer = observer
        self._inflictor = inflictor
        self._say = say
        self._mark = mark
        self._verdict_keep_s = verdict_keep_s
        self._pulses: dict[str, Pulse] = {}
        self._deaths: list[Death] = []

    def advance(self, share_done: float, patience_s: float) -> None:
        """Take in what was seen, end what is over, strike if a blow is due.

        An undisturbed node that takes no step for ``patience_s`` seconds hangs; it must be enough to start in.
        """
        now_s = self._observer.elapsed_s
        statuses = self._observer.learned()
        for name, status in statuses.items():
            self._pulses.setdefault(name, Pulse()).feel(status, now_s)
        for case in self.cases:
            if case.is_under_way and self._is_over(case, now_s):
                self._inflictor.end(case.blow)
                case.end(now_s)
                self._note_absence(case.blow)
            elif case.is_open and case.subject in statuses:
                case.observe(statuses[case.subject], now_s, self._log_since(case))
        self._notice_hangs(now_s, patience_s)
        healthy = self._healthy()
        blow = self._chaos.due(
            elapsed_s=now_s, share_done=share_done, victims=self._inflictor.victims(healthy), healthy=healthy
        )
        if blow is not None:
            self._strike(blow, [name for name in healthy if name != blow.node])

    def coming(self) -> list[str]:
        """Nodes that have still to come back."""
        return [case.subject for case in self.cases if case.is_open]

    def finish(self) -> None:
        """End all that lasts, so that the nodes can leave in order."""
        for case in self.cases:
            if case.is_under_way:
                self._inflictor.end(case.blow)

    def halves(self, memory_s: float) -> list[Half]:
        """Meetings that were not applied by both ends or neither, when all nodes have ended; see ``halves``."""
        places = self._fleet.places(*Stage)
        outcomes = [
            outcome
            for name, place in places.items()
            for outcome in read_outcomes(name, place.log_file.read_text(errors="replace").splitlines())
        ]
        lives = [life for life in self._observer.ledger.lives if life.last is not None]
        names = {life.last.peer_id: life.node for life in lives if life.last is not None}
        return examine_meetings(outcomes, self._deaths, names, memory_s)

    def _strike(self, blow: Blow, others: list[str]) -> None:
        now_s, place = self._observer.elapsed_s, self._fleet.places(Stage.RUNNING)[blow.node]
        self._observer.look({blow.node: place})  # what it has done until now
        before = self._pulses[blow.node]
        if blow.node in self._observer.statuses:
            before.feel(self._observer.statuses[blow.node], now_s)
        is_final = blow.fault is Fault.END_FIRST
        case = Case(
            blow=blow,
            subject=others[0] if is_final else blow.node,
            began_s=now_s,
            before=replace(before),
            log_from=place.log_file.stat().st_size,
        )
        self.cases.append(case)
        if blow.fault in DEADLY:
            self._deaths.append(Death(node=blow.node, time_s=time.time()))
        self._note_absence(blow)
        self._inflictor.begin(blow)
        if is_final:
            case.end(now_s)
        self._mark(blow.fault, blow.node)
        whom = f"{blow.node} and {blow.other}" if blow.other else blow.node
        lasts = f" for {blow.seconds:.0f} s" if blow.seconds else ""
        self._say(f"{now_s:.0f} s: {blow.fault} {whom}{lasts}")

    def _note_absence(self, blow: Blow) -> None:
        """At both ends of a sleep longer than verdicts are kept: partners count at once, the sleeper when it wakes."""
        if blow.fault is Fault.SLEEP and blow.seconds > self._verdict_keep_s:
            self._deaths.append(Death(node=blow.node, time_s=time.time(), kind="sleep"))

    def _is_over(self, case: Case, now_s: float) -> bool:
        return now_s >= case.is_over_at_s and self._inflictor.has_returned(case.blow)

    def _healthy(self) -> list[str]:
        """Nodes that train and that no fault has anything to do with now."""
        hit = {case.subject for case in self.cases if case.is_open}
        hit |= {case.blow.other for case in self.cases if case.is_under_way}
        statuses = self._observer.learned()
        return [name for name, status in statuses.items() if status.state == "training" and name not in hit]

    def _notice_hangs(self, now_s: float, patience_s: float) -> None:
        hit = {case.blow.node for case in self.cases if case.is_under_way}
        known = {(hang.node, hang.from_s) for hang in self.hangs}
        for name in self._fleet.places(Stage.RUNNING):
            status = self._observer.statuses.get(name)
            state = status.state if status is not None else ""
            calm_s = max(
                self._pulses[name].stepped_s if name in self._pulses else 0.0,
                self._observer.ledger.current(name).started_s,
                *(case.ended_s or 0.0 for case in self.cases if case.blow.node == name),
            )
            if name not in hit and state != "finished" and now_s - calm_s > patience_s and (name, calm_s) not in known:
                self.hangs.append(Hang(node=name, from_s=calm_s, state=state))
                self._say(f"error: {name} has not taken a step for {now_s - calm_s:.0f} s ({state or 'no answer'})")

    def _log_since(self, case: Case) -> str:
        """What the node has logged since it was hit; only asked where it matters."""
        if case.blow.fault not in DEADLY or case.lost_steps is not None:
            return ""
        with self._fleet.places(*Stage)[case.blow.node].log_file.open("rb") as log:
            log.seek(case.log_from)
            return log.read().decode(errors="replace")
