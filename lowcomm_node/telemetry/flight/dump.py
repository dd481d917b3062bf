"""The dump file: one JSON document, with a line of its own for each event, so that people and line tools can read it.

* ``format``, ``version``: of the file.
* ``header``: what was running where, and why this was written; for people, never needed to run it.
* ``states``: the core's memory (``telemetry.flight.state``) under ``parts``, before the event whose number is ``before``.
* ``draws``: what each chance drew after the first state, hexadecimal.
* ``entries``: number ``n``, time ``now``, ``event`` and ``commands``; and ``raised`` where the core failed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast, get_args

from lowcomm_node.core.commands import Command
from lowcomm_node.core.events import Event
from lowcomm_node.telemetry.flight.recorder import Entry, Recording
from lowcomm_node.telemetry.flight.redaction import redacted
from lowcomm_node.telemetry.flight.state import State
from lowcomm_node.telemetry.flight.values import DumpError, Tree, decode, encode

__all__ = ["MAX_DUMP_BYTES", "Dump", "dump_text", "read_dump"]

MAX_DUMP_BYTES = 256 << 20

_FORMAT = "lowcomm-node flight recorder"
_VERSION = 1
_MAX_NOW_S = 1e12
"""No clock reads more, and differences of such times are numbers still."""
_TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """A file that was read."""

    header: Mapping[str, Tree]
    recording: Recording | None
    """None: the node had no core yet."""


def dump_text(
    header: Mapping[str, Tree], recording: Recording | None, *, names: Mapping[str, str] | None = None
) -> str:
    """The text of a dump file.

    ``names``, words of the header and what becomes of each, asks for redaction; None keeps everything.
    """
    document: dict[str, Tree] = {"header": dict(header), "states": [], "draws": {}, "entries": []}
    run_id = ""
    if recording is not None:
        document["states"] = [{"before": n, "parts": cast("Tree", parts)} for n, parts in recording.states]
        document["draws"] = {path: [t.hex() for t in tokens] for path, tokens in recording.draws.items()}
        document["entries"] = [_entry_tree(entry) for entry in recording.entries]
        run_id = _run_id(recording)
    if names is not None:
        document = redacted(document, run_id, names)
    entries = cast("list[Tree]", document.pop("entries"))
    head = json.dumps({"format": _FORMAT, "version": _VERSION, **document}, allow_nan=False)
    lines = ",\n".join(json.dumps(entry, allow_nan=False) for entry in entries)
    return f'{head[:-1]}, "entries": [\n{lines}\n]}}\n'


def read_dump(path: Path) -> Dump:
    """Read a dump file, whoever wrote it. Raises DumpError, OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_DUMP_BYTES + 1)
    if len(data) > MAX_DUMP_BYTES:
        raise DumpError(f"{path}: larger than any dump ({MAX_DUMP_BYTES >> 20} MiB)")
    try:
        return _dump_of(json.loads(data, parse_constant=_no_constant))
    except DumpError as error:
        raise DumpError(f"{path}: {error}") from None
    except RecursionError:
        raise DumpError(f"{path}: nested too deeply") from None
    except ValueError as error:  # no UTF-8, no JSON, a number of thousands of digits
        raise DumpError(f"{path}: this is no JSON document: {error}") from None


def _entry_tree(entry: Entry) -> Tree:
    tree: dict[str, Tree] = {
        "n": entry.number,
        "now": entry.now,
        "event": encode(entry.event),
        "commands": [encode(command) for command in entry.commands],
    }
    return {**tree, "raised": entry.raised} if entry.raised else tree


def _run_id(recording: Recording) -> str:
    rules = recording.states[0][1][""]["rules"]
    return str(rules["run_id"]) if isinstance(rules, dict) else ""


def _no_constant(word: str) -> NoReturn:
    raise DumpError(f"{word} is not written this way")


def _dump_of(tree: object) -> Dump:
    document = _object(tree, "the document")
    if document.get("format") != _FORMAT:
        raise DumpError("this is no dump of a lowcomm-node")
    if document.get("version") != _VERSION:
        raise DumpError(f"a dump of version {document.get('version')!r}; this lowcomm-node reads version {_VERSION}")
    header = _object(document.get("header"), "the header")
    states = [_state(item) for item in _list(document.get("states"), "states")]
    if not states:
        return Dump(header=header, recording=None)
    draws = {
        path: tuple(map(_token, _list(tokens, "draws")))
        for path, tokens in _object(document.get("draws"), "draws").items()
    }
    first = states[0][0]
    entries = [_entry(item, first + at) for at, item in enumerate(_list(document.get("entries"), "entries"))]
    return Dump(header=header, recording=Recording(states=tuple(states), draws=draws, entries=tuple(entries)))


def _entry(tree: Tree, number: int) -> Entry:
    item = _object(tree, "an entry")
    if item.get("n") != number:
        raise DumpError(f"event {number} is missing: {item.get('n')!r} stands in its place")
    now, raised = item.get("now"), item.get("raised", "")
    if type(now) not in (int, float) or not abs(cast("float", now)) < _MAX_NOW_S or not isinstance(raised, str):
        raise DumpError(f"event {number}: broken time or exception")
    try:
        event = decode(item.get("event"))
        commands = tuple(decode(command) for command in _list(item.get("commands"), "commands"))
    except DumpError as error:
        raise DumpError(f"event {number}: {error}") from None
    if not isinstance(event, get_args(Event)):
        raise DumpError(f"event {number}: {type(event).__name__} is no event")
    for command in commands:
        if not isinstance(command, get_args(Command)):
            raise DumpError(f"event {number}: {type(command).__name__} is no command")
    return Entry(
        number=number,
        now=cast("float", now),
        event=cast("Event", event),
        commands=cast("tuple[Command, ...]", commands),
        raised=raised,
    )


def _state(tree: Tree) -> tuple[int, State]:
    item = _object(tree, "a state")
    before = item.get("before")
    if type(before) is not int:
        raise DumpError("a state without its place among the events")
    parts = {path: _object(part, f"part {path!r}") for path, part in _object(item.get("parts"), "parts").items()}
    return before, parts


def _token(tree: Tree) -> bytes:
    if not isinstance(tree, str) or _TOKEN.fullmatch(tree) is None:
        raise DumpError("a draw that is not 16 hexadecimal bytes")
    return bytes.fromhex(tree)


def _object(tree: object, what: str) -> dict[str, Tree]:
    if not isinstance(tree, dict):
        raise DumpError(f"{what}: not an object")
    return tree


def _list(tree: object, what: str) -> list[Tree]:
    if not isinstance(tree, list):
        raise DumpError(f"{what}: not a list")
    return tree
