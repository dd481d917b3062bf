"""All a node can do, in the imperative. The shell (daemon or simulator) carries them out."""

from dataclasses import dataclass
from enum import StrEnum

from lowcomm_node.core.messages import Answer, Close, Message, Offer
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Factor, LinkKind, MeetingId, PeerId, Stream

__all__ = [
    "ApplyClose",
    "CloseLink",
    "Command",
    "DropMeeting",
    "EncodeAnswer",
    "EncodeClose",
    "EncodeOffer",
    "FetchFrozen",
    "GiveUp",
    "HangBell",
    "Heal",
    "HealReason",
    "NoteRefusal",
    "OpenLink",
    "ReportMeeting",
    "Role",
    "SeekPath",
    "Send",
    "SettleMeeting",
    "SplitTensors",
    "TakeBell",
    "UseFrozen",
]


class Role(StrEnum):
    """Which end of a meeting this node is."""

    INITIATOR = "initiator"
    ANSWERER = "answerer"


class HealReason(StrEnum):
    """Why a node's own state is not worth meeting with."""

    NONFINITE = "nonfinite"
    """Loss or gradient was not finite in several steps in a row."""
    CLIPPED = "clipped"
    """Corrections with one partner after the other were far over the clip norm."""
    FAR = "far"
    """Corrections with one partner after the other were many times as long as this node's used to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOffer:
    """Trainer: encode an offer for these streams; answers OfferEncoded or EncodingRefused."""

    meeting_id: MeetingId
    streams: tuple[Stream, ...]
    is_dense: bool = False
    """Ignore the byte budget and send whole tensors (the last phase of a run)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeAnswer:
    """Trainer: encode the answer; answers AnswerEncoded or EncodingRefused."""

    offer: Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeClose:
    """Trainer, on the initiator: compute and hold the correction; answers CloseEncoded or EncodingRefused."""

    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyClose:
    """Trainer, on the answerer: compute and apply the correction; answers CorrectionApplied or EncodingRefused."""

    close: Close


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleMeeting:
    """Trainer, on the initiator: apply the held correction; answers CorrectionApplied."""

    meeting_id: MeetingId


@dataclass(frozen=True, slots=True, kw_only=True)
class DropMeeting:
    """Trainer: forget a meeting without applying anything. No answer."""

    meeting_id: MeetingId


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLink:
    """Link: connect to a partner for this meeting, or have it dial us, and send its first message."""

    meeting_id: MeetingId
    peer: PeerId
    message: Message
    link: LinkKind = LinkKind.GRPC


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Link: send over the meeting's newest connection; silently nothing when there is none (a retry will ask again)."""

    meeting_id: MeetingId
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseLink:
    """Link: the meeting needs its connection no more."""

    meeting_id: MeetingId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMeeting:
    """Telemetry: a meeting is over for this node."""

    meeting_id: MeetingId
    peer: PeerId
    role: Role
    streams: tuple[Stream, ...]
    outcome: str
    """completed, failed, or half: one end applied the correction and the other cannot be known to have done so."""
    reason: str
    """Empty when completed; else busy, unreachable, disconnect, timeout, trainer or a refusal reason."""
    duration_s: float
    norms: tuple[tuple[Stream, float], ...] = ()
    """As in CorrectionApplied; empty where nothing was applied."""
    scales: tuple[tuple[Stream, float], ...] = ()
    """As in CorrectionApplied."""
    link: LinkKind = LinkKind.GRPC
    """What its newest connection went over."""
    phases: tuple[tuple[str, float], ...] = ()
    """Seconds spent in each of its phases at this end, by the words that ``status`` has for them; together the duration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteRefusal:
    """Shell: count that something of this peer was refused, and hold it against the peer where that is deserved."""

    peer: PeerId
    reason: RefusalReason
    detail: str
    is_offence: bool = False
    """No node that runs as it should says such a thing, whatever its luck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HangBell:
    """Link: keep a stream open to this member, who may ring it; answers BellHung or BellLost."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBell:
    """Link: the bell at this member is not needed any more."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class SeekPath:
    """Link: see whether there is a direct libp2p connection to this member, or can be; answers PathSought."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTensors:
    """Trainer: write the frozen factors of the live weights to a file, which is then kept for all; answers FrozenHeld or SplitFailed."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFrozen:
    """Shell: get this file, from the shelf or from one of these members; answers FrozenHeld or FetchFailed.

    It takes the place of an earlier download, which then answers nothing more.
    """

    epoch: int
    digest: str
    holders: tuple[PeerId, ...]
    """Whom to ask, in this order; they may hold it or only say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UseFrozen:
    """Trainer: train this factor, with these frozen factors, from the next step on; answers FrozenUsed or FrozenRefused."""

    epoch: int
    digest: str
    factor: Factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Heal:
    """Shell: stop training, load a donor's state, and train on; ends with TrainerReady (or TrainerLost).

    An own checkpoint does only where no member has state to give for a while: all may have diverged together. The node takes part in no meeting meanwhile, and its record should say that it has no state.
    """

    reason: HealReason


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Shell: end the node with an error that says so. It has healed ``num_heals`` times in a row, and is unwell again."""

    reason: HealReason
    num_heals: int


Command = (
    EncodeOffer
    | EncodeAnswer
    | EncodeClose
    | ApplyClose
    | SettleMeeting
    | DropMeeting
    | OpenLink
    | Send
    | CloseLink
    | ReportMeeting
    | NoteRefusal
    | HangBell
    | TakeBell
    | SeekPath
    | SplitTensors
    | FetchFrozen
    | UseFrozen
    | Heal
    | GiveUp
)
