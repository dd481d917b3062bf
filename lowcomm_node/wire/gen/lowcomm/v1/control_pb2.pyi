from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2 as _records_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Status(_message.Message):
    __slots__ = ("peer_id", "run_id", "run_name", "state", "version", "uptime_seconds", "join_address", "grpc_address", "training", "meetings", "peers_known", "detail", "reachability", "bells_own", "bells_held", "line", "swarm", "http_address", "pause")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    JOIN_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    MEETINGS_FIELD_NUMBER: _ClassVar[int]
    PEERS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REACHABILITY_FIELD_NUMBER: _ClassVar[int]
    BELLS_OWN_FIELD_NUMBER: _ClassVar[int]
    BELLS_HELD_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    SWARM_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    run_id: str
    run_name: str
    state: str
    version: str
    uptime_seconds: float
    join_address: str
    grpc_address: str
    training: TrainingStatus
    meetings: MeetingStatus
    peers_known: int
    detail: str
    reachability: str
    bells_own: int
    bells_held: int
    line: LineStatus
    swarm: SwarmStatus
    http_address: str
    pause: PauseStatus
    def __init__(self, peer_id: _Optional[str] = ..., run_id: _Optional[str] = ..., run_name: _Optional[str] = ..., state: _Optional[str] = ..., version: _Optional[str] = ..., uptime_seconds: _Optional[float] = ..., join_address: _Optional[str] = ..., grpc_address: _Optional[str] = ..., training: _Optional[_Union[TrainingStatus, _Mapping]] = ..., meetings: _Optional[_Union[MeetingStatus, _Mapping]] = ..., peers_known: _Optional[int] = ..., detail: _Optional[str] = ..., reachability: _Optional[str] = ..., bells_own: _Optional[int] = ..., bells_held: _Optional[int] = ..., line: _Optional[_Union[LineStatus, _Mapping]] = ..., swarm: _Optional[_Union[SwarmStatus, _Mapping]] = ..., http_address: _Optional[str] = ..., pause: _Optional[_Union[PauseStatus, _Mapping]] = ...) -> None: ...

class PauseStatus(_message.Message):
    __slots__ = ("reasons", "ends_in_seconds")
    REASONS_FIELD_NUMBER: _ClassVar[int]
    ENDS_IN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    ends_in_seconds: float
    def __init__(self, reasons: _Optional[_Iterable[str]] = ..., ends_in_seconds: _Optional[float] = ...) -> None: ...

class SwarmStatus(_message.Message):
    __slots__ = ("members", "validation_loss", "spread")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    members: int
    validation_loss: float
    spread: float
    def __init__(self, members: _Optional[int] = ..., validation_loss: _Optional[float] = ..., spread: _Optional[float] = ...) -> None: ...

class TrainingStatus(_message.Message):
    __slots__ = ("steps", "tokens", "loss", "validation_loss", "learning_rate", "gradient_norm", "progress_steps", "total_steps", "tokens_per_second", "step_seconds", "blocked_seconds", "exchange_seconds", "parameters", "sketch", "started_loss", "restarts", "micro_batches", "sketch_mark", "older_sketches", "bits_per_byte", "validation_accuracy", "ab")
    class BlockedSecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_STEPS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SKETCH_FIELD_NUMBER: _ClassVar[int]
    STARTED_LOSS_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCHES_FIELD_NUMBER: _ClassVar[int]
    SKETCH_MARK_FIELD_NUMBER: _ClassVar[int]
    OLDER_SKETCHES_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_BYTE_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    AB_FIELD_NUMBER: _ClassVar[int]
    steps: int
    tokens: int
    loss: float
    validation_loss: float
    learning_rate: float
    gradient_norm: float
    progress_steps: float
    total_steps: int
    tokens_per_second: float
    step_seconds: float
    blocked_seconds: _containers.ScalarMap[str, float]
    exchange_seconds: float
    parameters: int
    sketch: _containers.RepeatedScalarFieldContainer[float]
    started_loss: float
    restarts: int
    micro_batches: int
    sketch_mark: int
    older_sketches: _containers.RepeatedCompositeFieldContainer[_records_pb2.MarkedSketch]
    bits_per_byte: float
    validation_accuracy: float
    ab: AbStatus
    def __init__(self, steps: _Optional[int] = ..., tokens: _Optional[int] = ..., loss: _Optional[float] = ..., validation_loss: _Optional[float] = ..., learning_rate: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., progress_steps: _Optional[float] = ..., total_steps: _Optional[int] = ..., tokens_per_second: _Optional[float] = ..., step_seconds: _Optional[float] = ..., blocked_seconds: _Optional[_Mapping[str, float]] = ..., exchange_seconds: _Optional[float] = ..., parameters: _Optional[int] = ..., sketch: _Optional[_Iterable[float]] = ..., started_loss: _Optional[float] = ..., restarts: _Optional[int] = ..., micro_batches: _Optional[int] = ..., sketch_mark: _Optional[int] = ..., older_sketches: _Optional[_Iterable[_Union[_records_pb2.MarkedSketch, _Mapping]]] = ..., bits_per_byte: _Optional[float] = ..., validation_accuracy: _Optional[float] = ..., ab: _Optional[_Union[AbStatus, _Mapping]] = ...) -> None: ...

class AbStatus(_message.Message):
    __slots__ = ("stage", "epoch", "digest", "factor", "doing", "partners", "groups", "energy_kept", "compression")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    DOING_FIELD_NUMBER: _ClassVar[int]
    PARTNERS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    ENERGY_KEPT_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    stage: str
    epoch: int
    digest: str
    factor: str
    doing: str
    partners: int
    groups: _containers.RepeatedCompositeFieldContainer[AbGroup]
    energy_kept: float
    compression: float
    def __init__(self, stage: _Optional[str] = ..., epoch: _Optional[int] = ..., digest: _Optional[str] = ..., factor: _Optional[str] = ..., doing: _Optional[str] = ..., partners: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[AbGroup, _Mapping]]] = ..., energy_kept: _Optional[float] = ..., compression: _Optional[float] = ...) -> None: ...

class AbGroup(_message.Message):
    __slots__ = ("name", "tensors", "rank", "whole_rank", "energy_kept")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WHOLE_RANK_FIELD_NUMBER: _ClassVar[int]
    ENERGY_KEPT_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensors: int
    rank: int
    whole_rank: int
    energy_kept: float
    def __init__(self, name: _Optional[str] = ..., tensors: _Optional[int] = ..., rank: _Optional[int] = ..., whole_rank: _Optional[int] = ..., energy_kept: _Optional[float] = ...) -> None: ...

class MeetingStatus(_message.Message):
    __slots__ = ("completed", "half", "failed", "last_partner", "last_meeting_ago_seconds", "bytes", "current", "mean_duration_seconds", "links")
    class FailedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LinksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    HALF_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LAST_PARTNER_FIELD_NUMBER: _ClassVar[int]
    LAST_MEETING_AGO_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    MEAN_DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    completed: int
    half: int
    failed: _containers.ScalarMap[str, int]
    last_partner: str
    last_meeting_ago_seconds: float
    bytes: _containers.RepeatedCompositeFieldContainer[WireBytes]
    current: str
    mean_duration_seconds: float
    links: _containers.ScalarMap[str, int]
    def __init__(self, completed: _Optional[int] = ..., half: _Optional[int] = ..., failed: _Optional[_Mapping[str, int]] = ..., last_partner: _Optional[str] = ..., last_meeting_ago_seconds: _Optional[float] = ..., bytes: _Optional[_Iterable[_Union[WireBytes, _Mapping]]] = ..., current: _Optional[str] = ..., mean_duration_seconds: _Optional[float] = ..., links: _Optional[_Mapping[str, int]] = ...) -> None: ...

class WireBytes(_message.Message):
    __slots__ = ("direction", "stream", "codec", "bytes")
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    direction: str
    stream: str
    codec: str
    bytes: int
    def __init__(self, direction: _Optional[str] = ..., stream: _Optional[str] = ..., codec: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class LineStatus(_message.Message):
    __slots__ = ("state", "up_mbit_per_second", "down_mbit_per_second", "month_used_bytes", "month_limit_bytes", "congestion_control")
    STATE_FIELD_NUMBER: _ClassVar[int]
    UP_MBIT_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    DOWN_MBIT_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    MONTH_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MONTH_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONGESTION_CONTROL_FIELD_NUMBER: _ClassVar[int]
    state: str
    up_mbit_per_second: float
    down_mbit_per_second: float
    month_used_bytes: int
    month_limit_bytes: int
    congestion_control: str
    def __init__(self, state: _Optional[str] = ..., up_mbit_per_second: _Optional[float] = ..., down_mbit_per_second: _Optional[float] = ..., month_used_bytes: _Optional[int] = ..., month_limit_bytes: _Optional[int] = ..., congestion_control: _Optional[str] = ...) -> None: ...

class PeersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Peers(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    def __init__(self, peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("peer_id", "grpc_address", "progress_steps", "state", "seen_ago_seconds", "meetings", "reachability", "link", "last_link", "validation_loss", "frozen_epoch", "frozen_digest", "factor")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_STEPS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEEN_AGO_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MEETINGS_FIELD_NUMBER: _ClassVar[int]
    REACHABILITY_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    LAST_LINK_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    FROZEN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    FROZEN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    grpc_address: str
    progress_steps: float
    state: str
    seen_ago_seconds: float
    meetings: int
    reachability: str
    link: str
    last_link: str
    validation_loss: float
    frozen_epoch: int
    frozen_digest: str
    factor: str
    def __init__(self, peer_id: _Optional[str] = ..., grpc_address: _Optional[str] = ..., progress_steps: _Optional[float] = ..., state: _Optional[str] = ..., seen_ago_seconds: _Optional[float] = ..., meetings: _Optional[int] = ..., reachability: _Optional[str] = ..., link: _Optional[str] = ..., last_link: _Optional[str] = ..., validation_loss: _Optional[float] = ..., frozen_epoch: _Optional[int] = ..., frozen_digest: _Optional[str] = ..., factor: _Optional[str] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class History(_message.Message):
    __slots__ = ("every_seconds", "unix_seconds", "loss", "validation_loss", "swarm_loss", "spread", "progress_steps", "tokens_per_second", "tokens", "bytes_sent", "bytes_received", "meetings")
    EVERY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    SWARM_LOSS_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_STEPS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    MEETINGS_FIELD_NUMBER: _ClassVar[int]
    every_seconds: float
    unix_seconds: _containers.RepeatedScalarFieldContainer[float]
    loss: _containers.RepeatedScalarFieldContainer[float]
    validation_loss: _containers.RepeatedScalarFieldContainer[float]
    swarm_loss: _containers.RepeatedScalarFieldContainer[float]
    spread: _containers.RepeatedScalarFieldContainer[float]
    progress_steps: _containers.RepeatedScalarFieldContainer[float]
    tokens_per_second: _containers.RepeatedScalarFieldContainer[float]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    bytes_sent: _containers.RepeatedScalarFieldContainer[int]
    bytes_received: _containers.RepeatedScalarFieldContainer[int]
    meetings: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, every_seconds: _Optional[float] = ..., unix_seconds: _Optional[_Iterable[float]] = ..., loss: _Optional[_Iterable[float]] = ..., validation_loss: _Optional[_Iterable[float]] = ..., swarm_loss: _Optional[_Iterable[float]] = ..., spread: _Optional[_Iterable[float]] = ..., progress_steps: _Optional[_Iterable[float]] = ..., tokens_per_second: _Optional[_Iterable[float]] = ..., tokens: _Optional[_Iterable[int]] = ..., bytes_sent: _Optional[_Iterable[int]] = ..., bytes_received: _Optional[_Iterable[int]] = ..., meetings: _Optional[_Iterable[int]] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DumpRequest(_message.Message):
    __slots__ = ("full",)
    FULL_FIELD_NUMBER: _ClassVar[int]
    full: bool
    def __init__(self, full: _Optional[bool] = ...) -> None: ...

class DumpResponse(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("for_seconds",)
    FOR_SECONDS_FIELD_NUMBER: _ClassVar[int]
    for_seconds: float
    def __init__(self, for_seconds: _Optional[float] = ...) -> None: ...

class PauseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
