from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2 as _records_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RefusalReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_REASON_UNSPECIFIED: _ClassVar[RefusalReason]
    REFUSAL_REASON_WRONG_RUN: _ClassVar[RefusalReason]
    REFUSAL_REASON_WRONG_PROTOCOL: _ClassVar[RefusalReason]
    REFUSAL_REASON_WRONG_RECEIVER: _ClassVar[RefusalReason]
    REFUSAL_REASON_OVERSIZED: _ClassVar[RefusalReason]
    REFUSAL_REASON_MALFORMED: _ClassVar[RefusalReason]
    REFUSAL_REASON_CHECKSUM: _ClassVar[RefusalReason]
    REFUSAL_REASON_NONFINITE: _ClassVar[RefusalReason]
    REFUSAL_REASON_UNKNOWN_MEETING: _ClassVar[RefusalReason]
    REFUSAL_REASON_EXPIRED: _ClassVar[RefusalReason]
    REFUSAL_REASON_NOT_READY: _ClassVar[RefusalReason]
    REFUSAL_REASON_LEAVING: _ClassVar[RefusalReason]
    REFUSAL_REASON_WRONG_SENDER: _ClassVar[RefusalReason]
    REFUSAL_REASON_UNPROVEN: _ClassVar[RefusalReason]
    REFUSAL_REASON_REPLAYED: _ClassVar[RefusalReason]
    REFUSAL_REASON_NOT_ADMITTED: _ClassVar[RefusalReason]
    REFUSAL_REASON_QUARANTINED: _ClassVar[RefusalReason]
    REFUSAL_REASON_WRONG_CERTIFICATE: _ClassVar[RefusalReason]
    REFUSAL_REASON_TOO_MANY: _ClassVar[RefusalReason]
REFUSAL_REASON_UNSPECIFIED: RefusalReason
REFUSAL_REASON_WRONG_RUN: RefusalReason
REFUSAL_REASON_WRONG_PROTOCOL: RefusalReason
REFUSAL_REASON_WRONG_RECEIVER: RefusalReason
REFUSAL_REASON_OVERSIZED: RefusalReason
REFUSAL_REASON_MALFORMED: RefusalReason
REFUSAL_REASON_CHECKSUM: RefusalReason
REFUSAL_REASON_NONFINITE: RefusalReason
REFUSAL_REASON_UNKNOWN_MEETING: RefusalReason
REFUSAL_REASON_EXPIRED: RefusalReason
REFUSAL_REASON_NOT_READY: RefusalReason
REFUSAL_REASON_LEAVING: RefusalReason
REFUSAL_REASON_WRONG_SENDER: RefusalReason
REFUSAL_REASON_UNPROVEN: RefusalReason
REFUSAL_REASON_REPLAYED: RefusalReason
REFUSAL_REASON_NOT_ADMITTED: RefusalReason
REFUSAL_REASON_QUARANTINED: RefusalReason
REFUSAL_REASON_WRONG_CERTIFICATE: RefusalReason
REFUSAL_REASON_TOO_MANY: RefusalReason

class MeetingFrame(_message.Message):
    __slots__ = ("offer", "answer", "close", "verdict", "confirm", "busy", "refusal", "chunk", "call_back")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CALL_BACK_FIELD_NUMBER: _ClassVar[int]
    offer: Offer
    answer: Answer
    close: Close
    verdict: Verdict
    confirm: Confirm
    busy: Busy
    refusal: Refusal
    chunk: Chunk
    call_back: CallBack
    def __init__(self, offer: _Optional[_Union[Offer, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., confirm: _Optional[_Union[Confirm, _Mapping]] = ..., busy: _Optional[_Union[Busy, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., call_back: _Optional[_Union[CallBack, _Mapping]] = ...) -> None: ...

class BellRequest(_message.Message):
    __slots__ = ("member",)
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    member: _records_pb2.SignedRecord
    def __init__(self, member: _Optional[_Union[_records_pb2.SignedRecord, _Mapping]] = ...) -> None: ...

class Ring(_message.Message):
    __slots__ = ("meeting_id", "wants_state")
    MEETING_ID_FIELD_NUMBER: _ClassVar[int]
    WANTS_STATE_FIELD_NUMBER: _ClassVar[int]
    meeting_id: bytes
    wants_state: bool
    def __init__(self, meeting_id: _Optional[bytes] = ..., wants_state: _Optional[bool] = ...) -> None: ...

class CallBack(_message.Message):
    __slots__ = ("meeting_id",)
    MEETING_ID_FIELD_NUMBER: _ClassVar[int]
    meeting_id: bytes
    def __init__(self, meeting_id: _Optional[bytes] = ...) -> None: ...

class StreamPlan(_message.Message):
    __slots__ = ("stream", "codec", "dtype", "ranks", "payload_bytes", "omega", "frozen_digest", "factor")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    OMEGA_FIELD_NUMBER: _ClassVar[int]
    FROZEN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    stream: str
    codec: str
    dtype: str
    ranks: _containers.RepeatedScalarFieldContainer[int]
    payload_bytes: int
    omega: str
    frozen_digest: bytes
    factor: str
    def __init__(self, stream: _Optional[str] = ..., codec: _Optional[str] = ..., dtype: _Optional[str] = ..., ranks: _Optional[_Iterable[int]] = ..., payload_bytes: _Optional[int] = ..., omega: _Optional[str] = ..., frozen_digest: _Optional[bytes] = ..., factor: _Optional[str] = ...) -> None: ...

class PayloadHeader(_message.Message):
    __slots__ = ("total_bytes", "sha256")
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    total_bytes: int
    sha256: bytes
    def __init__(self, total_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("meeting_id", "run_id", "protocol_version", "sender", "receiver", "plans", "progress_steps", "payload", "member", "weight")
    MEETING_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_STEPS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    meeting_id: bytes
    run_id: bytes
    protocol_version: int
    sender: bytes
    receiver: bytes
    plans: _containers.RepeatedCompositeFieldContainer[StreamPlan]
    progress_steps: float
    payload: PayloadHeader
    member: _records_pb2.SignedRecord
    weight: float
    def __init__(self, meeting_id: _Optional[bytes] = ..., run_id: _Optional[bytes] = ..., protocol_version: _Optional[int] = ..., sender: _Optional[bytes] = ..., receiver: _Optional[bytes] = ..., plans: _Optional[_Iterable[_Union[StreamPlan, _Mapping]]] = ..., progress_steps: _Optional[float] = ..., payload: _Optional[_Union[PayloadHeader, _Mapping]] = ..., member: _Optional[_Union[_records_pb2.SignedRecord, _Mapping]] = ..., weight: _Optional[float] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("meeting_id", "part_bytes", "progress_steps", "payload", "clip_norms", "weight")
    MEETING_ID_FIELD_NUMBER: _ClassVar[int]
    PART_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_STEPS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CLIP_NORMS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    meeting_id: bytes
    part_bytes: _containers.RepeatedScalarFieldContainer[int]
    progress_steps: float
    payload: PayloadHeader
    clip_norms: _containers.RepeatedScalarFieldContainer[float]
    weight: float
    def __init__(self, meeting_id: _Optional[bytes] = ..., part_bytes: _Optional[_Iterable[int]] = ..., progress_steps: _Optional[float] = ..., payload: _Optional[_Union[PayloadHeader, _Mapping]] = ..., clip_norms: _Optional[_Iterable[float]] = ..., weight: _Optional[float] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("meeting_id", "part_bytes", "payload", "scales")
    MEETING_ID_FIELD_NUMBER: _ClassVar[int]
    PART_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    meeting_id: bytes
    part_bytes: _containers.RepeatedScalarFieldContainer[int]
    payload: PayloadHeader
    scales: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, meeting_id: _Optional[bytes] = ..., part_bytes: _Optional[_Iterable[int]] = ..., payload: _Optional[_Union[PayloadHeader, _Mapping]] = ..., scales: _Optional[_Iterable[float]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("meeting_id", "applied", "reason")
    MEETING_ID_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    meeting_id: bytes
    applied: bool
    reason: RefusalReason
    def __init__(self, meeting_id: _Optional[bytes] = ..., applied: _Optional[bool] = ..., reason: _Optional[_Union[RefusalReason, str]] = ...) -> None: ...

class Confirm(_message.Message):
    __slots__ = ("meeting_id",)
    MEETING_ID_FIELD_NUMBER: _ClassVar[int]
    meeting_id: bytes
    def __init__(self, meeting_id: _Optional[bytes] = ...) -> None: ...

class Busy(_message.Message):
    __slots__ = ("meeting_id",)
    MEETING_ID_FIELD_NUMBER: _ClassVar[int]
    meeting_id: bytes
    def __init__(self, meeting_id: _Optional[bytes] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("meeting_id", "reason")
    MEETING_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    meeting_id: bytes
    reason: RefusalReason
    def __init__(self, meeting_id: _Optional[bytes] = ..., reason: _Optional[_Union[RefusalReason, str]] = ...) -> None: ...
