"""What the daemon and its trainer process say to each other besides meetings (those are core's own commands and events).

The pipe is between a process and its own child; nothing from the network is ever unpickled.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lowcomm_node.core.ab_stages import Stage
from lowcomm_node.core.commands import ApplyClose, DropMeeting, EncodeAnswer, EncodeClose, EncodeOffer, SettleMeeting
from lowcomm_node.core.events import (
    AnswerEncoded,
    CloseEncoded,
    CorrectionApplied,
    EncodingRefused,
    OfferEncoded,
)
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.spread import MarkedSketch
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.train.exchanged import Exchanged
from lowcomm_node.units import Codec, Factor, MeetingId, PeerId, RunId, Stream

__all__ = [
    "AbGroup",
    "AbReport",
    "CheckpointWritten",
    "Configure",
    "Failed",
    "FingerprintTaken",
    "FromTrainer",
    "FrozenTaken",
    "FrozenWritten",
    "LoadState",
    "Ready",
    "Report",
    "Run",
    "SnapshotWritten",
    "SplitWeights",
    "StateLoaded",
    "Stop",
    "Stopped",
    "TakeFingerprint",
    "TakeFrozen",
    "ToTrainer",
    "WriteCheckpoint",
    "WriteSnapshot",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """First message: build model, optimizer and data. Answered by Ready or Failed."""

    manifest: Manifest
    settings: NodeSettings
    run_id: RunId
    peer_id: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Everything is built; weights are the manifest's initial ones."""

    parameters: int
    shapes: tuple[tuple[int, ...], ...]
    """Shape of each parameter tensor, in the order that plans of the parameters refer to."""
    snapshot_bytes_max: int
    """Upper bound of the size of a state file of this manifest; a download over it is refused."""
    train_tokens: int
    validation_tokens: int
    device: str
    cuda: str = "none"
    """Version of CUDA that torch is built for; none where it is for CPUs only."""
    stream_sizes: dict[Stream, int] = field(default_factory=dict)
    """Number of values in each stream of state that a meeting could be about."""
    follower_pids: tuple[int, ...] = ()
    """Processes that the trainer has started: for the node's further devices, and to read a dataset."""
    bytes_per_token: float = 0.0
    """Of held-out text, in UTF-8; 0: tokens stand for no text that is known here."""
    initial_sketch: tuple[float, ...] = ()
    """Count sketch of the manifest's initial weights."""
    frozen_bytes_max: int = 0
    """Upper bound of the size of a file of frozen factors of this manifest; 0 with outer.method "average"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadState:
    """Load what WriteCheckpoint, Stop or WriteSnapshot has written. Answered by StateLoaded or Failed(is_fatal=False)."""

    path: str
    is_own: bool
    """True: an own checkpoint's folder, counters and data cursor continue. False: a donor's state file, they start at zero."""
    away_steps: int = 0
    """Of an own checkpoint: steps not taken since it was written, because the node was paused; it counts less for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateLoaded:
    """The state was verified (names, shapes, finite; an own one byte by byte) and is in place."""

    progress_steps: float
    steps: int
    tokens: int
    due: Mapping[Stream, int] = field(default_factory=dict)
    """Of an own checkpoint: as WriteCheckpoint had them."""
    applied_meetings: tuple[MeetingId, ...] = ()
    """Of an own checkpoint: meetings that this node had answered and whose correction is in the state, the newest last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Train until Stop, or until the manifest's total steps are reached; then serve meetings only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbGroup:
    """What a split has left of the split tensors of one kind, as "blocks.*.attention.qkv"."""

    name: str
    tensors: int
    rank: int
    """Sum over them."""
    whole_rank: int
    """Sum over them of the smaller side."""
    energy_kept: float
    """Share of |W|^2, squared Frobenius norms, that lies in the span of the frozen factors when they are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbReport:
    """Where AB-training stands in this trainer."""

    stage: Stage
    epoch: int
    """From 1; 0 in the warm-up."""
    digest: str = ""
    """Of the frozen factors by which this node trains a factor now; empty while it trains whole, and so is all that follows."""
    factor: Factor | None = None
    """The one it trains."""
    groups: tuple[AbGroup, ...] = ()
    energy_kept: float = math.nan
    """Share of |W|^2 of all split tensors."""
    compression: float = math.nan
    """Bytes of a dense exchange of all parameters, by those of one in role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Where training stands; sent after each step while nothing older waits, at most ten times a second."""

    steps: int
    tokens: int
    loss: float
    """Mean training loss since the report before (nats per token)."""
    validation_loss: float
    """Newest held-out loss, NaN before the first."""
    learning_rate: float
    gradient_norm: float
    progress_steps: float
    step_seconds: float
    """Mean duration of a step since the report before, meetings not counted."""
    tokens_per_second: float
    blocked_seconds: dict[str, float] = field(default_factory=dict)
    """Cumulative seconds in which the trainer wanted to train and waited, by cause: meeting, data, sync,
    checkpoint (copying the state)."""
    exchange_seconds: float = 0.0
    """Cumulative seconds of own compute for encoding and applying."""
    nonfinite_steps: int = 0
    outer_steps: int = 0
    micro_batches: int = 1
    """Parts that the trainer takes a batch in."""
    exchanged: dict[tuple[Stream, Codec], Exchanged] = field(default_factory=dict)
    """What meetings have told of each stream that has met, by the codec it met in."""
    codec_work: dict[tuple[str, Codec], tuple[int, float]] = field(default_factory=dict)
    """How often each codec was at work and the seconds of it, cumulative, as ``train.codec_work`` has them."""
    device_memory: tuple[int, int] | None = None
    """Bytes that tensors take on the first device, and that torch has reserved there; None of a CPU."""
    held: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Meetings that wait for more in the trainer, and how many may, by the words of ``telemetry.catalogue``."""
    sketches: tuple[MarkedSketch, ...] = ()
    """Of the parameters at the newest mark that progress has passed and at some before (``core.spread.kept``), newest first; once
    the run is over the first is of the last parameters."""
    validation_accuracy: float = math.nan
    """Share of held-out examples that are answered right, of the same look; NaN before the first, and where a task does not say."""
    is_finished: bool = False
    """The run's total steps are reached."""
    ab: AbReport | None = None
    """With outer.method "ab"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSnapshot:
    """Write the whole state for joiners, at a step boundary soon, to a safetensors file. Answered by SnapshotWritten or Failed."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotWritten:
    """The file is complete and durable."""

    path: str
    progress_steps: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeFingerprint:
    """Look at the live state, or at a donor's state file without loading it. Answered by FingerprintTaken or Failed."""

    path: str = ""
    """The state file; empty is the live state at the next step boundary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintTaken:
    """What the state looks like; of a file also: it is this run's, complete and finite."""

    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitWeights:
    """Split the live weights, and write the frozen factors of an epoch to a safetensors file. Answered by FrozenWritten or Failed.

    Nothing else changes: they are used once TakeFrozen gives them back.
    """

    epoch: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenWritten:
    """The file is complete and durable."""

    epoch: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeFrozen:
    """Check the frozen factors in a file, own or a peer's, and train by them in their epoch. Answered by FrozenTaken or Failed(is_fatal=False).

    Others of the same epoch are replaced. The newest two are kept, for meetings under way.
    """

    epoch: int
    path: str
    digest: str
    """What the swarm calls the file, 64 hexadecimal digits; the daemon has compared it with the bytes."""
    factor: Factor
    """To be trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenTaken:
    """The file was verified (names, shapes, finite, orthonormal columns, run and epoch) and counts from the next step on."""

    epoch: int
    digest: str
    factor: Factor


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCheckpoint:
    """Write everything this node needs to go on after a restart. Answered by CheckpointWritten or Failed."""

    path: str
    """Folder to be made."""
    due: Mapping[Stream, int] = field(default_factory=dict)
    """Own step after which each stream's next meeting is due, as the core has it now; comes back with StateLoaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWritten:
    """The checkpoint is complete and durable."""

    path: str
    progress_steps: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Write a last checkpoint (empty path: none) and end. Answered by Stopped."""

    path: str
    due: Mapping[Stream, int] = field(default_factory=dict)
    """As in WriteCheckpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The last message; the process ends with status 0."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Something went wrong in the trainer."""

    code: str
    """The error's stable code, e.g. config, data, store, trainer, out_of_memory, device."""
    detail: str
    is_fatal: bool
    """The process ends after this message."""


ToTrainer = (
    Configure
    | LoadState
    | Run
    | WriteSnapshot
    | WriteCheckpoint
    | TakeFingerprint
    | SplitWeights
    | TakeFrozen
    | Stop
    | EncodeOffer
    | EncodeAnswer
    | EncodeClose
    | ApplyClose
    | SettleMeeting
    | DropMeeting
)
FromTrainer = (
    Ready
    | StateLoaded
    | Report
    | SnapshotWritten
    | CheckpointWritten
    | FingerprintTaken
    | FrozenWritten
    | FrozenTaken
    | Stopped
    | Failed
    | OfferEncoded
    | AnswerEncoded
    | CloseEncoded
    | CorrectionApplied
    | EncodingRefused
)
