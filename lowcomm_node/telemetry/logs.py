"""Logs: a snake_case event name plus fields, on standard error and nowhere else.

Text on a terminal, logfmt with priorities where standard error is the journal, one JSON object per line otherwise; times are
UTC in RFC 3339. The root logger is left alone. Libraries that log through the standard library are routed here, and so are our
adapters, which know nothing of this module, with WARNING as their quietest level unless everything is asked for: their INFO is
about themselves, not about the node.
"""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from lowcomm_node.telemetry.log_processors import (
    counting,
    event_of_template,
    holding_back_repeats,
    keeping,
    with_priority,
    without_secrets,
)

__all__ = ["configure", "get_logger", "is_journal", "route_libraries"]

_OURS = "lowcomm_node"
_LIBRARIES = (_OURS, "hivemind", "grpc", "asyncio")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(
    level: str,
    log_format: str,
    *,
    stream: TextIO | None = None,
    on_message: Callable[[str], None] | None = None,
    recent: deque[dict[str, str]] | None = None,
    environ: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Set up logging for this process; called by the process's own entry point, never by a library.

    ``level`` and ``log_format`` are the words of ``settings.node.LogSettings``. ``on_message`` gets the level
    of each message that is written, in the thread that wrote it. ``recent``, bounded by its maker, gets those from
    info on, each field as a text of bounded length. ``environ`` tells whether the stream is systemd's journal; ``clock`` says
    when repeats may be told again.
    """
    target = sys.stderr if stream is None else stream
    in_journal = is_journal(target, environ or {})
    if log_format == "auto":
        log_format = "logfmt" if in_journal else "text" if target.isatty() else "json"
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,  # before secrets are looked for: an error's text may hold one
        without_secrets,
        holding_back_repeats(clock),
    ]
    if on_message is not None:
        processors.append(counting(on_message))
    if not in_journal or log_format == "json":  # the journal knows when it was
        processors.append(structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"))
    if recent is not None:
        processors.append(keeping(recent))
    renderer = _renderer(log_format, has_colours=target.isatty())
    processors.append(with_priority(renderer) if in_journal else renderer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=target),
        # A cached logger would keep the processors of the configuration before.
        cache_logger_on_first_use=False,
    )
    route_libraries(level)


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Does what is written there go straight into systemd's journal? The manager says which file that is (systemd.exec(5))."""
    try:
        device, inode = (int(number) for number in environ.get("JOURNAL_STREAM", "").split(":"))
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (found.st_dev, found.st_ino) == (device, inode)


def _renderer(log_format: str, *, has_colours: bool) -> structlog.dev.ConsoleRenderer | Callable[..., str | bytes]:
    match log_format:
        case "text":
            return structlog.dev.ConsoleRenderer(
                colors=has_colours, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
            )
        case "logfmt":
            return structlog.processors.LogfmtRenderer(
                key_order=("time", "level", "event", "component"), drop_missing=True, bool_as_flag=False
            )
        case _:
            return structlog.processors.JSONRenderer(default=str)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose messages carry ``component=name``; may be made before ``configure`` is called."""
    logger: FilteringBoundLogger = structlog.get_logger(component=name)
    return logger


def route_libraries(level: str) -> None:
    """Send what libraries log the same way as our own messages.

    Call it again after importing hivemind: the import attaches a handler of its own to hivemind's logger.
    """
    quietest = logging.DEBUG if level == "debug" else max(_LEVELS[level], logging.WARNING)
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        for handler in tuple(library.handlers):
            library.removeHandler(handler)
        library.addHandler(_ToStructlog())
        library.disabled = False  # as whoever configures logging from a file leaves all that are there
        library.setLevel(quietest)
        library.propagate = False


class _ToStructlog(logging.Handler):
    """Turns a standard library record into a message of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            ours = event_of_template(record.msg, record.args) if record.name.startswith(_OURS) else None
            event, fields = ours or ("library_message", {"message": record.getMessage()})
            get_logger(record.name).log(_our_level(record.levelno), event, **fields, exc_info=record.exc_info)
        except Exception:  # noqa: BLE001 - a message that cannot be formatted must not harm the caller
            self.handleError(record)


def _our_level(level: int) -> int:
    """The nearest named level at or below; hivemind and p2pd use numbers in between."""
    return max(logging.DEBUG, min(logging.CRITICAL, level // 10 * 10))
