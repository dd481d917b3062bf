"""The whole memory of a NodeCore as JSON values, and a NodeCore that goes on from there.

A core is a small tree of objects ("parts": partners, schedule, the two ends of meetings, and their chance) that are
wired together by its constructor. A state says for each part, by its path from the core, what its attributes hold.
To restore it, a new core is built from the recorded rules, which wires the parts, and their attributes are put in
place. What a later version has added keeps the value it starts with, so that an old dump can go on being a test.
"""

from collections.abc import Iterator, Mapping
from typing import cast

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.node import NodeCore, NodeRules
from lowcomm_node.telemetry.flight.values import PARTS, DumpError, Tree, decode, encode

__all__ = ["Draws", "State", "core_of", "differences", "draws_since", "state_of"]

State = dict[str, dict[str, Tree]]
"""Path of a part to its attributes; the core's own path is empty."""

Draws = Mapping[str, tuple[bytes, ...]]
"""Path of a Chance to what it has drawn after the state was taken."""


def state_of(core: NodeCore) -> State:
    """What ``core`` remembers, payloads left out. Raises TypeError where it holds something that cannot be recorded."""
    return {
        path: {name: encode(value) for name, value in vars(part).items() if not isinstance(value, PARTS)}
        for path, part in _parts(core)
    }


def draws_since(state: State, core: NodeCore) -> dict[str, tuple[bytes, ...]]:
    """What the core's chances have drawn since ``state``.

    A dump holds these in place of the seeds: who knows a seed knows what the node will choose next.
    """
    return {
        path: tuple(map(part.drawn, range(_count(state[path]) + 1, _count(vars(part)) + 1)))
        for path, part in _parts(core)
        if isinstance(part, Chance) and path in state
    }


def core_of(state: State, draws: Draws) -> NodeCore:
    """A core with this memory, whose chances draw what was drawn. Raises DumpError."""
    rules = decode(state.get("", {}).get("rules"))
    if not isinstance(rules, NodeRules):
        raise DumpError("the recorded state has no rules")
    core = NodeCore(rules)
    parts = dict(_parts(core))
    for path, attributes in state.items():
        if path not in parts:
            raise DumpError(f"the core of this version has no part {path!r}")
        _set(path, parts[path], attributes)
    recorded = {id(parts[path]): _drawn(parts[path], tokens) for path, tokens in draws.items() if path in parts}
    for part in parts.values():
        for name, value in vars(part).items():
            if id(value) in recorded:
                setattr(part, name, recorded[id(value)])
    return core


def differences(recorded: State, replayed: State) -> list[tuple[str, Tree, Tree]]:
    """Attributes that do not hold what was recorded: path, recorded, replayed. What is new in this version is not compared."""
    return [
        (f"{path}.{name}".lstrip("."), value, replayed.get(path, {}).get(name))
        for path, attributes in recorded.items()
        for name, value in attributes.items()
        if not _holds(value, replayed.get(path, {}).get(name))
    ]


def _holds(recorded: Tree, replayed: Tree) -> bool:
    """Are they equal, fields apart that classes did not have when it was recorded?"""
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        is_object = "$" in recorded
        has_all = recorded.keys() <= replayed.keys() if is_object else recorded.keys() == replayed.keys()
        return has_all and all(_holds(value, replayed[key]) for key, value in recorded.items())
    if isinstance(recorded, list) and isinstance(replayed, list):
        return len(recorded) == len(replayed) and all(map(_holds, recorded, replayed))
    return repr(recorded) == repr(replayed)  # NaN is equal to itself here, 1 is not 1.0


def _parts(core: NodeCore) -> Iterator[tuple[str, object]]:
    """The core and the parts it holds, each once, under the first path that leads there."""
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("", core)]
    while waiting:
        path, part = waiting.pop(0)
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield path, part
        waiting += [
            (f"{path}.{name}".lstrip("."), value) for name, value in vars(part).items() if isinstance(value, PARTS)
        ]


def _set(path: str, part: object, attributes: Mapping[str, Tree]) -> None:
    for name, tree in attributes.items():
        if name not in vars(part) or isinstance(vars(part)[name], PARTS):
            raise DumpError(f"the core of this version has no {path}.{name}")
        before, value = vars(part)[name], decode(tree)
        if isinstance(before, dict) and isinstance(value, dict):
            before.clear()
            before.update(value)  # a dictionary that makes its own values goes on making them
            continue
        kind = (int, float) if isinstance(before, float) else type(before)
        if not (isinstance(value, kind) or before is None or value is None):
            raise DumpError(f"{path}.{name} cannot be {type(value).__name__}")
        setattr(part, name, value)


def _count(attributes: Mapping[str, object]) -> int:
    return cast("int", attributes["_count"])


class _RecordedChance(Chance):
    """Draws what was drawn. Behind the record it goes on by itself: a core that was repaired may draw more."""

    def __init__(self, seed: bytes, count: int, tokens: tuple[bytes, ...]) -> None:
        super().__init__(seed)
        self._count = self._start = count
        self._tokens = tokens

    def drawn(self, index: int) -> bytes:
        at = index - self._start - 1
        return self._tokens[at] if at < len(self._tokens) else super().drawn(index)


def _drawn(chance: object, tokens: tuple[bytes, ...]) -> _RecordedChance:
    if not isinstance(chance, Chance):
        raise DumpError("draws are recorded for a part that does not draw")
    attributes = vars(chance)
    return _RecordedChance(attributes["_seed"], _count(attributes), tokens)
