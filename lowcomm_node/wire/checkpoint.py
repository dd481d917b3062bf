"""What stands beside the tensors of a checkpoint: bytes of its JSON file <-> a dataclass. It carries its own digest."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lowcomm_node.errors import StoreError
from lowcomm_node.units import MeetingId, RunId, Stream

__all__ = [
    "FACTS_FILE",
    "MAX_APPLIED",
    "MAX_FACTS_BYTES",
    "STATE_FILE",
    "CheckpointFacts",
    "decode_facts",
    "encode_facts",
]

STATE_FILE = "state.safetensors"
"""The tensors of a checkpoint, in its folder."""
FACTS_FILE = "state.json"
"""Everything else of it."""
MAX_FACTS_BYTES = 16 * 2**20
MAX_APPLIED = 256
"""Meetings a checkpoint names; as many as the answering end of a node remembers."""

_FORMAT = "lowcomm-checkpoint-1"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEETING_ID = re.compile(r"[0-9a-f]{32}")
_LARGEST_COUNT = 2**53

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """A checkpoint without its tensors."""

    run_id: RunId
    progress_steps: float
    steps: int
    """Own inner steps."""
    state_bytes: int
    state_sha256: str
    """Of the file with the tensors."""
    due: Mapping[Stream, int] = field(default_factory=dict)
    """Own step after which each stream's next meeting is due."""
    applied_meetings: tuple[MeetingId, ...] = ()
    """Meetings that this node has answered and whose correction is in the tensors, the newest last."""
    learnt: Mapping[str, Any] = field(default_factory=dict)
    """What the trainer's desk has learnt from meetings, in its own form."""


def encode_facts(facts: CheckpointFacts) -> bytes:
    """JSON for people and for ``decode_facts``."""
    body = {
        "run_id": facts.run_id,
        "progress_steps": facts.progress_steps,
        "steps": facts.steps,
        "state_bytes": facts.state_bytes,
        "state_sha256": facts.state_sha256,
        "due": {stream.value: step for stream, step in facts.due.items()},
        "applied_meetings": facts.applied_meetings[-MAX_APPLIED:],
        "learnt": facts.learnt,
    }
    document = {"format": _FORMAT, "facts": body, "sha256": _digest(body)}
    return json.dumps(document, indent=1).encode() + b"\n"


def decode_facts(data: bytes) -> CheckpointFacts:
    """Raises StoreError, whatever the bytes, unless they say what ``encode_facts`` has said."""
    if len(data) > MAX_FACTS_BYTES:
        raise StoreError(f"{len(data)} bytes of JSON, more than {MAX_FACTS_BYTES}")
    try:
        document: Any = json.loads(data)
        if document["format"] != _FORMAT:
            raise StoreError(f"format {document['format']!r} instead of {_FORMAT!r}")
        body = document["facts"]
        if document["sha256"] != _digest(body):
            raise StoreError("its JSON file is damaged: the digest is another")
        return _facts(body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"its JSON file is damaged: {type(error).__name__}: {error}") from error


def _facts(body: dict[str, Any]) -> CheckpointFacts:
    facts = CheckpointFacts(
        run_id=RunId(_match(_SHA256, body["run_id"])),
        progress_steps=_is(float, body["progress_steps"]),
        steps=_count(body["steps"]),
        state_bytes=_count(body["state_bytes"]),
        state_sha256=_match(_SHA256, body["state_sha256"]),
        due={Stream(name): _count(step) for name, step in _is(dict, body["due"]).items()},
        applied_meetings=tuple(MeetingId(_match(_MEETING_ID, word)) for word in _is(list, body["applied_meetings"])),
        learnt=_is(dict, body["learnt"]),
    )
    if not 0 <= facts.progress_steps < _LARGEST_COUNT:
        raise ValueError(f"progress of {facts.progress_steps} steps")
    return facts


def _digest(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _is(kind: type[_T], value: object) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def _count(value: object) -> int:
    number = _is(int, value)
    if not 0 <= number < _LARGEST_COUNT:
        raise ValueError(f"a count of {number}")
    return number


def _match(pattern: re.Pattern[str], value: object) -> str:
    if not pattern.fullmatch(_is(str, value)):
        raise ValueError(f"{str(value)[:80]!r} where {pattern.pattern} is meant")
    return str(value)
