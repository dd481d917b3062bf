"""The loop between decisions and effects: events go into the core, its commands go out to trainer and link.

Everything here runs in the daemon's one event loop; nothing here decides and nothing here waits.
"""

from collections.abc import Callable
from dataclasses import replace

from lowcomm_node.core.commands import (
    CloseLink,
    Command,
    EncodeAnswer,
    EncodeOffer,
    FetchFrozen,
    GiveUp,
    HangBell,
    Heal,
    NoteRefusal,
    OpenLink,
    ReportMeeting,
    Role,
    SeekPath,
    Send,
    SplitTensors,
    TakeBell,
    UseFrozen,
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
    MessageProgressed,
    MessageReceived,
    OfferEncoded,
    RecordRenewed,
    StepsTaken,
)
from lowcomm_node.core.messages import Message, Offer, Refusal
from lowcomm_node.core.progress import is_cooldown
from lowcomm_node.daemon.recorder import Recorder
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.ports import Clock, Link
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.telemetry.flight.recorder import FlightRecorder
from lowcomm_node.train.messages import FromTrainer, Report, ToTrainer
from lowcomm_node.units import LinkKind, MeetingId, PeerId

__all__ = ["Runtime"]


class Runtime:
    """Feeds one NodeCore, by way of its flight recorder. ``recorder`` gets each event's consequences for logs and metrics.

    ``on_offence`` hears of an offer whose sender, proven by its channel, has put in a record that is refused.
    """

    def __init__(
        self,
        *,
        core: FlightRecorder,
        manifest: Manifest,
        verify: Callable[[bytes], Member],
        clock: Clock,
        recorder: Recorder,
        send_to_trainer: Callable[[ToTrainer], None],
        freeze: Callable[[SplitTensors | FetchFrozen | UseFrozen], None],
        on_cure: Callable[[Heal | GiveUp], None],
        on_offence: Callable[[PeerId, RemoteProtocolError], None],
    ) -> None:
        self._core = core
        self._manifest = manifest
        self._verify = verify
        self._clock = clock
        self._recorder = recorder
        self._send_to_trainer = send_to_trainer
        self._freeze = freeze
        self._on_cure = on_cure
        self._on_offence = on_offence
        self._link: Link | None = None
        self._reach_out: Callable[[HangBell | TakeBell | SeekPath], None] = lambda _command: None
        self._record = b""

    def connect(self, link: Link, reach_out: Callable[[HangBell | TakeBell | SeekPath], None]) -> None:
        """Meetings travel over this link from now on; ``reach_out`` sees to it that others can start some with us."""
        self._link = link
        self._reach_out = reach_out

    def handle(self, event: Event) -> None:
        """Let the core decide, then do what it says."""
        for command in self._core.handle(event, self._clock.monotonic()):
            self._execute(command)

    def carry_record(self, member: bytes) -> None:
        """This is our signed record from now on; said again, it is no news."""
        if member != self._record:
            self._record = member
            self.handle(RecordRenewed(member=member))

    def members_seen(self, members: tuple[Member, ...]) -> None:
        """Records from the directory or an offer: DHT time becomes the core's clock."""
        shift = self._clock.monotonic() - self._clock.wall()
        self.handle(MembersSeen(members=tuple(replace(m, expires_at=m.expires_at + shift) for m in members)))

    def trainer_said(self, message: FromTrainer) -> None:
        """A message of the trainer that concerns meetings or progress."""
        match message:
            case OfferEncoded() | AnswerEncoded() | CloseEncoded() | CorrectionApplied() | EncodingRefused():
                self.handle(message)
            case Report():
                self._recorder.training(message)
                if not message.is_finished:
                    self.handle(
                        StepsTaken(
                            steps=message.steps,
                            is_cooldown=is_cooldown(message.progress_steps, self._manifest),
                            nonfinite_steps=message.nonfinite_steps,
                            stage=message.ab.stage if message.ab is not None else None,
                            epoch=message.ab.epoch if message.ab is not None else 0,
                        )
                    )
            case _:
                pass  # life-cycle messages: the node's own business

    def message_received(self, message: Message, kind: LinkKind) -> None:
        """From the link: complete and verified in transport. An offer must carry its sender's own record."""
        if isinstance(message, Offer):
            try:
                member = self._verify(message.member)
                if member.peer != message.sender:
                    raise RemoteProtocolError(RefusalReason.MALFORMED, "the offer carries somebody else's record")
            except RemoteProtocolError as error:
                self._on_offence(message.sender, error)
                refusal = Refusal(meeting_id=message.meeting_id, reason=error.reason)
                self._execute(Send(meeting_id=message.meeting_id, message=refusal))
                self._execute(CloseLink(meeting_id=message.meeting_id))
                return
            self.members_seen((member,))
        self.handle(MessageReceived(message=message, link=kind))

    def message_progressed(self, meeting_id: MeetingId) -> None:
        """From the link: the partner lives, and takes or sends what it should."""
        self.handle(MessageProgressed(meeting_id=meeting_id))

    def link_failed(self, meeting_id: MeetingId, reason: str) -> None:
        """From the link: the meeting's connection is gone."""
        self.handle(LinkFailed(meeting_id=meeting_id, reason=reason))

    def _note(self, note: NoteRefusal) -> None:
        if note.is_offence:
            self._on_offence(note.peer, RemoteProtocolError(note.reason, note.detail))
        else:
            self._recorder.rejected(note.reason, f"{note.peer}: {note.detail}")

    def _execute(self, command: Command) -> None:
        link = self._link
        match command:
            case OpenLink() if link is not None:
                link.open(command.meeting_id, command.peer, command.message, command.link)
            case Send() if link is not None:
                link.send(command.meeting_id, command.message)
            case CloseLink() if link is not None:
                link.close(command.meeting_id)
            case HangBell() | TakeBell() | SeekPath():
                self._reach_out(command)
            case SplitTensors() | FetchFrozen() | UseFrozen():
                self._freeze(command)
            case ReportMeeting():
                self._recorder.meeting_ended(command, self._clock.monotonic())
            case NoteRefusal():
                self._note(command)
            case OpenLink() | Send() | CloseLink():
                pass  # the link is not up yet or already down: a retry or a deadline ends the meeting
            case EncodeOffer() | EncodeAnswer():
                role = Role.INITIATOR if isinstance(command, EncodeOffer) else Role.ANSWERER
                self._recorder.meeting_started(role)
                self._send_to_trainer(command)
            case Heal() | GiveUp():
                self._recorder.unwell(command)
                self._on_cure(command)
            case _:
                self._send_to_trainer(command)
