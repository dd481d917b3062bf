"""The error tree. Each class has a stable ``code``, used as log field, metric label and exit reason."""

from enum import StrEnum

__all__ = [
    "ConfigError",
    "DataError",
    "DirectoryError",
    "DivergedError",
    "LinkError",
    "LowcommError",
    "NoPeerError",
    "RefusalReason",
    "RemoteProtocolError",
    "StoreError",
    "TrainerError",
]


class LowcommError(Exception):
    """Base of everything this package raises on purpose."""

    code = "internal"


class ConfigError(LowcommError):
    """A manifest or settings value that cannot be used; the message names file, key and cure."""

    code = "config"


class DataError(LowcommError):
    """Training data that is missing, unreadable or too small."""

    code = "data"


class StoreError(LowcommError):
    """A file of ours that cannot be written, read or trusted."""

    code = "store"


class DirectoryError(LowcommError):
    """The DHT cannot be started or used."""

    code = "directory"


class NoPeerError(LowcommError):
    """None of the given or known peers answers."""

    code = "no_peer"


class TrainerError(LowcommError):
    """The trainer process failed or refused a request."""

    code = "trainer"


class DivergedError(LowcommError):
    """This node's state became unfit again and again, whatever it was replaced by."""

    code = "diverged"


class RefusalReason(StrEnum):
    """Why something a peer sent was refused; same words on the wire, in metrics and in logs."""

    WRONG_RUN = "wrong_run"
    WRONG_PROTOCOL = "wrong_protocol"
    WRONG_RECEIVER = "wrong_receiver"
    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    CHECKSUM = "checksum"
    NONFINITE = "nonfinite"
    UNKNOWN_MEETING = "unknown_meeting"
    EXPIRED = "expired"
    NOT_READY = "not_ready"
    LEAVING = "leaving"


class RemoteProtocolError(LowcommError):
    """A peer sent something it should not have sent."""

    code = "remote_protocol"

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class LinkError(LowcommError):
    """A connection to a peer that could not be made or ended early."""

    code = "link"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
