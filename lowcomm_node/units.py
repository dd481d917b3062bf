"""The words with a type of their own: identities, and the closed sets that travel as strings."""

from enum import StrEnum
from typing import NewType

__all__ = ["Codec", "Dtype", "MeetingId", "PeerId", "RunId", "Stream"]

PeerId = NewType("PeerId", str)
"""libp2p peer id in its base58 form, e.g. ``12D3KooW...``."""

RunId = NewType("RunId", str)
"""SHA-256 of the canonical manifest, 64 hexadecimal digits."""

MeetingId = NewType("MeetingId", str)
"""128 bits that name one meeting and its retries, 32 hexadecimal digits."""


class Stream(StrEnum):
    """A part of the training state with an exchange period of its own (DES-LOC)."""

    PARAMS = "params"
    EXP_AVG = "exp_avg"
    EXP_AVG_SQ = "exp_avg_sq"


class Codec(StrEnum):
    """How the difference of two replicas is coded in a meeting."""

    DENSE = "dense"
    AB = "ab"
    RANK1 = "rank1"


class Dtype(StrEnum):
    """Number format of a payload on the wire."""

    FP32 = "fp32"
    BF16 = "bf16"

    @property
    def itemsize(self) -> int:
        """Bytes per number."""
        return 4 if self is Dtype.FP32 else 2
