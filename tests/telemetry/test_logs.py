"""Logs: their two forms, the level filter, and libraries' messages among ours."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest
import structlog

from lowcomm_node.telemetry.logs import configure, get_logger, route_libraries


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    libraries = [logging.getLogger(name) for name in ("hivemind", "grpc", "asyncio")]
    before = [(library, tuple(library.handlers), library.level, library.propagate) for library in libraries]
    yield
    structlog.reset_defaults()
    for library, handlers, level, propagate in before:
        library.handlers[:] = handlers
        library.setLevel(level)
        library.propagate = propagate


def _lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_event_fields_and_utc_time() -> None:
    """Away from a terminal each message is one JSON object, with an RFC 3339 time in UTC."""
    stream = io.StringIO()
    configure("info", "auto", stream=stream)

    get_logger("daemon").info("meeting_completed", partner="12D3", duration_s=0.5)

    (line,) = _lines(stream)
    assert (line["event"], line["component"], line["level"]) == ("meeting_completed", "daemon", "info")
    assert (line["partner"], line["duration_s"]) == ("12D3", 0.5)
    assert str(line["time"]).endswith("Z")
    offset = datetime.fromisoformat(str(line["time"])).utcoffset()
    assert offset is not None
    assert offset.total_seconds() == 0


def test_a_terminal_gets_text() -> None:
    """On a terminal a message is a line for people, not JSON."""
    stream = Terminal()
    configure("info", "auto", stream=stream)

    get_logger("daemon").info("meeting_completed", partner="12D3")

    assert "meeting_completed" in stream.getvalue()
    assert "12D3" in stream.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(stream.getvalue())


def test_a_wished_format_beats_the_terminal() -> None:
    """``json`` on a terminal is JSON, ``text`` in a file is text without colours."""
    terminal, file = Terminal(), io.StringIO()
    configure("info", "json", stream=terminal)
    get_logger("daemon").info("started")
    configure("info", "text", stream=file)
    get_logger("daemon").info("started")

    assert _lines(terminal)[0]["event"] == "started"
    assert "started" in file.getvalue()
    assert "\x1b" not in file.getvalue()


def test_quieter_levels_are_neither_written_nor_counted() -> None:
    """The callback sees the level of what is written, nothing of what is not."""
    stream, counted = io.StringIO(), list[str]()
    configure("warning", "json", stream=stream, on_message=counted.append)

    log = get_logger("daemon")
    log.info("unheard")
    log.warning("heard")
    log.error("heard_too")

    assert [line["event"] for line in _lines(stream)] == ["heard", "heard_too"]
    assert counted == ["warning", "error"]


def test_a_logger_made_before_configuration_obeys_it() -> None:
    """Module-level loggers exist before the command line has been read."""
    early = get_logger("early")
    stream = io.StringIO()

    configure("info", "json", stream=stream)
    early.debug("unheard")
    early.info("heard")

    assert [line["event"] for line in _lines(stream)] == ["heard"]


def test_an_exception_is_inside_its_line() -> None:
    """One message stays one line, whatever the traceback."""
    stream, counted = io.StringIO(), list[str]()
    configure("info", "json", stream=stream, on_message=counted.append)

    try:
        raise ValueError("on purpose")
    except ValueError:
        get_logger("daemon").exception("trainer_lost")

    (line,) = _lines(stream)
    assert "on purpose" in str(line["exception"])
    assert counted == ["error"]


def test_libraries_are_routed_and_the_root_logger_is_left_alone() -> None:
    """A library's warning comes out as ours, once; its info is not for our readers; the root keeps its handlers."""
    root_handlers = tuple(logging.getLogger().handlers)
    stream, counted = io.StringIO(), list[str]()
    configure("info", "json", stream=stream, on_message=counted.append)
    logging.getLogger("grpc").disabled = True
    logging.getLogger("hivemind").addHandler(logging.StreamHandler(io.StringIO()))
    route_libraries("info")

    logging.getLogger("hivemind.dht").info("chatter %d", 1)
    logging.getLogger("hivemind.dht").warning("lost %s", "a peer")
    logging.getLogger("grpc").error("refused")
    logging.getLogger("lowcomm_node.adapters.grpc_link").warning("a port is taken")

    lines = _lines(stream)
    assert [(line["component"], line["message"]) for line in lines] == [
        ("hivemind.dht", "lost a peer"),
        ("grpc", "refused"),
        ("lowcomm_node.adapters.grpc_link", "a port is taken"),
    ]
    assert counted == ["warning", "error", "warning"]
    assert len(logging.getLogger("hivemind").handlers) == 1
    assert tuple(logging.getLogger().handlers) == root_handlers
