from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reachability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REACHABILITY_UNSPECIFIED: _ClassVar[Reachability]
    REACHABILITY_PUBLIC: _ClassVar[Reachability]
    REACHABILITY_HOLEPUNCHED: _ClassVar[Reachability]
    REACHABILITY_RELAYED: _ClassVar[Reachability]
    REACHABILITY_OUTBOUND_ONLY: _ClassVar[Reachability]
REACHABILITY_UNSPECIFIED: Reachability
REACHABILITY_PUBLIC: Reachability
REACHABILITY_HOLEPUNCHED: Reachability
REACHABILITY_RELAYED: Reachability
REACHABILITY_OUTBOUND_ONLY: Reachability

class MemberRecord(_message.Message):
    __slots__ = ("run_id", "peer_id", "grpc_address", "protocol_version", "progress_steps", "has_state", "expires_at", "certificate", "admission", "reachability", "vitals", "frozen")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_STEPS_FIELD_NUMBER: _ClassVar[int]
    HAS_STATE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_FIELD_NUMBER: _ClassVar[int]
    REACHABILITY_FIELD_NUMBER: _ClassVar[int]
    VITALS_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    peer_id: bytes
    grpc_address: str
    protocol_version: int
    progress_steps: float
    has_state: bool
    expires_at: float
    certificate: bytes
    admission: Admission
    reachability: Reachability
    vitals: Vitals
    frozen: FrozenFactors
    def __init__(self, run_id: _Optional[bytes] = ..., peer_id: _Optional[bytes] = ..., grpc_address: _Optional[str] = ..., protocol_version: _Optional[int] = ..., progress_steps: _Optional[float] = ..., has_state: _Optional[bool] = ..., expires_at: _Optional[float] = ..., certificate: _Optional[bytes] = ..., admission: _Optional[_Union[Admission, _Mapping]] = ..., reachability: _Optional[_Union[Reachability, str]] = ..., vitals: _Optional[_Union[Vitals, _Mapping]] = ..., frozen: _Optional[_Union[FrozenFactors, _Mapping]] = ...) -> None: ...

class FrozenFactors(_message.Message):
    __slots__ = ("epoch", "digest", "factor")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    digest: bytes
    factor: str
    def __init__(self, epoch: _Optional[int] = ..., digest: _Optional[bytes] = ..., factor: _Optional[str] = ...) -> None: ...

class Vitals(_message.Message):
    __slots__ = ("validation_loss", "sketch", "metrics_address", "sketch_mark", "older_sketches")
    VALIDATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    SKETCH_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SKETCH_MARK_FIELD_NUMBER: _ClassVar[int]
    OLDER_SKETCHES_FIELD_NUMBER: _ClassVar[int]
    validation_loss: float
    sketch: _containers.RepeatedScalarFieldContainer[float]
    metrics_address: str
    sketch_mark: int
    older_sketches: _containers.RepeatedCompositeFieldContainer[MarkedSketch]
    def __init__(self, validation_loss: _Optional[float] = ..., sketch: _Optional[_Iterable[float]] = ..., metrics_address: _Optional[str] = ..., sketch_mark: _Optional[int] = ..., older_sketches: _Optional[_Iterable[_Union[MarkedSketch, _Mapping]]] = ...) -> None: ...

class MarkedSketch(_message.Message):
    __slots__ = ("mark", "sums")
    MARK_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    mark: int
    sums: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, mark: _Optional[int] = ..., sums: _Optional[_Iterable[float]] = ...) -> None: ...

class Admission(_message.Message):
    __slots__ = ("expires_at", "invite_key", "organiser_signature", "invite_signature")
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    INVITE_KEY_FIELD_NUMBER: _ClassVar[int]
    ORGANISER_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    INVITE_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    expires_at: int
    invite_key: bytes
    organiser_signature: bytes
    invite_signature: bytes
    def __init__(self, expires_at: _Optional[int] = ..., invite_key: _Optional[bytes] = ..., organiser_signature: _Optional[bytes] = ..., invite_signature: _Optional[bytes] = ...) -> None: ...

class Invitation(_message.Message):
    __slots__ = ("run_id", "expires_at", "peer_id", "secret", "signature")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    expires_at: int
    peer_id: bytes
    secret: bytes
    signature: bytes
    def __init__(self, run_id: _Optional[bytes] = ..., expires_at: _Optional[int] = ..., peer_id: _Optional[bytes] = ..., secret: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SignedRecord(_message.Message):
    __slots__ = ("record", "signature")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    signature: bytes
    def __init__(self, record: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class HelloRequest(_message.Message):
    __slots__ = ("protocol_version", "run_id", "min_protocol_version")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    MIN_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    run_id: bytes
    min_protocol_version: int
    def __init__(self, protocol_version: _Optional[int] = ..., run_id: _Optional[bytes] = ..., min_protocol_version: _Optional[int] = ...) -> None: ...

class DialBackRequest(_message.Message):
    __slots__ = ("run_id", "port", "certificate")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    port: int
    certificate: bytes
    def __init__(self, run_id: _Optional[bytes] = ..., port: _Optional[int] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class DialBackResponse(_message.Message):
    __slots__ = ("is_reachable", "host")
    IS_REACHABLE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    is_reachable: bool
    host: str
    def __init__(self, is_reachable: _Optional[bool] = ..., host: _Optional[str] = ...) -> None: ...

class SeenRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SeenResponse(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    def __init__(self, address: _Optional[str] = ...) -> None: ...

class PunchRequest(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    def __init__(self, address: _Optional[str] = ...) -> None: ...

class PunchResponse(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    def __init__(self, address: _Optional[str] = ...) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("protocol_version", "run_id", "manifest", "member", "now")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    run_id: bytes
    manifest: bytes
    member: SignedRecord
    now: float
    def __init__(self, protocol_version: _Optional[int] = ..., run_id: _Optional[bytes] = ..., manifest: _Optional[bytes] = ..., member: _Optional[_Union[SignedRecord, _Mapping]] = ..., now: _Optional[float] = ...) -> None: ...
