from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ("run_id", "protocol_version", "frozen_digest")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    FROZEN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    protocol_version: int
    frozen_digest: bytes
    def __init__(self, run_id: _Optional[bytes] = ..., protocol_version: _Optional[int] = ..., frozen_digest: _Optional[bytes] = ...) -> None: ...

class SnapshotDescription(_message.Message):
    __slots__ = ("run_id", "snapshot_id", "total_bytes", "chunk_bytes", "chunk_sha256", "progress_steps")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SHA256_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_STEPS_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    snapshot_id: bytes
    total_bytes: int
    chunk_bytes: int
    chunk_sha256: _containers.RepeatedScalarFieldContainer[bytes]
    progress_steps: float
    def __init__(self, run_id: _Optional[bytes] = ..., snapshot_id: _Optional[bytes] = ..., total_bytes: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., chunk_sha256: _Optional[_Iterable[bytes]] = ..., progress_steps: _Optional[float] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("run_id", "snapshot_id", "chunks")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    snapshot_id: bytes
    chunks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, run_id: _Optional[bytes] = ..., snapshot_id: _Optional[bytes] = ..., chunks: _Optional[_Iterable[int]] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("index", "data")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    data: bytes
    def __init__(self, index: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class FingerprintRequest(_message.Message):
    __slots__ = ("run_id", "protocol_version")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    protocol_version: int
    def __init__(self, run_id: _Optional[bytes] = ..., protocol_version: _Optional[int] = ...) -> None: ...

class StateFingerprint(_message.Message):
    __slots__ = ("run_id", "progress_steps", "sketch", "norms")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_STEPS_FIELD_NUMBER: _ClassVar[int]
    SKETCH_FIELD_NUMBER: _ClassVar[int]
    NORMS_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    progress_steps: float
    sketch: _containers.RepeatedScalarFieldContainer[float]
    norms: _containers.RepeatedCompositeFieldContainer[GroupNorm]
    def __init__(self, run_id: _Optional[bytes] = ..., progress_steps: _Optional[float] = ..., sketch: _Optional[_Iterable[float]] = ..., norms: _Optional[_Iterable[_Union[GroupNorm, _Mapping]]] = ...) -> None: ...

class GroupNorm(_message.Message):
    __slots__ = ("group", "norm")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    group: str
    norm: float
    def __init__(self, group: _Optional[str] = ..., norm: _Optional[float] = ...) -> None: ...

class StateQuestion(_message.Message):
    __slots__ = ("method", "request")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    method: str
    request: bytes
    def __init__(self, method: _Optional[str] = ..., request: _Optional[bytes] = ...) -> None: ...

class StateAnswer(_message.Message):
    __slots__ = ("message", "refusal")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    message: bytes
    refusal: str
    def __init__(self, message: _Optional[bytes] = ..., refusal: _Optional[str] = ...) -> None: ...
