"""Logs: their two forms, the level filter, and libraries' messages among ours."""

import io
import json
import logging
import os
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import structlog

from lowcomm_node.telemetry.logs import configure, get_logger, is_journal, route_libraries


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


def test_logfmt_is_one_line_of_pairs() -> None:
    """For tools that read that; a traceback is inside its line."""
    stream = io.StringIO()
    configure("info", "logfmt", stream=stream)

    try:
        raise ValueError("on\npurpose")
    except ValueError:
        get_logger("daemon").exception("trainer_lost", exit_status=1)

    (line,) = stream.getvalue().splitlines()
    assert line.startswith("time=")
    assert "level=error event=trainer_lost component=daemon" in line
    assert "exit_status=1" in line


def test_in_the_journal_lines_have_priorities_and_no_time(tmp_path: Path) -> None:
    """When the manager says that standard error is the journal; it knows when a message was written."""
    with (tmp_path / "journal").open("w+") as stream:
        found = os.fstat(stream.fileno())
        configure("debug", "auto", stream=stream, environ={"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        log = get_logger("daemon")
        log.debug("one_thing")
        log.info("one_thing")
        log.warning("one_thing")
        log.error("one_thing", detail="two\nlines")
        stream.seek(0)
        lines = stream.read().splitlines()

    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>"]
    assert lines[1] == "<6>level=info event=one_thing component=daemon"


def test_every_line_of_a_text_has_its_priority(tmp_path: Path) -> None:
    """The journal takes each line for a message."""
    with (tmp_path / "journal").open("w+") as stream:
        found = os.fstat(stream.fileno())
        configure("info", "text", stream=stream, environ={"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        try:
            raise ValueError("on purpose")
        except ValueError:
            get_logger("daemon").exception("trainer_lost")
        stream.seek(0)
        lines = stream.read().splitlines()

    assert len(lines) > 2
    assert {line[:3] for line in lines} == {"<3>"}


@pytest.mark.parametrize("said", ["", "1", "1:2", "a:b", "1:2:3"])
def test_another_stream_than_the_journal_gets_no_priorities(tmp_path: Path, said: str) -> None:
    """The variable is inherited by whatever is started from a service, whose output may go elsewhere."""
    with (tmp_path / "file").open("w") as stream:
        assert not is_journal(stream, {"JOURNAL_STREAM": said})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


def test_repeats_are_held_back_and_their_number_is_told() -> None:
    """A peer that sends rubbish by the second fills no disk; what else happens is still written."""
    stream, counted, now = io.StringIO(), list[str](), [0.0]
    configure("debug", "json", stream=stream, on_message=counted.append, clock=lambda: now[0])
    log = get_logger("node")

    for _ in range(1000):
        log.warning("message_rejected", reason="malformed")
    log.warning("message_rejected", reason="checksum")
    assert len(_lines(stream)) == 21
    now[0] = 61.0
    log.warning("message_rejected", reason="malformed")
    log.warning("message_rejected", reason="malformed")

    told = [line["repeats_held_back"] for line in _lines(stream) if "repeats_held_back" in line]
    assert told == [980]
    assert len(counted) == len(_lines(stream)) == 23


def test_what_was_asked_for_is_never_held_back() -> None:
    """Debug is for who wants to see everything; info is rare."""
    stream = io.StringIO()
    configure("debug", "json", stream=stream, clock=lambda: 0.0)
    for _ in range(100):
        get_logger("node").debug("meeting_completed")
        get_logger("node").info("training")

    assert len(_lines(stream)) == 200


def test_many_kinds_of_repeats_are_bounded() -> None:
    """Reasons come from closed sets and libraries' messages do not."""
    stream = io.StringIO()
    configure("warning", "json", stream=stream, clock=lambda: 0.0)
    library = logging.getLogger("hivemind")
    for number in range(600):
        library.warning("message %d", number)
    for _ in range(50):
        library.warning("message 0")

    assert len(_lines(stream)) == 600 + 20


_INVITATION = "lowcomm-invite-CgQxMjM0EAEaBAoC_-+/=="


@pytest.mark.parametrize("log_format", ["text", "logfmt", "json"])
def test_no_secret_gets_into_a_log(log_format: str) -> None:
    """Neither under a name that says so, nor inside a text, an error, a list, a library's message, or what a dump would hold."""
    stream, recent = io.StringIO(), deque[dict[str, str]](maxlen=100)
    configure("info", log_format, stream=stream, recent=recent)
    log = get_logger("daemon")
    pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIE\n-----END PRIVATE KEY-----"

    log.warning("told", token="s3cret", invite="s3cret", private_key=b"s3cret", detail=f"read {_INVITATION} and {pem}")
    log.warning("listed", arguments=["join", "--invite", _INVITATION])
    logging.getLogger("grpc").error("refused %s", _INVITATION)
    try:
        raise ValueError(f"cannot use {_INVITATION}")
    except ValueError:
        log.exception("failed")

    for text in (stream.getvalue(), str(recent)):
        assert text.count("(hidden)") >= 8
        for secret in ("s3cret", "CgQxMjM0", "MC4CAQAw"):
            assert secret not in text


def test_adapters_events_have_fields_too() -> None:
    """They speak the standard library's language, in our words."""
    stream = io.StringIO()
    configure("info", "json", stream=stream)

    adapter = logging.getLogger("lowcomm_node.adapters.hivemind_directory")
    adapter.warning("p2pd_died exit_code=%s restarts=%s", -9, 2)
    adapter.error("bell_fault", exc_info=ValueError("x"))
    logging.getLogger("hivemind").warning("p2pd_died exit_code=%s", 1)

    first, second, third = _lines(stream)
    assert (first["event"], first["exit_code"], first["restarts"]) == ("p2pd_died", -9, 2)
    assert second["event"] == "bell_fault"
    assert "ValueError: x" in str(second["exception"])
    assert (third["event"], third["message"]) == ("library_message", "p2pd_died exit_code=1")
