"""Runs a swarm from the first process to the last: starts, watches, kills, brings in late nodes, stops."""

import contextlib
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from lowcomm_node.cli.swarm.attendance import Absence, Attendance
from lowcomm_node.cli.swarm.chaos import Chaos
from lowcomm_node.cli.swarm.fleet import Fleet, Incident, IncidentKind, Stage
from lowcomm_node.cli.swarm.havoc import Havoc
from lowcomm_node.cli.swarm.inflict import Inflictor
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.cli.swarm.launch import CHAOS_RECORD_TTL_S, NodePlace, verdict_keep_s
from lowcomm_node.cli.swarm.nap import Nap
from lowcomm_node.cli.swarm.observe import Observer
from lowcomm_node.cli.swarm.options import SwarmOptions
from lowcomm_node.cli.swarm.picture import paint
from lowcomm_node.cli.swarm.recordings import take_recordings
from lowcomm_node.cli.swarm.timeline import Timeline
from lowcomm_node.cli.swarm.view import View
from lowcomm_node.errors import LowcommError

__all__ = ["Conductor", "Ending", "SwarmError"]

_LOOK_EVERY_S = 1.0
_START_PATIENCE_S = 180.0
_STALL_S = 120.0
"""Nobody took a step for so long: the swarm hangs."""
_REST_S = 30.0
"""Somebody has finished and nobody took a step for so long: the others will not."""
_ARRIVAL_PATIENCE_S = 90.0
"""After its time a swarm waits so long for nodes that are still on their way: who was started should count in the report."""
_ARRIVAL_OVER_START = 3.0
"""Or so many times as long as the first node took to start, where that is more: on a busy computer everything takes longer."""
_STOP_PATIENCE_S = 40.0
_HURRY_PATIENCE_S = 15.0
_NO_PATIENCE_S = 1.0
_PRESENT = (Stage.RUNNING, Stage.KILLED, Stage.RETURNING)


class SwarmError(LowcommError):
    """The swarm could not be started."""

    code = "swarm"


@dataclass(slots=True)
class Ending:
    """How a run went, besides what its ledger and history say."""

    reason: str = ""
    """time, finished, progress, interrupted, stalled, nobody left."""
    seconds: float = 0.0
    """Training time: from the first node's first step to the order to stop."""
    live: list[str] = field(default_factory=list)
    """Nodes that left in order and wrote their state."""
    joined_late: int = 0
    progress_steps: float = 0.0
    """Mean swarm progress of the nodes when they were told to stop."""
    incidents: list[Incident] = field(default_factory=list)


class Conductor:
    """One run of one swarm. Everything is looked at and decided once a second, in one thread."""

    def __init__(
        self,
        options: SwarmOptions,
        *,
        places: Sequence[NodePlace],
        fleet: Fleet,
        observer: Observer,
        view: View,
        interrupts: Interrupts,
        first_address: str,
        seed: int,
        until_progress_steps: float = math.inf,
        attendance: Attendance | None = None,
    ) -> None:
        """``places``: the first node, which will listen at ``first_address``, the others of the start, the late ones.

        ``until_progress_steps``: swarm progress that ends the run. ``attendance``: who leaves meanwhile, and comes back, in order.
        """
        self._attendance = attendance or Attendance(())
        self._first_address = first_address
        self._options = options
        self._places = places
        self._fleet = fleet
        self._observer = observer
        self._view = view
        self._interrupts = interrupts
        self._timeline = Timeline(kill_every_s=options.kill_every_s, join_late=options.join_late, seed=seed)
        self._seed = seed
        self._until_progress_steps = until_progress_steps
        self.havoc: Havoc | None = None
        self._begun_s = time.monotonic()
        self._arrival_patience_s = _ARRIVAL_PATIENCE_S
        self._has_told_wait = False
        self.ending = Ending()

    def run(self) -> None:
        """Run to the end, whatever it is; no process is left afterwards. Raises SwarmError when nothing starts."""
        if self._interrupts:
            self.ending.reason = "interrupted"
            return
        with contextlib.ExitStack() as stack:
            if self._options.chaos_every_s or self._options.sleep_s:
                self.havoc = self._make_havoc(stack)
            self._run()

    def _run(self) -> None:
        try:
            # All at once: while the others come up, the first would use up the schedule alone. They wait for it.
            for index, place in enumerate(self._places[: self._options.nodes]):
                self._start(place, [self._first_address] if index else ())
            while not self.ending.reason:
                look_s = time.monotonic()
                self._observer.look(self._fleet.places(Stage.RUNNING))
                self.ending.reason = self._advance()
                limit_s = self._options.limit_s
                self._view.show(paint(self._observer, self._fleet, nodes=self._options.nodes, limit_s=limit_s))
                self._interrupts.wait(max(0.0, look_s + _LOOK_EVERY_S - time.monotonic()))
        finally:
            self._stop()

    def _advance(self) -> str:
        """Decide and do what is due; returns why the run is over, or nothing."""
        if self._interrupts:
            return "interrupted"
        for incident in self._fleet.tend(self._observer.addresses()):
            self._note(incident)
        if not self._observer.is_training:
            self._wait_for_first()
            return ""
        self._observer.remember()
        if ending := self._ending_now():
            return ending
        due = self._timeline.due(
            elapsed_s=self._observer.elapsed_s,
            share_done=self._observer.share_done(self._options.limit_s),
            candidates=self._kill_candidates(),
        )
        if due.victim is not None:
            self._kill(due.victim)
        for _ in range(due.joiners):
            self._join_late()
        for absence in self._attendance.due(elapsed_s=self._observer.elapsed_s, training=self._training()):
            self._send_away(absence)
        if self.havoc is not None:
            self.havoc.advance(self._observer.share_done(self._options.limit_s), self._arrival_patience_s)
        return ""

    def _make_havoc(self, stack: contextlib.ExitStack) -> Havoc:
        inflictor = Inflictor(
            self._fleet, kill=self._kill, first=self._places[0].name, first_address=self._first_address
        )
        every_s, sleep_s = self._options.chaos_every_s, self._options.sleep_s
        chaos = Chaos(every_s=every_s, record_ttl_s=CHAOS_RECORD_TTL_S, seed=self._seed)
        stack.enter_context(inflictor)
        return Havoc(
            Nap(sleep_s) if sleep_s else chaos,
            fleet=self._fleet,
            observer=self._observer,
            inflictor=inflictor,
            say=self._view.say,
            mark=self._mark,
            verdict_keep_s=verdict_keep_s(is_chaotic=not sleep_s),
        )

    def _wait_for_first(self) -> None:
        first = self._places[0].name
        waited_s = time.monotonic() - self._begun_s
        if first in self._observer.learned():
            self._observer.begin_training()
            self._arrival_patience_s = max(_ARRIVAL_PATIENCE_S, _ARRIVAL_OVER_START * waited_s)
            self._view.say(f"{first} trains after {waited_s:.0f} s; others join at {self._first_address}")
            return
        has_ended = first not in self._fleet.places(Stage.RUNNING)
        if has_ended or waited_s > _START_PATIENCE_S:
            how = "ended" if has_ended else f"does not train after {waited_s:.0f} s"
            log = "\n  ".join(self._fleet.log_tail(first))
            raise SwarmError(f"the first node {how}; the end of its log:\n  {log}")

    def _ending_now(self) -> str:
        present = self._fleet.places(*_PRESENT)
        if not present:
            return "nobody left"
        if self._observer.progress()[0] >= self._until_progress_steps:
            return "progress"
        limit_s = self._options.limit_s
        if limit_s is not None and self._observer.elapsed_s >= limit_s:
            coming = self._coming() if self._observer.elapsed_s < limit_s + self._arrival_patience_s else []
            if not coming:
                return "time"
            if not self._has_told_wait:
                self._has_told_wait = True
                self._view.say(f"time is up; waiting for {', '.join(coming)} to come up")
        if self._has_finished(present):
            return "finished"
        return "stalled" if self._observer.idle_s > _STALL_S else ""

    def _has_finished(self, present: Collection[str]) -> bool:
        """All have finished, or some, and the others will not: nobody takes steps, and nobody is on the way or only late."""
        finished = [name for name, status in self._observer.learned().items() if status.state == "finished"]
        if not finished:
            return False
        coming = self._coming()  # who has come back and finished at once is among them until that was seen
        if len(finished) == len(present) and not coming:
            return True
        return self._observer.idle_s > (self._arrival_patience_s if coming else _REST_S)

    def _coming(self) -> list[str]:
        """Nodes that were started, or will be started again in a moment, or have been struck, and are not back."""
        learned = self._observer.learned()
        struck = self.havoc.coming() if self.havoc is not None else []
        return [name for name in self._fleet.places(*_PRESENT) if name not in learned or name in struck]

    def _kill_candidates(self) -> list[str]:
        """All that train, but never the first node: its address is the one that was given away."""
        return [name for name in self._training() if name != self._places[0].name]

    def _training(self) -> list[str]:
        return [name for name, status in self._observer.learned().items() if status.state == "training"]

    def _start(self, place: NodePlace, peers: Sequence[str]) -> None:
        self._fleet.start(place, peers)
        self._observer.ledger.begin(place.name, self._observer.elapsed_s)

    def _kill(self, victim: str, return_after_s: float | None = 0.0, peers: Sequence[str] = ()) -> None:
        self._fleet.kill(victim, return_after_s=return_after_s, peers=peers)
        self._observer.ledger.end(victim, "killed")
        self._observer.forget(victim)
        self._mark("killed", victim)
        self._view.say(f"{victim} killed after {self._observer.elapsed_s:.0f} s")

    def _send_away(self, absence: Absence) -> None:
        self._fleet.send_away(absence.node, return_after_s=absence.return_after_s)
        self._observer.ledger.end(absence.node, "left")
        self._observer.forget(absence.node)
        self._mark("left", absence.node)
        back = (
            "for good"
            if absence.return_after_s is None
            else f"and is started again {absence.return_after_s:.0f} s later"
        )
        self._view.say(f"{absence.node} leaves after {self._observer.elapsed_s:.0f} s {back}")

    def _join_late(self) -> None:
        started = len(self._observer.ledger.nodes)
        addresses = self._observer.addresses()
        if started < len(self._places) and addresses:
            place = self._places[started]
            self._start(place, addresses)
            self._mark("joined late", place.name)
            self._view.say(f"{place.name} joins late, after {self._observer.elapsed_s:.0f} s")

    def _note(self, incident: Incident) -> None:
        node, ledger = incident.node, self._observer.ledger
        match incident.kind:
            case IncidentKind.RETURNED:
                ledger.begin(node, self._observer.elapsed_s)
                self._mark("returned", node)
                self._view.say(f"{node} comes back")
                return
            case IncidentKind.DIED:
                ledger.end(node, "died")
                self._mark("died", node)
                if (
                    self._observer.is_training or node != self._places[0].name
                ):  # else the error that ends the swarm shows the log
                    lines = "".join(f"\n  {line}" for line in incident.log)
                    self._view.say(f"{node} ended with exit code {incident.exit_code}; its last lines:{lines}")
            case IncidentKind.FORCED:
                ledger.end(node, "died")
                self._view.say(f"error: {node} did not leave when asked and was killed")
            case IncidentKind.LEFTOVER:
                self._view.say(f"error: {node} left {incident.detail} behind; removed")
        self.ending.incidents.append(incident)

    def _stop(self) -> None:
        if self.havoc is not None:
            self.havoc.finish()
        ledger = self._observer.ledger
        self.ending.seconds = self._observer.elapsed_s
        self.ending.progress_steps, _ = self._observer.progress()
        late = {place.name for place in self._places[self._options.nodes :]}
        self.ending.joined_late = len({life.node for life in ledger.lives if life.has_trained} & late)
        running = self._fleet.places(Stage.RUNNING)
        if self._options.recordings is not None and not self._interrupts:
            take_recordings(running, self._options.recordings, self._view.say)
        if running:
            self._view.say(f"stopping {len(running)} nodes")
        for incident in self._fleet.stop(self._patience_s, self._observer.look):
            self._note(incident)
        for name, place in running.items():
            ledger.end(name, "left")
            life = ledger.current(name)
            # Who was still on its way in has at most the state of an earlier life.
            if life.ending == "left" and life.has_state and place.final_state.is_file():
                self.ending.live.append(name)

    def _patience_s(self) -> float:
        if self._interrupts.count > 1:
            return _NO_PATIENCE_S
        return _HURRY_PATIENCE_S if self._interrupts else _STOP_PATIENCE_S

    def _mark(self, kind: str, node: str) -> None:
        self._observer.history.mark(self._observer.elapsed_s, kind, node)
