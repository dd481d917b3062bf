"""All that can happen to a node, in the past tense. ``core.node`` turns each into commands."""

from dataclasses import dataclass

from lowcomm_node.core.ab_stages import Stage
from lowcomm_node.core.messages import Message, StreamPlan
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Factor, LinkKind, MeetingId, PeerId, Reachability, Stream

__all__ = [
    "AnswerEncoded",
    "BellHung",
    "BellLost",
    "BellsHeld",
    "CloseEncoded",
    "CorrectionApplied",
    "DrainRequested",
    "EncodingRefused",
    "Event",
    "FetchFailed",
    "FrozenHeld",
    "FrozenNote",
    "FrozenRefused",
    "FrozenUsed",
    "LineChanged",
    "LinkFailed",
    "Member",
    "MembersSeen",
    "MessageProgressed",
    "MessageReceived",
    "OfferEncoded",
    "PathSought",
    "PauseChanged",
    "ReachabilityMeasured",
    "RecordRenewed",
    "SplitFailed",
    "StepsTaken",
    "Ticked",
    "TrainerLost",
    "TrainerReady",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenNote:
    """Of AB-training: the frozen factors that a member has, and which factor it trains with them."""

    epoch: int
    """From 1."""
    digest: str
    """Snapshot id of their file, 64 hexadecimal digits."""
    factor: Factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A verified member record of another node."""

    peer: PeerId
    grpc_address: str
    """Empty where nobody can dial it."""
    progress_steps: float
    has_state: bool
    expires_at: float
    """DHT time, Unix seconds."""
    reachability: Reachability = Reachability.PUBLIC
    certificate: bytes = b""
    """What it must show on a connection (``wire.certificate``); empty when it speaks no TLS."""
    frozen: FrozenNote | None = None
    """The newest frozen factors that its trainer has taken; it gives them to whoever asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """Some time has passed; deadlines are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsTaken:
    """The trainer has finished own inner steps."""

    steps: int
    """Own steps in total, since the node's first."""
    is_cooldown: bool = False
    """The run is in its last phase, in which meetings are dense."""
    nonfinite_steps: int = 0
    """Of the steps of this life of the trainer, those whose loss or gradient was not finite."""
    stage: Stage | None = None
    """Of AB-training; None: the run has no stages."""
    epoch: int = 0
    """That the stage belongs to; 0 before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferEncoded:
    """The trainer has encoded an offer from the live weights."""

    meeting_id: MeetingId
    plans: tuple[StreamPlan, ...]
    parts: tuple[bytes, ...]
    progress_steps: float
    weight: float = 1.0
    """As in Offer."""
    work_s: float | None = None
    """Seconds this took the trainer from when it turned to it; what it did before is not in them. None: it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerEncoded:
    """The trainer has encoded the answer to a received offer."""

    meeting_id: MeetingId
    parts: tuple[bytes, ...]
    progress_steps: float
    clip_norms: tuple[float, ...] = ()
    """As in Answer."""
    weight: float = 1.0
    """As in Answer."""
    work_s: float | None = None
    """As in OfferEncoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseEncoded:
    """The trainer knows the correction, holds it back, and has encoded what the partner needs."""

    meeting_id: MeetingId
    parts: tuple[bytes, ...]
    scales: tuple[float, ...] = ()
    """As in Close."""
    work_s: float | None = None
    """As in OfferEncoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionApplied:
    """The trainer has applied the correction of a meeting, between two steps."""

    meeting_id: MeetingId
    norms: tuple[tuple[Stream, float], ...]
    """Frobenius norm |C| of the estimated difference, per stream, before clipping."""
    scales: tuple[tuple[Stream, float], ...] = ()
    """s per stream: s * C was applied. Below 1 it was clipped."""
    work_s: float | None = None
    """As in OfferEncoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingRefused:
    """The trainer cannot or will not go on with a meeting; it has forgotten it."""

    meeting_id: MeetingId
    reason: RefusalReason
    detail: str
    is_offence: bool = False
    """What the partner sent is at fault, and nothing else can be: neither this node's own state nor how machines round."""
    work_s: float | None = None
    """As in OfferEncoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerLost:
    """The trainer process ended; whatever it held of meetings is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerReady:
    """The trainer has the run's state in place and serves meetings from now on, until TrainerLost."""

    applied_meetings: tuple[MeetingId, ...] = ()
    """The newest meetings that this node has answered and whose correction is in this state, newest last; of a donor's none."""
    due: tuple[tuple[Stream, int], ...] = ()
    """Of an own checkpoint: own step after which each stream's next meeting is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageProgressed:
    """Bytes of a message of this meeting have moved, either way: its partner lives. A few times a second at most."""

    meeting_id: MeetingId


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    """A complete and verified message came in."""

    message: Message
    link: LinkKind = LinkKind.GRPC
    """What it came over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFailed:
    """The connection a meeting ran over ended or could not be made."""

    meeting_id: MeetingId
    reason: str
    """unreachable, disconnect, timeout, or the refusal reason of what the partner sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersSeen:
    """The directory was read, or an offer brought its sender's record.

    Records are verified; ``expires_at`` has been translated to the clock of ``now``.
    """

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRenewed:
    """This node has a new signed member record."""

    member: bytes
    """Serialised, to be carried by offers from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChanged:
    """The owner's line may be used for meetings from now on, or not: quiet hours, or a month's bytes that must last."""

    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseChanged:
    """The owner wants the machine for himself: finish the meeting, start and take up no other. Or he gives it back."""

    is_paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachabilityMeasured:
    """How others get to this node has been found out, for the first time or anew. Until then it is taken for public."""

    reachability: Reachability


@dataclass(frozen=True, slots=True, kw_only=True)
class BellHung:
    """A member that can be dialled holds our bell: it can ring us."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class BellLost:
    """Our bell at a member could not be hung, or is gone."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class BellsHeld:
    """These members, and no others, have their bell with us now."""

    peers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSought:
    """A direct libp2p connection to a member was looked for, and is there or not."""

    peer: PeerId
    is_direct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenHeld:
    """A file with frozen factors of this epoch is on this node's shelf, is what its digest says, and can be given to others."""

    epoch: int
    digest: str
    is_own: bool
    """It was split here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenUsed:
    """The trainer trains this factor with these frozen factors from now on."""

    epoch: int
    digest: str
    factor: Factor


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenRefused:
    """The trainer will not take these: they do not fit the model, or are no frozen factors at all."""

    epoch: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFailed:
    """None of the members asked has given these frozen factors."""

    epoch: int
    digest: str
    is_busy: bool
    """At least one would have, later; or our own line is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFailed:
    """There is no file with frozen factors of our own weights."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRequested:
    """The node is about to leave: finish or abort the meeting, start no other."""


Event = (
    Ticked
    | StepsTaken
    | OfferEncoded
    | AnswerEncoded
    | CloseEncoded
    | CorrectionApplied
    | EncodingRefused
    | TrainerLost
    | TrainerReady
    | MessageProgressed
    | MessageReceived
    | LinkFailed
    | MembersSeen
    | RecordRenewed
    | LineChanged
    | PauseChanged
    | ReachabilityMeasured
    | BellHung
    | BellLost
    | BellsHeld
    | PathSought
    | FrozenHeld
    | FrozenUsed
    | FrozenRefused
    | FetchFailed
    | SplitFailed
    | DrainRequested
)
