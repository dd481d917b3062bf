"""Events, commands and the core's memory as plain JSON values and back: exact, and strict on the way in.

Nothing here knows a class by name: fields and their types are read off the dataclasses of the modules below, so that
a new field or event is recorded from its first day on. JSON values stand for themselves, a list for a tuple; what
JSON has no word for is an object whose first key begins with ``$``. Payload bytes never get in: a short mark stands
in for them, which the core passes on as it would the payload.
"""

import math
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from hashlib import blake2b
from types import ModuleType, NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from lowcomm_node import errors, units
from lowcomm_node.core import (
    ab_stages,
    answerer,
    chance,
    commands,
    confirmations,
    deadlines,
    events,
    frozen,
    health,
    initiated,
    initiator,
    messages,
    node,
    partners,
    paths,
    places,
    reach,
    reluctance,
    schedule,
)
from lowcomm_node.errors import StoreError

__all__ = [
    "CLASSES", "MODULES", "PARTS", "DumpError", "StandIn", "Tree", "decode", "encode", "fits", "payload_length", "stand_in",
]  # fmt: skip

MODULES: tuple[ModuleType, ...] = (
    units, errors, events, commands, messages, node, chance, schedule, deadlines, health, paths, partners, places, reach,
    reluctance, initiated, confirmations, initiator, answerer, ab_stages, frozen,
)  # fmt: skip
"""Where everything is defined that may stand in a dump. A module of the core that keeps state belongs here."""

Tree = None | bool | int | float | str | list["Tree"] | dict[str, "Tree"]
"""What JSON can say."""

_DIGESTED_BYTES = 1024
"""Of either end of a payload: telling payloads apart is all the mark is for, and a loop waits for it."""
_MARK = re.compile(rb"(\d+ bytes [0-9a-f]{16})?")


class DumpError(StoreError):
    """A dump that cannot be read: not one of ours, of another version, cut short or changed."""

    code = "dump"


class StandIn(bytes):
    """In place of a payload: its length and a digest, as text. Empty for an empty one."""

    __slots__ = ()


def stand_in(payload: bytes) -> StandIn:
    """The mark of a payload; of a mark, itself."""
    if isinstance(payload, StandIn):
        return payload
    if not payload:
        return StandIn()
    ends = payload if len(payload) <= 2 * _DIGESTED_BYTES else payload[:_DIGESTED_BYTES] + payload[-_DIGESTED_BYTES:]
    return StandIn(b"%d bytes %s" % (len(payload), blake2b(ends, digest_size=8).hexdigest().encode()))


def payload_length(payload: bytes) -> int:
    """Bytes of a payload, or of the one that a mark stands for."""
    return int(payload.split(b" ", 1)[0] or b"0") if isinstance(payload, StandIn) else len(payload)


def _defined_in(module: ModuleType) -> list[type]:
    return [cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__]


def _name(cls: type) -> str:
    """``events.Ticked``: the last part of the module tells private classes of the same name apart."""
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__qualname__}"


CLASSES: Mapping[str, type] = {
    _name(cls): cls for module in MODULES for cls in _defined_in(module) if is_dataclass(cls) or issubclass(cls, Enum)
}
"""Dataclasses and enumerations that may be written and read, by name."""

PARTS: tuple[type, ...] = tuple(
    cls for module in MODULES for cls in _defined_in(module)
    if cls not in CLASSES.values() and not issubclass(cls, Exception)
)  # fmt: skip
"""Classes that hold state of the core; see ``telemetry.flight.state``."""


def encode(value: object) -> Tree:
    """``value`` as JSON values. Raises TypeError for a class that is not one of the core's."""
    cls: Any = type(value)
    if value is None or cls in (bool, int, str):
        return value  # type: ignore[return-value]  # narrowed by its exact class
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, bytes):
        return {"$payload": stand_in(value).decode()}
    name = _name(type(value))
    if isinstance(value, Enum) and name in CLASSES:
        return {"$": f"{name}.{value.name}"}
    if CLASSES.get(name) is cls:
        return {"$": name, **{field: encode(getattr(value, field)) for field in field_names(cls)}}
    if cls is tuple:
        return [encode(item) for item in value]  # type: ignore[attr-defined]
    return _encode_container(value)


def _encode_container(value: object) -> Tree:
    cls: Any = type(value)
    if isinstance(value, deque):
        return {"$deque": [value.maxlen, [encode(item) for item in value]]}
    if isinstance(value, list):
        return {"$list": [encode(item) for item in value]}
    if cls in (set, frozenset):
        items = [encode(item) for item in value]  # type: ignore[attr-defined]
        return {f"${cls.__name__}": sorted(items, key=repr)}  # a set has no order, a file that is compared has one
    if isinstance(value, Mapping):
        tag = "$OrderedDict" if isinstance(value, OrderedDict) else "$dict"  # whatever makes its values: see ``state``
        return {tag: [[encode(key), encode(item)] for key, item in value.items()]}
    raise TypeError(f"{cls.__module__}.{cls.__qualname__} cannot be recorded")


def decode(tree: Tree) -> object:
    """The value that ``encode`` was given, payloads apart. Raises DumpError."""
    if isinstance(tree, list):
        return tuple(decode(item) for item in tree)
    if not isinstance(tree, dict):
        if isinstance(tree, float) and not math.isfinite(tree):
            raise DumpError("a number is too large")
        return tree
    if "$" in tree:
        return _decode_named(tree)
    if len(tree) != 1:
        raise DumpError(f"an object of unknown kind with keys {_excerpt(sorted(tree))}")
    ((tag, content),) = tree.items()
    read = _READERS.get(tag)
    if read is None:
        raise DumpError(f"an object of unknown kind {_excerpt(tag)}")
    try:
        return read(content)
    except (TypeError, ValueError, AttributeError) as error:  # not hashable, not pairs, not text
        raise DumpError(f"a broken {tag}: {error}") from None


def _decode_named(tree: dict[str, Tree]) -> object:
    name = tree["$"]
    if not isinstance(name, str):
        raise DumpError(f"an object with the name {_excerpt(name)}")
    cls: Any = CLASSES.get(name)
    if cls is None or issubclass(cls, Enum):
        return _decode_member(name)
    values = {key: decode(value) for key, value in tree.items() if key != "$"}
    checks = field_checks(cls)
    for key, value in values.items():
        if key not in checks:
            raise DumpError(f"{name} has no field {_excerpt(key)} in this version")
        if not checks[key](value):
            raise DumpError(f"{name}.{key} cannot be {_excerpt(value)}")
    missing = [name for name in _required_fields(cls) if name not in values]
    if missing:
        raise DumpError(f"{name} lacks {', '.join(missing)}")
    return cls(**values)


def _decode_member(name: str) -> Enum:
    of, _, member = name.rpartition(".")
    cls = CLASSES.get(of)
    found = cls.__members__.get(member) if cls is not None and issubclass(cls, Enum) else None
    if found is None:
        raise DumpError(f"nothing in this version is called {_excerpt(name)}")
    return found


def _read_payload(content: Tree) -> StandIn:
    mark = content.encode("ascii")  # type: ignore[union-attr]  # the caller turns what comes of it into its error
    if _MARK.fullmatch(mark) is None:
        raise ValueError("no mark of a payload")
    return StandIn(mark)


def _items(content: Tree) -> list[object]:
    if not isinstance(content, list):
        raise TypeError("not a list")
    return [decode(item) for item in content]


def _read_float(content: Tree) -> float:
    if content not in ("inf", "-inf", "nan"):
        raise ValueError("only inf, -inf and nan are written this way")
    return float(content)


def _read_deque(content: Tree) -> deque[object]:
    if not isinstance(content, list) or len(content) != 2 or not isinstance(content[0], int | None):
        raise ValueError("neither length nor items")
    return deque(_items(content[1]), content[0])


def _pairs(content: Tree) -> list[tuple[object, object]]:
    return [(key, value) for key, value in cast("list[tuple[object, object]]", _items(content))]  # or ValueError


_READERS: Mapping[str, Callable[[Tree], object]] = {
    "$float": _read_float,
    "$payload": _read_payload,
    "$list": _items,
    "$set": lambda content: set(_items(content)),
    "$frozenset": lambda content: frozenset(_items(content)),
    "$dict": lambda content: dict(_pairs(content)),
    "$OrderedDict": lambda content: OrderedDict(_pairs(content)),
    "$deque": _read_deque,
}


@cache
def field_names(cls: type) -> tuple[str, ...]:
    """The fields of a dataclass."""
    return tuple(field.name for field in fields(cls))


@cache
def _required_fields(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING)


@cache
def field_checks(cls: type) -> Mapping[str, Callable[[object], bool]]:
    """For each field of a dataclass: may it hold this value? Raises TypeError for a type nobody has thought of."""
    hints = get_type_hints(cls)
    return {name: fits(hints[name]) for name in field_names(cls)}


def fits(hint: Any) -> Callable[[object], bool]:  # noqa: ANN401 - types of all kinds
    """Whether a value is of the type that ``hint`` says. Raises TypeError for a hint nobody has thought of."""
    hint = getattr(hint, "__supertype__", hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        options = [fits(option) for option in inner]
        return lambda value: any(option(value) for option in options)
    if origin is tuple and inner[1:] != (...,):
        slots = [fits(slot) for slot in inner]
        return lambda value: (
            type(value) is tuple
            and len(value) == len(slots)
            and all(slot(item) for slot, item in zip(slots, value, strict=True))
        )
    if origin in (tuple, list, set, frozenset, deque):
        item_fits = fits(inner[0])
        return lambda value: isinstance(value, origin) and all(item_fits(item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key_fits, value_fits = (fits(option) for option in inner)
        return lambda value: (
            isinstance(value, Mapping) and all(key_fits(key) and value_fits(item) for key, item in value.items())
        )
    if hint is float:
        return lambda value: type(value) in (float, int)
    if hint in (bool, int, NoneType):
        return lambda value: type(value) is hint
    if hint in (str, bytes) or hint in CLASSES.values():
        return lambda value: isinstance(value, hint)
    raise TypeError(f"a field of type {hint} cannot be recorded")


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
