"""What the settings dataclasses say about their own keys: dotted names, types, rules, nearest names."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from lowcomm_node.settings.rules import Between, JsonObject, Length, OneOf

__all__ = ["Key", "Section", "flat_names", "keys_of", "nearest", "section_of"]

Rule = Between | JsonObject | OneOf | Length

_PLAIN_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    tuple[str, ...]: "a list of strings",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One value a document may set."""

    name: str
    """Last part of the dotted name."""
    dotted: str
    """Full name, e.g. ``model.num_layers``."""
    type: Any
    """bool, int, float, str or ``tuple[str, ...]``."""
    rule: Rule | None
    default: object

    @property
    def allowed(self) -> str:
        """What may be written, in words: type and range."""
        if isinstance(self.rule, OneOf | JsonObject):
            return str(self.rule)
        words = _PLAIN_TYPES[self.type]
        if isinstance(self.rule, Between):
            return f"{words} from {self.rule}"
        if isinstance(self.rule, Length):
            return f"{words} of {self.rule}"
        return words


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table of a document; the document itself is the section with the empty name."""

    cls: type[Any]
    dotted: str
    entries: Mapping[str, "Key | Section"]
    """By last part of the name, in the order of the source."""

    def __str__(self) -> str:
        return f"[{self.dotted}]" if self.dotted else "the top level"


_READ: dict[tuple[type[Any], str], Section] = {}
"""A class and its place in the document; neither changes while the process lives."""


def section_of(cls: type[Any], dotted: str = "") -> Section:
    """The schema of a settings dataclass, read once. Raises TypeError for a field type the loader does not know."""
    if (cls, dotted) not in _READ:
        _READ[cls, dotted] = _read(cls, dotted)
    return _READ[cls, dotted]


def _read(cls: type[Any], dotted: str) -> Section:
    hints = get_type_hints(cls, include_extras=True)
    entries: dict[str, Key | Section] = {}
    for field in fields(cls):
        full = f"{dotted}.{field.name}" if dotted else field.name
        hint = hints[field.name]
        rule = None
        if get_origin(hint) is Annotated:
            hint, rule = get_args(hint)
        if is_dataclass(hint) and isinstance(hint, type):
            entries[field.name] = section_of(hint, full)
        elif hint in _PLAIN_TYPES and field.default is not MISSING:
            entries[field.name] = Key(name=field.name, dotted=full, type=hint, rule=rule, default=field.default)
        else:
            raise TypeError(f"{cls.__name__}.{field.name}: a settings field needs a plain type and a default")
    return Section(cls=cls, dotted=dotted, entries=entries)


def keys_of(cls: type[Any]) -> Mapping[str, Key]:
    """All keys of a document by dotted name, in the order of the source."""
    return {key.dotted: key for key in _walk(section_of(cls))}


def flat_names(tree: Mapping[str, object]) -> set[str]:
    """The dotted names in a parsed document: its values, and those in its tables (a schema is no deeper)."""
    names: set[str] = set()
    for name, value in tree.items():
        names |= {f"{name}.{inner}" for inner in value} if isinstance(value, Mapping) else {name}
    return names


def _walk(section: Section) -> Iterable[Key]:
    for entry in section.entries.values():
        if isinstance(entry, Section):
            yield from _walk(entry)
        else:
            yield entry


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was most likely meant to be, or None when nothing is close."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None
