"""The loop between decisions and effects: events go into the core, its commands go out to trainer and link.

Everything here runs in the daemon's one event loop; nothing here decides and nothing here waits.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lowcomm_node.core.commands import (
    CloseLink,
    Command,
    OpenLink,
    ReportMeeting,
    Role,
    Send,
)
from lowcomm_node.core.events import (
    AnswerEncoded,
    CloseEncoded,
    CorrectionApplied,
    EncodingRefused,
    Event,
    LinkFailed,
    Member,
    MembersSeen,
    MessageReceived,
    OfferEncoded,
    StepsTaken,
)
from lowcomm_node.core.messages import Message, Offer, Refusal
from lowcomm_node.core.node import NodeCore
from lowcomm_node.core.progress import is_cooldown
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.ports import Clock, Directory, Link
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.messages import FromTrainer, Report, ToTrainer
from lowcomm_node.units import MeetingId, PeerId

__all__ = ["MeetingTally", "Runtime"]


@dataclass(slots=True)
class MeetingTally:
    """What this life of the node has seen of meetings, for status and people."""

    completed: Counter[Role] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    half: int = 0
    last_partner: PeerId = PeerId("")
    last_at: float | None = None
    duration_sum_s: float = 0.0


class Runtime:
    """Feeds one NodeCore. ``recorder`` gets each event's consequences for logs and metrics."""

    def __init__(
        self,
        *,
        core: NodeCore,
        manifest: Manifest,
        directory: Directory,
        clock: Clock,
        recorder: Recorder,
        send_to_trainer: Callable[[ToTrainer], None],
    ) -> None:
        self._core = core
        self._manifest = manifest
        self._directory = directory
        self._clock = clock
        self._recorder = recorder
        self._send_to_trainer = send_to_trainer
        self._link: Link | None = None
        self.tally = MeetingTally()
        self.report: Report | None = None

    def connect(self, link: Link) -> None:
        """Meetings travel over this link from now on."""
        self._link = link

    def handle(self, event: Event) -> None:
        """Let the core decide, then do what it says."""
        for command in self._core.handle(event, self._clock.monotonic()):
            self._execute(command)

    def members_seen(self, members: tuple[Member, ...]) -> None:
        """Records from the directory or an offer: DHT time becomes the core's clock."""
        shift = self._clock.monotonic() - self._clock.wall()
        self.handle(MembersSeen(members=tuple(replace(m, expires_at=m.expires_at + shift) for m in members)))

    def trainer_said(self, message: FromTrainer) -> None:
        """A message of the trainer that concerns meetings or progress."""
        match message:
            case OfferEncoded() | AnswerEncoded() | CloseEncoded() | CorrectionApplied():
                self.handle(message)
            case EncodingRefused():
                self._recorder.rejected(message.reason, message.detail)
                self.handle(message)
            case Report():
                self.report = message
                self._recorder.training(message)
                if not message.is_finished:
                    in_cooldown = is_cooldown(message.progress_steps, self._manifest.training)
                    self.handle(StepsTaken(steps=message.steps, is_cooldown=in_cooldown))
            case _:
                pass  # life-cycle messages: the node's own business

    def message_received(self, message: Message) -> None:
        """From the link: complete and verified in transport. An offer must carry its sender's own record."""
        if isinstance(message, Offer):
            try:
                member = self._directory.verify(message.member)
                if member.peer != message.sender:
                    raise RemoteProtocolError(RefusalReason.MALFORMED, "the offer carries somebody else's record")
            except RemoteProtocolError as error:
                self._recorder.rejected(error.reason, error.detail)
                refusal = Refusal(meeting_id=message.meeting_id, reason=error.reason)
                self._execute(Send(meeting_id=message.meeting_id, message=refusal))
                self._execute(CloseLink(meeting_id=message.meeting_id))
                return
            self.members_seen((member,))
        self.handle(MessageReceived(message=message))

    def link_failed(self, meeting_id: MeetingId, reason: str) -> None:
        """From the link: the meeting's connection is gone."""
        self.handle(LinkFailed(meeting_id=meeting_id, reason=reason))

    def _execute(self, command: Command) -> None:
        link = self._link
        match command:
            case OpenLink() if link is not None:
                link.open(command.meeting_id, command.grpc_address, command.message)
            case Send() if link is not None:
                link.send(command.meeting_id, command.message)
            case CloseLink() if link is not None:
                link.close(command.meeting_id)
            case ReportMeeting():
                self._meeting_ended(command)
            case OpenLink() | Send() | CloseLink():
                pass  # the link is not up yet or already down: a retry or a deadline ends the meeting
            case _:
                self._send_to_trainer(command)

    def _meeting_ended(self, report: ReportMeeting) -> None:
        match report.outcome:
            case "completed":
                self.tally.completed[report.role] += 1
                self.tally.duration_sum_s += report.duration_s
                self.tally.last_partner = report.peer
                self.tally.last_at = self._clock.monotonic()
            case "half":
                self.tally.half += 1
            case _:
                self.tally.failed[report.reason] += 1
        self._recorder.meeting(report)
