"""Events and commands of the core as a person reads them."""

from dataclasses import MISSING, fields, is_dataclass
from enum import Enum

__all__ = ["shown"]

_MAX_ITEMS = 6


def shown(value: object) -> str:
    """One line: only what differs from its default, payloads by size and digest, long lists by their beginning."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bytes):
        return f"<{value.decode('ascii', 'replace') or '0 bytes'}>"
    if isinstance(value, tuple):
        items = [shown(item) for item in value[:_MAX_ITEMS]]
        if len(value) > _MAX_ITEMS:
            items.append(f"... {len(value)} in all")
        return f"[{', '.join(items)}]"
    if is_dataclass(value):
        told = (
            f"{field.name}={shown(getattr(value, field.name))}"
            for field in fields(value)
            if field.default is MISSING or getattr(value, field.name) != field.default
        )
        return f"{type(value).__name__}({', '.join(told)})"
    return repr(value)  # of texts, which may come from anybody, with all that could steer a terminal written out
