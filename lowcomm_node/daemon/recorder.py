"""One happening, many views: what the runtime and the node's life report becomes metric, log line and tally here."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lowcomm_node.core.commands import GiveUp, Heal, ReportMeeting, Role
from lowcomm_node.core.node import NodeCore
from lowcomm_node.core.supervision import Cause
from lowcomm_node.daemon.children import Leftovers
from lowcomm_node.errors import RefusalReason
from lowcomm_node.settings.streams import Period
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import Report
from lowcomm_node.units import Codec, LinkKind, PeerId, Stream

__all__ = ["MeetingTally", "Recorder"]

_SAME_WARNING_S = 10.0
_MAX_PARTNERS = 4096


@dataclass(slots=True)
class MeetingTally:
    """What this life of the node has seen of meetings, for ``status``."""

    completed: Counter[Role] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    half: int = 0
    last_partner: PeerId = PeerId("")
    last_at: float | None = None
    """On the monotonic clock."""
    duration_sum_s: float = 0.0
    links: Counter[LinkKind] = field(default_factory=Counter)
    """Completed meetings by what they travelled over."""
    bytes: Counter[tuple[str, Stream, Codec]] = field(default_factory=Counter)
    """Payload by direction (sent, received), stream and codec."""
    partners: Counter[PeerId] = field(default_factory=Counter)
    """Completed meetings with each, whoever had started them; the core forgets a partner whose record runs out. Bounded."""

    def met(self, peer: PeerId) -> None:
        self.partners[peer] += 1
        if len(self.partners) > _MAX_PARTNERS:
            del self.partners[next(iter(self.partners))]


class Recorder:
    """Feeds metrics, logs and the tally, so that they cannot contradict each other."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.tally = MeetingTally()
        self.restarts = 0
        self._log = get_logger("node")
        self._was_finished = False
        self._rejected_at: dict[RefusalReason, float] = {}
        """When each reason was last written to the log."""
        self._unsaid: Counter[RefusalReason] = Counter()

    def state_changed(self, state: str, detail: str) -> None:
        """The node has entered another state of its life."""
        self.metrics.state_changed(state)
        self._log.info("state_changed", state=state, detail=detail)

    def periods_chosen(self, periods: Iterable[Period], say: Callable[[str], None]) -> None:
        """What this node exchanges how often, and why: much of it follows from the manifest without standing there."""
        for period in periods:
            often = f"every {period.every_steps} own steps" if period.every_steps else "never"
            say(f"exchanging {period.stream} {often}: {period.reason}")
            self._log.info(
                "exchange_period", stream=period.stream, every_steps=period.every_steps, reason=period.reason
            )

    def training(self, report: Report) -> None:
        """Where training stands; logged only when something changes that a person would want to read all day."""
        self.metrics.trainer_reported(report)
        if report.is_finished and not self._was_finished:
            self._log.info("run_finished", steps=report.steps, progress_steps=round(report.progress_steps))
        self._was_finished = report.is_finished

    def progress(self, report: Report) -> None:
        """How it goes, for a person who watches the log."""
        self._log.info(
            "training",
            steps=report.steps,
            progress_steps=round(report.progress_steps),
            loss=round(report.loss, 4),
            validation_loss=round(report.validation_loss, 4),
            tokens_per_second=round(report.tokens_per_second),
            meetings=self.tally.completed.total(),
            sent_bytes=sum(count for (direction, *_), count in self.tally.bytes.items() if direction == "sent"),
        )

    def meeting_started(self, role: Role) -> None:
        self.metrics.meeting_started(role)

    def meeting_ended(self, report: ReportMeeting, now: float) -> None:
        """A meeting is over for this node."""
        self.metrics.meeting_reported(report)
        fields: dict[str, object] = {
            "meeting": report.meeting_id,
            "partner": report.peer,
            "role": report.role.value,
            "link": report.link.value,
            "streams": [stream.value for stream in report.streams],
            "duration_s": round(report.duration_s, 3),
        }
        clipped = {stream.value: float(f"{scale:.3g}") for stream, scale in report.scales if scale < 1}
        if clipped:
            fields["scales"] = clipped
        if report.outcome == "completed":
            self.tally.completed[report.role] += 1
            self.tally.links[report.link] += 1
            self.tally.met(report.peer)
            self.tally.duration_sum_s += report.duration_s
            self.tally.last_partner, self.tally.last_at = report.peer, now
            self._log.debug("meeting_completed", **fields)
        elif report.outcome == "half":
            self.tally.half += 1
            self._log.warning("meeting_half", reason=report.reason, **fields)
        else:
            self.tally.failed[report.reason] += 1
            self._log.debug("meeting_failed", reason=report.reason, **fields)

    def reached(self, core: NodeCore, quarantined: int, now: float) -> None:
        """Whom this node knows, and how others get to it."""
        reachable, suspect = core.partners.counts(now)
        self.metrics.peers_counted(reachable=reachable, suspect=suspect, quarantined=quarantined)
        self.metrics.reached(core.reach.own, *core.num_bells())

    def unwell(self, cure: Heal | GiveUp) -> None:
        """The core has found that this node's state is not worth meeting with."""
        if isinstance(cure, Heal):
            self.metrics.healing_began(cure.reason)
            self._log.warning("healing", reason=cure.reason.value)
        else:
            self._log.error("healing_given_up", reason=cure.reason.value, heals=cure.num_heals)

    def wire_bytes(self, direction: str, stream: Stream, codec: Codec, num_bytes: int) -> None:
        """Payload of one stream has gone out (``sent``) or come in (``received``)."""
        self.tally.bytes[direction, stream, codec] += num_bytes
        if direction == "sent":
            self.metrics.payload_sent(stream, codec, num_bytes)
        else:
            self.metrics.payload_received(stream, codec, num_bytes)

    def rejected(self, reason: RefusalReason, detail: str) -> None:
        """Something a peer sent was refused. A flood is counted; in the log it is a line every ten seconds for each reason."""
        self.metrics.message_rejected(reason.value)
        now = time.monotonic()
        if now - self._rejected_at.get(reason, -_SAME_WARNING_S) < _SAME_WARNING_S:
            self._unsaid[reason] += 1
            self._log.debug("message_rejected", reason=reason.value, detail=detail)
            return
        self._rejected_at[reason] = now
        unsaid = {"more_before": count} if (count := self._unsaid.pop(reason, 0)) else {}
        self._log.warning("message_rejected", reason=reason.value, detail=detail, **unsaid)

    def quarantined(self, peer: PeerId, reason: RefusalReason, length_s: float) -> None:
        """A peer has sent too much that was wrong, at last this, and is left alone for a while."""
        self.metrics.quarantined()
        self._log.warning("peer_quarantined", peer=peer, reason=reason.value, seconds=round(length_s))

    def checkpoint_failed(self, detail: str) -> None:
        """One could not be written. Training goes on, and those that are there stay."""
        self.metrics.checkpoint_written(has_succeeded=False)
        self._log.warning("checkpoint_failed", detail=detail)

    def checkpoints_need_care(self, event: str, path: Path, detail: str) -> None:
        """Something is wrong with a checkpoint that is there."""
        self._log.warning(event, path=str(path), detail=detail)

    def trainer_lost(self, cause: Cause, status: int, detail: str) -> None:
        """The trainer process has ended and is to be started again."""
        self.restarts += 1
        self.metrics.trainer_restarted(cause)
        self._log.error("trainer_lost", reason=cause.value, exit_status=status, detail=detail)

    def memory_short(self, micro_batches: int, batch_size: int) -> None:
        """A batch does not fit the memory in one piece, or not in as few as before."""
        self.metrics.micro_batches_set(micro_batches)
        self._log.warning(
            "memory_short",
            micro_batches=micro_batches,
            examples=-(-batch_size // micro_batches),
            detail=f"the memory does not hold what training needs, so a batch of {batch_size} is now taken in {micro_batches} "
            "parts: the same result, somewhat slower; closing what else uses the memory and removing micro_batches.json, or "
            "setting device.micro_batches, changes that",
        )

    def leftovers_removed(self, leftovers: Leftovers) -> None:
        """What an earlier life of this node had left is gone."""
        self.metrics.leftovers_removed(processes=leftovers.processes, sockets=leftovers.sockets)
