"""Were meetings applied by both ends or by neither? Judged by the logs of all nodes, meeting by meeting."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Death", "Half", "Outcome", "examine_meetings", "read_outcomes"]

_EVENTS = {"meeting_completed": "completed", "meeting_failed": "failed", "meeting_half": "half"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one end of a meeting says of it."""

    node: str
    partner: str
    """Peer id."""
    meeting: str
    result: str
    """completed, failed, half."""
    reason: str
    time_s: float
    """Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A trainer that was killed on purpose, or frozen or woken when a verdict is not kept for as long as it slept."""

    node: str
    time_s: float
    """Unix time."""
    kind: str = "death"
    """The explanation it gives: death, sleep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """A meeting of which one end is known to have applied its part, and the other is not."""

    node: str
    """Whose word it is."""
    partner: str
    meeting: str
    reason: str
    explanation: str
    """Empty: there is none, and the promise is broken. Else ``death``, ``sleep``, or ``applied by both`` when only the word of it got
    lost."""


def read_outcomes(node: str, lines: Iterable[str]) -> list[Outcome]:
    """Ends of meetings in a node's JSON log; lines that are something else are passed over."""
    outcomes: list[Outcome] = []
    for line in lines:
        if '"meeting_' not in line:
            continue
        try:
            entry = json.loads(line)
            result = _EVENTS.get(entry["event"])
            time_s = datetime.fromisoformat(entry["time"]).timestamp()
            if result is not None:
                outcomes.append(
                    Outcome(
                        node=node,
                        partner=entry["partner"],
                        meeting=entry["meeting"],
                        result=result,
                        reason=entry.get("reason", ""),
                        time_s=time_s,
                    )
                )
        except (ValueError, KeyError, TypeError):
            continue  # a line that a kill has cut in two
    return outcomes


def examine_meetings(
    outcomes: Iterable[Outcome], deaths: Sequence[Death], names: Mapping[str, str], memory_s: float
) -> list[Half]:
    """Meetings whose two ends do not agree, and those that an end calls half itself.

    ``names``: node by peer id. A death explains halves of the node and of its partners that come to light within
    ``memory_s`` seconds, the time a verdict is waited for.
    """
    # By pair: an offer that one peer was too busy for goes to the next under the same id.
    by_pair: dict[tuple[str, frozenset[str]], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        pair = frozenset((outcome.node, names.get(outcome.partner, outcome.partner)))
        by_pair[outcome.meeting, pair].append(outcome)
    halves: list[Half] = []
    for ends in by_pair.values():
        completed = [end for end in ends if end.result == "completed"]
        failed = [end for end in ends if end.result == "failed"]
        # Who calls it half has applied its own part, or does not know whether its partner has.
        suspects = [end for end in ends if end.result == "half"] or (completed if failed else [])
        halves += [_half(end, ends, deaths, names, memory_s) for end in suspects]
        if len(completed) > len({end.node for end in completed}):
            halves.append(_half(completed[0], [], [], names, memory_s))  # applied twice by one node
    return halves


def _half(
    end: Outcome, ends: Sequence[Outcome], deaths: Sequence[Death], names: Mapping[str, str], memory_s: float
) -> Half:
    partner = names.get(end.partner, end.partner)
    explanation = ""
    if any(other.node != end.node and other.result == "completed" for other in ends) and end.result == "half":
        explanation = "applied by both"
    else:
        near = (d for d in deaths if d.node in (end.node, partner) and 0 <= end.time_s - d.time_s <= memory_s)
        explanation = next((death.kind for death in near), "")
    return Half(node=end.node, partner=partner, meeting=end.meeting, reason=end.reason, explanation=explanation)
