"""What a log message passes on its way out: secrets taken out, repeats held back, counted, kept for a dump, given a priority.

A message is a mapping of fields with ``event``, ``component`` and ``level``; each of these makes another of it, or drops it.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog
from structlog.typing import Processor, WrappedLogger

__all__ = ["counting", "event_of_template", "holding_back_repeats", "keeping", "with_priority", "without_secrets"]

_KEPT_LEVELS = ("info", "warning", "error", "critical")
_KEPT_CHARACTERS = 500
_BURST = 20
"""Messages of one kind a minute that everybody may want to read; an attacker causes as many as he likes."""
_WINDOW_S = 60.0
_MAX_KINDS = 512
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog's, as systemd reads them (sd-daemon(3))."""
_SECRET_FIELD = re.compile(r"(^|_)(token|secret|password|invite|invitation|private|key)($|_)", re.IGNORECASE)
_SECRET = re.compile(
    r"lowcomm-invite-[A-Za-z0-9_\-+/=]+"  # an invitation is worth a place in a run
    r"|-----BEGIN[^-]*PRIVATE KEY-----.*?(-----END[^-]*-----|\Z)",
    re.DOTALL,
)
_HIDDEN = "(hidden)"
_TEMPLATE = re.compile(r"([a-z][a-z0-9]*(?:_[a-z0-9]+)+)((?: \w+=%[sdr])*)")
_TEMPLATE_FIELD = re.compile(r" (\w+)=%")

_Fields = MutableMapping[str, Any]


def without_secrets(_logger: WrappedLogger, _method: str, event: _Fields) -> _Fields:
    """Nothing that opens anything gets into a log, whoever has put it into a message, and however deep in an error's text."""
    for key, value in event.items():
        if _SECRET_FIELD.search(key):
            event[key] = _HIDDEN
        elif isinstance(value, str):
            event[key] = _SECRET.sub(_HIDDEN, value)
        elif not isinstance(value, int | float | bool | None):
            text = str(value)
            if _SECRET.search(text):
                event[key] = _SECRET.sub(_HIDDEN, text)
    return event


def holding_back_repeats(clock: Callable[[], float]) -> Processor:
    """Warnings and errors of one kind (event, component, reason): so many a minute, then none, and how many there were.

    What is only told on request (debug) or rarely (info) is never held back. The number stands as ``repeats_held_back`` in
    the first message of the kind that comes through again.
    """
    kinds: OrderedDict[tuple[str, str, str], tuple[float, int]] = OrderedDict()

    def hold_back(_logger: WrappedLogger, _method: str, event: _Fields) -> _Fields:
        if event["level"] not in ("warning", "error"):
            return event
        words = event.get("message", event["event"]) if event["event"] == "library_message" else event["event"]
        kind = (str(words)[:80], str(event.get("component", "")), str(event.get("reason", "")))
        now = clock()
        began_at, count = kinds.get(kind, (now, 0))
        if now - began_at >= _WINDOW_S:
            if count > _BURST:
                event["repeats_held_back"] = count - _BURST
            began_at, count = now, 0
        kinds[kind] = (began_at, count + 1)
        kinds.move_to_end(kind)
        if len(kinds) > _MAX_KINDS:
            kinds.popitem(last=False)
        if count >= _BURST:
            raise structlog.DropEvent
        return event

    return hold_back


def counting(on_message: Callable[[str], None]) -> Processor:
    """Tell the level of each message that is written."""

    def count(_logger: WrappedLogger, _method: str, event: _Fields) -> _Fields:
        on_message(event["level"])
        return event

    return count


def keeping(recent: deque[dict[str, str]]) -> Processor:
    """Keep those from info on, each field as a text of bounded length."""

    def keep(_logger: WrappedLogger, _method: str, event: _Fields) -> _Fields:
        if event["level"] in _KEPT_LEVELS:
            recent.append({key: str(value)[:_KEPT_CHARACTERS] for key, value in event.items()})
        return event

    return keep


def with_priority(render: Callable[[WrappedLogger, str, _Fields], str | bytes]) -> Processor:
    """Each line of what ``render`` makes, behind the ``<N>`` from which the journal takes its priority."""

    def prefix(logger: WrappedLogger, method: str, event: _Fields) -> str:
        number = _PRIORITIES[event["level"]]
        text = render(logger, method, event)
        lines = (text.decode() if isinstance(text, bytes) else text).splitlines() or [""]
        return "\n".join(f"<{number}>{line}" for line in lines)

    return prefix


def event_of_template(template: object, arguments: object) -> tuple[str, Mapping[str, object]] | None:
    """Event and fields of a standard library message whose template is ``some_event field=%s other=%d``; None of any other.

    That is how our adapters speak, which know nothing of structured logging.
    """
    match = _TEMPLATE.fullmatch(template) if isinstance(template, str) else None
    if match is None:
        return None
    names = _TEMPLATE_FIELD.findall(match[2])
    values = arguments if isinstance(arguments, tuple) else (arguments,) if names else ()
    if len(names) != len(values):
        return None
    return match[1], {
        name: value if isinstance(value, int | float | bool | None) else str(value)
        for name, value in zip(names, values, strict=True)
    }
