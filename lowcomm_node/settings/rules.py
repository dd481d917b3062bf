"""Allowed values of one key, stated in the schema as ``Annotated`` metadata and checked by ``settings.load``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from lowcomm_node.errors import ConfigError

__all__ = ["Between", "JsonObject", "Length", "OneOf", "ValueRefusedError", "fail"]


@dataclass(frozen=True, slots=True)
class Between:
    """A number from ``low`` to ``high``, both allowed."""

    low: float
    high: float

    def __str__(self) -> str:
        return " to ".join(str(end) if isinstance(end, int) else f"{end:g}" for end in (self.low, self.high))

    def allows(self, value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


class OneOf:
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __str__(self) -> str:
        return ", ".join(f'"{word}"' for word in self.words)

    def allows(self, value: object) -> bool:
        return value in self.words


@dataclass(frozen=True, slots=True)
class Length:
    """A text of ``low`` to ``high`` characters."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low} to {self.high} characters"

    def allows(self, value: object) -> bool:
        return isinstance(value, str) and self.low <= len(value) <= self.high


@dataclass(frozen=True, slots=True)
class JsonObject:
    """A table of free keys, kept as JSON text of at most ``high`` characters; the empty text is no table."""

    high: int

    def __str__(self) -> str:
        return f"a table, or a JSON object as a text, of at most {self.high} characters"

    def allows(self, value: object) -> bool:
        return isinstance(value, str) and len(value) <= self.high

    def text_of(self, value: object) -> str | None:
        """The one text for a table, or for a text that says the same; None for what is neither.

        Keys are sorted, and there is no white space: equal tables have one form. Numbers stay as they are, 1 and 1.0 differ.
        """
        if value in ("", {}):
            return ""
        try:
            # A text of digits, or of brackets, without end is refused unread.
            tree = json.loads(value) if isinstance(value, str) and self.allows(value) else value
            if not isinstance(tree, Mapping):
                return None
            return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return None


class ValueRefusedError(ConfigError):
    """A value outside what its key allows. ``settings.load`` adds the file's name."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key} = {value!r} is not allowed; allowed: {allowed}")
        self.key = key


def fail(key: str, value: object, allowed: str) -> NoReturn:
    """Refuse ``value`` for ``key``, saying what would be allowed."""
    raise ValueRefusedError(key, value, allowed)
