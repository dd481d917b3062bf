"""One record of each happening, many views: what runtime, network and trainer report becomes metric, log line and tally here.

The flight recorder holds the same records: events of the core as the core gets them, everything else as the line that is
written here.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lowcomm_node.core.allowance import LineState
from lowcomm_node.core.churn import Churn
from lowcomm_node.core.commands import GiveUp, Heal, ReportMeeting, Role
from lowcomm_node.core.node import NodeCore
from lowcomm_node.core.places import Fullness
from lowcomm_node.core.supervision import Cause
from lowcomm_node.daemon.children import Leftovers
from lowcomm_node.errors import DirectoryError, DirectoryTimeoutError, RefusalReason, RemoteProtocolError
from lowcomm_node.settings.streams import Period
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.telemetry.metrics import Metrics
from lowcomm_node.train.messages import Report
from lowcomm_node.units import Codec, Factor, LinkKind, PeerId, Reachability, Stream

__all__ = ["MeetingTally", "Recorder"]

_SAME_WARNING_S = 10.0
_MAX_PARTNERS = 4096
_CHURN_EVERY_S = 1.0
_WRONG_CLOCK_S = 1.0
"""Beyond 2.5 s a node is not let in again, and the DHT takes no record from it beyond 3 s."""


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

    @property
    def fullness(self) -> Fullness:
        """Of partners that are remembered."""
        return Fullness(len(self.partners), _MAX_PARTNERS)

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
        self._is_clock_wrong = False
        self._held: dict[str, Fullness] = {}
        self._churn = Churn()
        self._churned_at = -_CHURN_EVERY_S

    def fullness(self) -> Mapping[str, Fullness]:
        """Of the tally's partners, and of what the trainer keeps of meetings, as it has told."""
        return {"tally": self.tally.fullness, **self._held}

    def state_changed(self, state: str, detail: str) -> None:
        """The node has entered another state of its life."""
        self.metrics.state_changed(state)
        self._log.info("state_changed", state=state, detail=detail)

    def periods_chosen(self, periods: Iterable[Period]) -> None:
        """What this node exchanges how often, and why: much of it follows from the manifest without standing there."""
        for period in periods:
            self._log.info(
                "exchange_period", stream=period.stream, every_steps=period.every_steps, reason=period.reason
            )

    def training(self, report: Report) -> None:
        """Where training stands; logged only when something changes that a person would want to read all day."""
        self.metrics.trainer_reported(report)
        self._held = {word: Fullness(*held) for word, held in report.held.items()}
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
            "phases_s": {phase: round(seconds, 3) for phase, seconds in report.phases},
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

    def reached(self, reachability: Reachability, *, is_measured: bool) -> None:
        """How others get to this node has been found out, or, where nobody could tell, is taken to be so."""
        self.metrics.reached(reachability)
        self._log.info("reachability", reachability=reachability.value, is_measured=is_measured)

    def peers_counted(self, core: NodeCore, quarantined: int, neighbours: int, now: float) -> None:
        """Whom this node knows, in the run and in the DHT, and the bells there are."""
        reachable, suspect = core.partners.counts(now)
        self.metrics.peers_counted(reachable=reachable, suspect=suspect, quarantined=quarantined)
        self.metrics.neighbours_counted(neighbours)
        self.metrics.bells_counted(*core.num_bells())
        if now >= self._churned_at + _CHURN_EVERY_S:
            self._churned_at = now
            for change in self._churn.look(core.partners.views(), now):
                self.metrics.peer_changed(change.event)
                self._log.debug("peer_changed", peer=change.peer, what=change.event.value)

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

    def turned_away(self, error: RemoteProtocolError) -> None:
        """As ``rejected``, of somebody who has not proven who it is."""
        self.rejected(error.reason, error.detail)

    def quarantined(self, peer: PeerId, reason: RefusalReason, length_s: float) -> None:
        """A peer has sent too much that was wrong, at last this, and is left alone for a while."""
        self.metrics.quarantined()
        self._log.warning("peer_quarantined", peer=peer, reason=reason.value, seconds=round(length_s))

    def directory_asked(self, operation: str, duration_s: float, error: DirectoryError | None = None) -> None:
        """A ``get`` or a ``put`` has ended; ``error``: in vain, and it will be tried again."""
        failure = "timeout" if isinstance(error, DirectoryTimeoutError) else "error"
        self.metrics.dht_requested(operation, "ok" if error is None else failure, duration_s)
        if error is not None:
            self._log.warning("dht_request_failed", operation=operation, detail=str(error))

    def directory_died(self, exit_code: int, restarts: int) -> None:
        """The DHT's daemon has ended and is started again."""
        self.metrics.dht_restarted()
        self._log.warning("p2pd_died", exit_code=exit_code, restarts=restarts)

    def line_changed(self, state: LineState, month_used_bytes: int) -> None:
        """What the owner allows has opened or closed the line."""
        self._log.info("line_changed", state=state.value, month_used_bytes=month_used_bytes)

    def echo_heard(self, peer: PeerId, rtt_s: float, ahead_s: float) -> None:
        """A member has answered at once; our clock is ``ahead_s`` ahead of the others'."""
        self.metrics.echo_heard(rtt_s)
        self.metrics.clock_compared(ahead_s)
        is_wrong = abs(ahead_s) > _WRONG_CLOCK_S
        if is_wrong and not self._is_clock_wrong:
            self._log.warning("clock_wrong", ahead_s=round(ahead_s, 3))
        self._is_clock_wrong = is_wrong
        self._log.debug("echo", peer=peer, rtt_s=round(rtt_s, 6), ahead_s=round(ahead_s, 6))

    def donor_failed(self, donor: PeerId, detail: str) -> None:
        """A download from a donor came to nothing."""
        self.metrics.state_downloaded(has_succeeded=False)
        self._log.warning("donor_failed", donor=donor, detail=detail)

    def state_refused(self, donor: PeerId, reason: str, detail: str, *, was_downloaded: bool) -> None:
        """A donor's state is not taken: a StateFault, or ``unreadable``."""
        self.metrics.state_refused(reason)
        if was_downloaded:
            self.metrics.state_downloaded(has_succeeded=False)
        self._log.warning("state_refused", donor=donor, reason=reason, detail=detail)

    def state_downloaded(self, donor: PeerId, progress_steps: float, compared_with: int) -> None:
        """A donor's state is in place, after comparing it with those of so many others."""
        self.metrics.state_downloaded(has_succeeded=True)
        progress = round(progress_steps)
        self._log.info("state_downloaded", donor=donor, progress_steps=progress, compared_with=compared_with)

    def split(self, epoch: int, digest: str) -> None:
        """AB-training: this node has split its weights for all."""
        self._log.info("weights_split", epoch=epoch, digest=digest)

    def split_failed(self, epoch: int, detail: str) -> None:
        """AB-training: there are no frozen factors of this node's weights."""
        self._log.warning("split_failed", epoch=epoch, detail=detail)

    def frozen_fetched(self, epoch: int, digest: str) -> None:
        """AB-training: frozen factors that another member has made are here."""
        self._log.info("frozen_factors_fetched", epoch=epoch, digest=digest)

    def fetch_failed(self, epoch: int, digest: str, detail: str, *, is_busy: bool) -> None:
        """AB-training: none of those who announce these frozen factors has given them; ``is_busy``: it will be had later."""
        if is_busy:
            self._log.debug("frozen_factors_not_fetched", epoch=epoch, digest=digest, detail=detail)
        else:
            self._log.warning("frozen_factors_not_fetched", epoch=epoch, digest=digest, detail=detail)

    def frozen_refused(self, epoch: int, digest: str, detail: str) -> None:
        """AB-training: the trainer does not take these frozen factors."""
        self._log.warning("frozen_factors_refused", epoch=epoch, digest=digest, detail=detail)

    def frozen_taken(self, epoch: int, digest: str, factor: Factor) -> None:
        """AB-training: from the next step on one factor is trained."""
        self._log.info("frozen_factors_taken", epoch=epoch, digest=digest, factor=factor.value)

    def checkpoint_written(self, disk: Fullness) -> None:
        """One more is there; ``disk``: what all take together, and may take."""
        self.metrics.checkpoint_written(has_succeeded=True)
        self.metrics.checkpoints_take(disk)
        self._log.debug("checkpoint_written", all_bytes=disk.taken)

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
        num_processes = len(leftovers.pids)
        self.metrics.leftovers_removed(processes=num_processes, sockets=leftovers.sockets)
        if leftovers != Leftovers():
            self._log.warning(
                "leftovers_removed", processes=num_processes, pids=list(leftovers.pids), sockets=leftovers.sockets
            )
