"""Logs: a snake_case event name plus fields, on standard error and nowhere else.

Text on a terminal, one JSON object per line otherwise; times are UTC in RFC 3339. The root logger is left
alone. Libraries that log through the standard library are routed here, and so are our adapters, which know nothing of
this module, with WARNING as their quietest level unless everything is asked for: their INFO is about themselves, not
about the node.
"""

import logging
import sys
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

__all__ = ["configure", "get_logger", "route_libraries"]

_LIBRARIES = ("lowcomm_node", "hivemind", "grpc", "asyncio")
_KEPT_LEVELS = ("warning", "error", "critical")
_KEPT_CHARACTERS = 500
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(
    level: str,
    log_format: str,
    *,
    stream: TextIO | None = None,
    on_message: Callable[[str], None] | None = None,
    recent: deque[dict[str, str]] | None = None,
) -> None:
    """Set up logging for this process; called by the process's own entry point, never by a library.

    ``level`` and ``log_format`` are the words of ``settings.node.LogSettings``. ``on_message`` gets the level
    of each message that is written, in the thread that wrote it. ``recent``, bounded by its maker, gets those from
    warning on, each field as a text of bounded length.
    """
    target = sys.stderr if stream is None else stream
    is_text = log_format == "text" or (log_format == "auto" and target.isatty())
    processors: list[Processor] = [structlog.processors.add_log_level]
    if on_message is not None:
        processors.append(_counting(on_message))
    processors.append(structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"))
    if recent is not None:
        processors.append(_keeping(recent))
    if is_text:
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=target.isatty(),
                timestamp_key="time",
                exception_formatter=structlog.dev.plain_traceback,
            )
        )
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=target),
        # A cached logger would keep the processors of the configuration before.
        cache_logger_on_first_use=False,
    )
    route_libraries(level)


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
            get_logger(record.name).log(
                _our_level(record.levelno),
                "library_message",
                message=record.getMessage(),
                exc_info=record.exc_info,
            )
        except Exception:  # noqa: BLE001 - a message that cannot be formatted must not harm the caller
            self.handleError(record)


def _our_level(level: int) -> int:
    """The nearest named level at or below; hivemind and p2pd use numbers in between."""
    return max(logging.DEBUG, min(logging.CRITICAL, level // 10 * 10))


def _counting(on_message: Callable[[str], None]) -> Processor:
    def count(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        on_message(event["level"])
        return event

    return count


def _keeping(recent: deque[dict[str, str]]) -> Processor:
    def keep(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event["level"] in _KEPT_LEVELS:
            recent.append({key: str(value)[:_KEPT_CHARACTERS] for key, value in event.items()})
        return event

    return keep
