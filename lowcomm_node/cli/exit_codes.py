"""What the exit status of a command says; systemd and scripts decide by it whether to try again."""

from enum import IntEnum

from lowcomm_node.errors import ConfigError, DataError, DirectoryError, LinkError, LowcommError, NoPeerError, StoreError

__all__ = ["ExitCode", "exit_code_of"]


class ExitCode(IntEnum):
    """Numbers from 64 on have the meaning of BSD's sysexits, those from 128 on are shell usage for signals."""

    OK = 0
    FAILED = 1
    """Something failed that none of the others names."""
    USAGE = 2
    """A command line that cannot be understood."""
    NO_PEER = 69
    """No peer could be reached."""
    CANNOT_CREATE = 73
    """State cannot be written, read or trusted."""
    TEMPORARY = 75
    """The network is in the way; the same command may work later."""
    NO_PERMISSION = 77
    """The operating system does not let us read or write a file we need."""
    CONFIG = 78
    """Manifest, settings or data that cannot be used; trying again will not help."""
    INTERRUPTED = 130
    """Ctrl+C."""
    TERMINATED = 143
    """SIGTERM, before the node could leave in order."""


_BY_CLASS: tuple[tuple[type[Exception], ExitCode], ...] = (
    (ConfigError, ExitCode.CONFIG),
    (DataError, ExitCode.CONFIG),
    (StoreError, ExitCode.CANNOT_CREATE),
    (NoPeerError, ExitCode.NO_PEER),
    (DirectoryError, ExitCode.TEMPORARY),
    (LinkError, ExitCode.TEMPORARY),
    (PermissionError, ExitCode.NO_PERMISSION),
)


def exit_code_of(error: LowcommError | OSError) -> ExitCode:
    """The exit status an error ends a command with; a missing permission shows through the error it was turned into."""
    if isinstance(error.__cause__, PermissionError):
        return ExitCode.NO_PERMISSION
    for cls, code in _BY_CLASS:
        if isinstance(error, cls):
            return code
    return ExitCode.FAILED
