"""From nested mappings to settings dataclasses, strictly: nothing is guessed, nothing unknown is skipped.

Each problem is one sentence with the source, the full key, what is allowed and the nearest
known name; all problems of a document are reported together.
"""

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, TypeVar

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.rules import JsonObject, ValueRefusedError
from lowcomm_node.settings.schema import Key, Section, keys_of, nearest, section_of

__all__ = ["assemble", "build", "collect", "raise_problems", "read_manifest", "read_toml", "toml_value"]

_T = TypeVar("_T")

_MAX_PROBLEMS = 20
"""Problems listed for one source; a peer's manifest may be nothing but problems."""

_MAX_NAME = 100
"""Characters of an unknown name that are compared with the known ones, and shown."""

_OTHER_DOCUMENT: Mapping[type[Any], tuple[type[Any], str]] = {
    Manifest: (NodeSettings, "a node setting, not part of a run manifest; put it into the node's config.toml"),
    NodeSettings: (Manifest, "part of the run manifest, the same for all nodes, not a node setting"),
}


def build(cls: type[_T], mapping: Mapping[str, object], file_name: str) -> _T:
    """Make a ``cls`` from nested mappings; keys that are left out get their defaults.

    Types are checked (a whole number is accepted for a float, true and false never for a
    number), then each value's rule, then the ``check`` of each section and of the whole.
    Raises ConfigError that lists every problem, each with ``file_name`` and the full key.
    """
    problems: list[str] = []
    values = collect(cls, mapping, file_name, problems)
    raise_problems(problems)
    return assemble(cls, values, lambda _key: file_name)


def collect(cls: type[Any], mapping: Mapping[str, object], source: str, problems: list[str]) -> dict[str, object]:
    """Check each key of one source by itself; returns the good values by dotted key, appends the bad to ``problems``."""
    values: dict[str, object] = {}
    _collect(section_of(cls), mapping, source, problems, values, cls)
    return values


def assemble(cls: type[_T], values: Mapping[str, object], source_of: Callable[[str], str]) -> _T:
    """Make a ``cls`` of checked values by dotted key, and run the checks that look at several keys.

    Raises ConfigError whose message starts with ``source_of`` the key that is refused.
    """
    problems: list[str] = []
    instance = _assemble(section_of(cls), values, source_of, problems)
    if not problems:
        _run_check(instance, source_of, problems)
    raise_problems(problems)
    if not isinstance(instance, cls):
        raise TypeError(cls)
    return instance


def raise_problems(problems: list[str]) -> None:
    """Raise one ConfigError for all of ``problems``; nothing when there are none."""
    if len(problems) > 1:
        raise ConfigError("\n  ".join([f"{len(problems)} problems:", *problems]))
    if problems:
        raise ConfigError(problems[0])


def read_toml(path: Path) -> dict[str, object]:
    """Parse a TOML file. Raises ConfigError naming the file, for a syntax error also line and column."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_error(path, str(error))) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not usable as TOML: {error}") from error


def read_manifest(path: Path) -> Manifest:
    """Read a run manifest from a TOML file. Raises ConfigError."""
    return build(Manifest, read_toml(path), str(path))


def toml_value(value: object) -> str:
    """A value as it would be written in a TOML file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if '"' in value and "'" not in value and value.isprintable():
            return f"'{value}'"
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return str(value)


def _syntax_error(path: Path, message: str) -> str:
    place = re.fullmatch(r"(?P<what>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)", message, re.DOTALL)
    if place is None:
        return f"{path}: not valid TOML: {message}"
    return f"{path}, line {place['line']}, column {place['column']}: not valid TOML: {place['what']}"


def _collect(
    section: Section,
    mapping: Mapping[str, object],
    source: str,
    problems: list[str],
    values: dict[str, object],
    document: type[Any],
) -> None:
    for name, value in mapping.items():
        if len(problems) >= _MAX_PROBLEMS:
            return
        entry = section.entries.get(name)
        if entry is None:
            problems.append(f"{source}: {_unknown(section, name, value, document)}")
        elif isinstance(entry, Section):
            if isinstance(value, Mapping):
                _collect(entry, value, source, problems, values, document)
            else:
                problems.append(f"{source}: {entry.dotted} = {_shown(value)} must be a table, written [{entry.dotted}]")
        else:
            try:
                values[entry.dotted] = _checked(entry, value)
            except ValueError as error:
                problems.append(f"{source}: {error}")


def _checked(key: Key, value: object) -> object:
    """The value in the key's own type. Raises ValueError with the sentence to show."""
    typed = _typed(key, value)
    if typed is None or (key.rule is not None and not key.rule.allows(typed)):
        raise ValueError(f"{key.dotted} = {_shown(value)} is not allowed; allowed: {key.allowed}")
    texts = typed if isinstance(typed, tuple) else (typed,)
    if any(isinstance(text, str) and not text.isprintable() for text in texts):
        raise ValueError(f"{key.dotted} = {_shown(value)} has characters that cannot be printed; remove them")
    return typed


def _typed(key: Key, value: object) -> object | None:
    """``value`` as the key's type, or None when it is of another one."""
    if key.type is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value) + 0.0  # -0.0 becomes 0.0: equal values must have one canonical form
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
    if key.type == tuple[str, ...]:
        is_list = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        return tuple(value) if is_list and isinstance(value, list | tuple) else None
    if isinstance(key.rule, JsonObject):
        return key.rule.text_of(value)
    if key.type is int and isinstance(value, bool):
        return None
    return value if isinstance(value, key.type) else None


def _shown(value: object) -> str:
    """A refused value, short, in TOML's own spelling."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, datetime | date | time):
        return f"{value} (a date or time)"
    try:
        text = toml_value(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists nested a thousand deep
        return "a value too large to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown(section: Section, name: str, value: object, document: type[Any]) -> str:
    dotted = f"{section.dotted}.{name}" if section.dotted else name
    what = "section" if isinstance(value, Mapping) else "key"
    shown = dotted if dotted.isprintable() and len(dotted) <= _MAX_NAME else _shown(dotted)
    hint = _hint(section, name, dotted, document) if len(dotted) <= _MAX_NAME else ""
    known = f"known in {section}: {', '.join(section.entries)}"
    return f"unknown {what} {shown}; {hint}{known}"


def _hint(section: Section, name: str, dotted: str, document: type[Any]) -> str:
    other, place = _OTHER_DOCUMENT.get(document, (None, ""))
    if other is not None and (dotted in keys_of(other) or dotted in section_of(other).entries):
        return f"it is {place}; "
    keys = keys_of(document)
    prefix = f"{section.dotted}." if section.dotted else ""
    close = nearest(name, section.entries)
    guesses = [f"{prefix}{close}"] if close else [key for key in keys if key.rpartition(".")[2] == name]
    if not guesses:
        close = nearest(dotted, keys)
        guesses = [close] if close else []
    return f"did you mean {' or '.join(guesses)}? " if guesses else ""


def _assemble(
    section: Section, values: Mapping[str, object], source_of: Callable[[str], str], problems: list[str]
) -> object:
    arguments: dict[str, object] = {}
    for name, entry in section.entries.items():
        if isinstance(entry, Key):
            arguments[name] = values.get(entry.dotted, entry.default)
        else:
            part = _assemble(entry, values, source_of, problems)
            _run_check(part, source_of, problems)
            arguments[name] = part
    instance: object = section.cls(**arguments)
    return instance


def _run_check(instance: object, source_of: Callable[[str], str], problems: list[str]) -> None:
    check = getattr(instance, "check", None)
    if check is None:
        return
    try:
        check()
    except ValueRefusedError as error:
        problems.append(f"{source_of(error.key)}: {error}")
