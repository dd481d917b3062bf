"""Bounds on what is read from a peer, known before the first byte of it is read."""

__all__ = [
    "CHUNK_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_MANIFEST_BYTES",
    "MAX_RECORD_BYTES",
    "MAX_REQUEST_BYTES",
]

CHUNK_BYTES = 256 * 1024
"""Payload bytes per frame: small enough for the event loop, large enough for line rate."""

MAX_HEADER_BYTES = 1024 * 1024
"""A frame that is not a chunk: plans of a few thousand tensors fit many times over."""

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""gRPC's own message limit, where a node has asked for what comes."""

MAX_REQUEST_BYTES = MAX_HEADER_BYTES + 1024
"""The same, where a peer begins: a frame of a meeting is the largest."""

MAX_MANIFEST_BYTES = 256 * 1024

MAX_RECORD_BYTES = 1024
"""A signed member record is under 300 bytes."""
