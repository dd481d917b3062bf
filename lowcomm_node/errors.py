"""The error tree. Each class has a stable ``code``, used as log field, metric label and exit reason."""

from enum import StrEnum

__all__ = [
    "ConfigError",
    "DataError",
    "DeviceError",
    "DirectoryError",
    "DirectoryTimeoutError",
    "DivergedError",
    "ForgivableError",
    "LinkError",
    "LowcommError",
    "NoPeerError",
    "OutOfMemoryError",
    "RefusalReason",
    "RemoteProtocolError",
    "StoreError",
    "TrainerError",
    "TrainerHangError",
    "TrainerKilledError",
    "UnfitStateError",
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


class DirectoryTimeoutError(DirectoryError):
    """The DHT did not answer in time."""


class NoPeerError(LowcommError):
    """None of the given or known peers answers."""

    code = "no_peer"


class TrainerError(LowcommError):
    """The trainer process failed or refused a request."""

    code = "trainer"


class DivergedError(LowcommError):
    """This node's state became unfit again and again, whatever it was replaced by."""

    code = "diverged"


class OutOfMemoryError(TrainerError):
    """Device or machine had not enough memory for the trainer."""

    code = "out_of_memory"


class DeviceError(TrainerError):
    """The device (CUDA) failed under the trainer."""

    code = "device"


class TrainerKilledError(TrainerError):
    """Somebody ended the trainer process, or one of its device followers, with SIGKILL, and it was not the daemon."""

    code = "killed"


class UnfitStateError(TrainerError):
    """The training state was found unfit to meet with, so the daemon has ended the trainer and begins with another state."""

    code = "unfit"


class TrainerHangError(TrainerError):
    """The trainer said nothing for too long, so the daemon has ended it."""

    code = "hang"


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
    WRONG_SENDER = "wrong_sender"
    UNPROVEN = "unproven"
    REPLAYED = "replayed"
    NOT_ADMITTED = "not_admitted"
    QUARANTINED = "quarantined"
    WRONG_CERTIFICATE = "wrong_certificate"
    TOO_MANY = "too_many"


class RemoteProtocolError(LowcommError):
    """A peer sent something it should not have sent."""

    code = "remote_protocol"

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class ForgivableError(RemoteProtocolError):
    """What a peer sent is refused, but a node that runs as it should may send it too: it is no offence, whatever its reason."""


class LinkError(LowcommError):
    """A connection to a peer that could not be made or ended early."""

    code = "link"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
