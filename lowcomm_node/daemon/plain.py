"""Protobuf messages as plain JSON values, for machines and scripts that read a node's status.

protobuf's own JSON form writes 64-bit integers as strings and leaves unset sub-messages out; here numbers are
numbers and every field is always there, under its name in the .proto file; one that is optional and unset is null. Its parser
reads this form too: what JSON has no number for is a word, as there ("NaN", "Infinity", "-Infinity").
"""

import json
import math
from collections.abc import Iterable
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

__all__ = ["as_json", "as_plain"]


def as_plain(message: Message) -> dict[str, object]:
    """All fields of ``message``, sub-messages and zero values included; what is marked optional and is not there is None."""
    descriptor = cast("Descriptor", message.DESCRIPTOR)  # one of two implementations with the same interface
    return {field.name: _field(message, field) for field in descriptor.fields}


def as_json(message: Message) -> str:
    """``as_plain`` as an indented JSON document that ends in a newline."""
    return json.dumps(as_plain(message), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _field(message: Message, field: FieldDescriptor) -> object:
    is_optional = field.has_presence and (field.message_type is None or field.containing_oneof is not None)
    if is_optional and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of_value = field.message_type.fields_by_name["value"]
        return {str(key): _single(value[key], of_value) for key in sorted(value)}
    if field.is_repeated:
        values: Iterable[object] = value
        return [_single(item, field) for item in values]
    return _single(value, field)


def _single(value: object, field: FieldDescriptor) -> object:
    if isinstance(value, Message):
        return as_plain(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        # A float32 widened to 64 bits would print nine digits of noise.
        return float(f"{value:.7g}") if field.type == FieldDescriptor.TYPE_FLOAT else value
    return value
