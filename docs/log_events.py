"""The page ``docs/log-events.md``, made from the calls in the source: every event with its levels, fields and places.

python docs/log_events.py > docs/log-events.md      (``make docs``)
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Event", "events", "page"]

_PACKAGE = Path(__file__).resolve().parent.parent / "lowcomm_node"
_LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
_ORDER = ("error", "warning", "info", "debug")
_TEMPLATE = re.compile(r"([a-z][a-z0-9]*(?:_[a-z0-9]+)*)((?: \w+=%[sdr])*)")
_HEAD = """# Log events

Generated from the source by `python docs/log_events.py`; do not edit. How logs are written is in
[observability.md](observability.md).

Every message has `event`, `level`, `component` and `time` (in systemd's journal its own), besides the fields below; one at level
error may have `exception`. What libraries say comes as `library_message` with their words in `message`. Warnings and errors of one
kind (event, component, reason) are written 20 times a minute at most; the next one says in `repeats_held_back` how many were not.

| event | level | fields | said by |
|---|---|---|---|
"""


@dataclass(slots=True)
class Event:
    """One name, wherever it is said."""

    levels: set[str] = field(default_factory=set)
    fields: dict[str, None] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)


def events(package: Path = _PACKAGE) -> dict[str, Event]:
    """All events of the package by name."""
    found: dict[str, Event] = {}
    for path in sorted(package.rglob("*.py")):
        place = ".".join(path.relative_to(package).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            for name, level, fields in _said_in(function):
                event = found.setdefault(name, Event())
                event.levels.add(level)
                event.fields |= dict.fromkeys(fields)
                event.places.add(place)
    return dict(sorted(found.items()))


def page() -> str:
    """The page, in Markdown."""
    rows = [
        f"| `{name}` | {', '.join(level for level in _ORDER if level in event.levels)} | {' '.join(event.fields)} "
        f"| {', '.join(f'`{place}`' for place in sorted(event.places))} |"
        for name, event in events().items()
    ]
    return _HEAD + "\n".join(rows) + "\n"


def _said_in(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str, list[str]]]:
    for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
        level = _level_of(call.func)
        if level is None or not call.args or not isinstance(call.args[0], ast.Constant):
            continue
        match = _TEMPLATE.fullmatch(str(call.args[0].value))
        if match is None:
            continue
        names = re.findall(r"(\w+)=%", match[2])
        for keyword in call.keywords:
            if keyword.arg is None and isinstance(keyword.value, ast.Name):
                names += _keys_put_into(function, keyword.value.id)
            elif keyword.arg is not None and keyword.arg != "exc_info":
                names.append(keyword.arg)
        yield match[1], level, names or (["path", "detail"] if _is_care(call.func) else [])


def _level_of(function: ast.expr) -> str | None:
    if _is_care(function):
        return "warning"
    if not isinstance(function, ast.Attribute) or function.attr not in _LEVELS:
        return None
    owner = function.value
    if isinstance(owner, ast.Call):  # get_logger("node").info(...)
        owner = owner.func
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return _LEVELS[function.attr] if name in ("log", "_log", "get_logger") else None


def _is_care(function: ast.expr) -> bool:
    """The checkpoint store says what needs care through a callable of the recorder's."""
    return isinstance(function, ast.Attribute) and function.attr == "_warn"


def _keys_put_into(function: ast.AST, name: str) -> list[str]:
    """Keys of a dictionary that is filled in the same function."""
    keys: list[ast.expr | None] = []
    for node in ast.walk(function):
        match node:
            case ast.AnnAssign(target=ast.Name(id=filled), value=ast.Dict() as given) if filled == name:
                keys += given.keys
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=filled), slice=key)]) if filled == name:
                keys.append(key)
    return [str(key.value) for key in keys if isinstance(key, ast.Constant)]


if __name__ == "__main__":
    sys.stdout.write(page())
