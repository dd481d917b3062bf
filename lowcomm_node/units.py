"""The words with a type of their own: identities, and the closed sets that travel as strings."""

from enum import StrEnum
from typing import NewType

__all__ = [
    "INVITE_PREFIX", "Codec", "Dtype", "Factor", "LinkKind", "MeetingId", "Omega", "PeerId", "Reachability", "RunId",
    "Stream", "StreamKind",
]  # fmt: skip

INVITE_PREFIX = "lowcomm-invite-"
"""How an invitation begins when it is written down."""

PeerId = NewType("PeerId", str)
"""libp2p peer id in its base58 form, e.g. ``12D3KooW...``."""

RunId = NewType("RunId", str)
"""SHA-256 of the canonical manifest, 64 hexadecimal digits."""

MeetingId = NewType("MeetingId", str)
"""128 bits that name one meeting and its retries, 32 hexadecimal digits."""


class Reachability(StrEnum):
    """How others get to a node."""

    PUBLIC = "public"
    """Anybody can dial its gRPC port."""
    HOLEPUNCHED = "holepunched"
    """Its port cannot be dialled, but libp2p has made direct connections to nodes that cannot be dialled either."""
    RELAYED = "relayed"
    """It holds a place at a libp2p relay, and no hole has been punched yet."""
    OUTBOUND_ONLY = "outbound_only"
    """It dials, and nobody dials it."""


class LinkKind(StrEnum):
    """What a meeting travels over, from its initiator to its answerer."""

    GRPC = "grpc"
    """The initiator dials the answerer's port."""
    GRPC_REVERSED = "grpc_reversed"
    """The initiator rings the answerer's bell, and the answerer dials the initiator."""
    LIBP2P = "libp2p"
    """A stream on a direct connection between the two p2pds: neither can be dialled."""


class Stream(StrEnum):
    """A part of the training state with an exchange period of its own (DES-LOC)."""

    PARAMS = "params"
    EXP_AVG = "exp_avg"
    EXP_AVG_SQ = "exp_avg_sq"
    MOMENTUM = "momentum"
    BASIS = "basis"


class StreamKind(StrEnum):
    """What the numbers of a stream are, and with it how two nodes may bring them together."""

    SIGNED = "signed"
    """Averaged as they are."""
    NON_NEGATIVE = "non_negative"
    """Second moments: averaged by their logarithm, or by a correction that keeps them positive."""
    BASIS = "basis"
    """Directions without a common gauge: never averaged; a joiner takes them over from its donor."""


class Codec(StrEnum):
    """How the difference of two replicas is coded in a meeting."""

    DENSE = "dense"
    AB = "ab"
    SPARSE = "sparse"
    RANK1 = "rank1"


class Factor(StrEnum):
    """Of a matrix that is trained as the product A B."""

    A = "a"
    B = "b"


class Omega(StrEnum):
    """Where the test matrix of a low-rank meeting comes from."""

    SEEDED = "seeded"
    """Drawn by both ends from the meeting's seed; costs no byte."""
    CACHED = "cached"
    """The right factor of the initiator's last correction, with whomever; travels in the offer."""
    DISPLACEMENT = "displacement"
    """The main directions in which the initiator has moved since its last meeting; travels in the offer."""


class Dtype(StrEnum):
    """Number format of a payload on the wire."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def bits(self) -> int:
        """Bits per number, scales apart."""
        return _BITS[self]


_BITS = {Dtype.FP32: 32, Dtype.BF16: 16, Dtype.INT8: 8, Dtype.INT4: 4}
