"""Estimates against a real swarm: what its meetings should have taken, beside what its nodes have counted on the wire."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lowcomm_node.cli.words import amount
from lowcomm_node.core.commands import OpenLink, ReportMeeting, Role, Send
from lowcomm_node.core.events import MessageReceived
from lowcomm_node.core.messages import Answer, Close, Message, Offer, StreamPlan
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.telemetry.flight.dump import read_dump
from lowcomm_node.telemetry.flight.recorder import Entry
from lowcomm_node.telemetry.flight.values import Tree
from lowcomm_node.train.meeting_sizes import StreamSizes, meeting_sizes
from lowcomm_node.units import MeetingId, Stream

__all__ = ["Checked", "Counted", "check_against", "estimated", "print_checked"]

_DIRECTIONS = ("sent", "received")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Payload bytes in one direction, all nodes."""

    completed: int
    """Estimated, of completed meetings."""
    in_vain: int
    """Estimated, of messages of all others: offers to nodes that were busy, meetings that failed or were under way at the end."""
    counted: int
    """By the nodes (wire_bytes_total)."""
    error: float
    """Of the estimate for all messages, as a share of what was counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What came out."""

    nodes: int
    meetings: int
    """Completed, each once."""
    offers: int
    """Sent; more than were completed, because busy nodes and lost ones were asked as well."""
    sent: Counted
    received: Counted


def check_against(folder: Path, manifest: Manifest) -> Checked:
    """Compare with what ``swarm --recordings`` has left in a folder. Raises StoreError, ConfigError, OSError."""
    sizes = meeting_sizes(manifest)
    totals: Counter[str] = Counter()
    names = sorted(folder.glob("n*.json"))
    for path in names:
        dump = read_dump(path)
        entries = dump.recording.entries if dump.recording else ()
        if entries and entries[0].number != 1:
            raise StoreError(f"{path}: the beginning is not in it; let the swarm run for fewer minutes")
        totals += estimated(entries, sizes)
        totals += _counters(dump.header)
    if not totals["meetings"]:
        raise StoreError(
            f"{folder}: no recordings of nodes that have met; make some with 'lowcomm-node swarm --recordings {folder}'"
        )
    return Checked(
        nodes=len(names),
        meetings=totals["meetings"],
        offers=totals["offers"],
        sent=_side(totals, "sent"),
        received=_side(totals, "received"),
    )


def print_checked(checked: Checked) -> None:
    """A line for each direction."""
    print(f"{checked.nodes} nodes, {checked.meetings:,} meetings completed, {checked.offers:,} offers sent")
    for direction in _DIRECTIONS:
        side: Counted = getattr(checked, direction)
        print(
            f"  {direction:<9} counted on the wire {amount(side.counted)}B; estimated {amount(side.completed)}B for completed meetings and "
            f"{amount(side.in_vain)}B for messages of others: {100 * side.error:+.2f} %"
        )


def estimated(entries: Iterable[Entry], sizes: Mapping[Stream, StreamSizes]) -> Counter[str]:
    """Payload bytes that a node should have sent and received, by the messages of its recording: of all, and of completed meetings."""
    plans: dict[MeetingId, tuple[StreamPlan, ...]] = {}
    totals: Counter[str] = Counter()

    def crossed(direction: str, message: Message) -> None:
        if isinstance(message, Offer):
            plans[message.meeting_id] = message.plans
        if isinstance(message, Offer | Answer | Close):
            totals[f"{direction} all"] += _weight(plans, sizes, message.meeting_id, type(message))

    for entry in entries:
        if isinstance(entry.event, MessageReceived):
            crossed("received", entry.event.message)
        for command in entry.commands:
            match command:
                case OpenLink() | Send():
                    crossed("sent", command.message)
                    totals["offers"] += isinstance(command.message, Offer)
                case ReportMeeting(outcome="completed"):
                    is_own = command.role is Role.INITIATOR
                    own, others = ("sent", "received") if is_own else ("received", "sent")
                    totals["meetings"] += is_own
                    totals[f"{own} completed"] += _weight(plans, sizes, command.meeting_id, Offer, Close)
                    totals[f"{others} completed"] += _weight(plans, sizes, command.meeting_id, Answer)
                case _:
                    pass
    return totals


def _weight(
    plans: Mapping[MeetingId, tuple[StreamPlan, ...]],
    sizes: Mapping[Stream, StreamSizes],
    meeting_id: MeetingId,
    *messages: type[Message],
) -> int:
    """Estimate of these messages of a meeting, by what kind of meeting it was: usual, among a node's first, or in the dense last phase."""
    total = 0
    for plan in plans.get(meeting_id, ()):
        of = sizes[plan.stream]
        is_last = plan.codec is of.last.codec and plan.codec is not of.plan.codec
        usual = of.sizes if plan.dtype is of.plan.dtype else of.first_sizes
        parts = of.last_sizes if is_last else usual
        total += sum({Offer: parts.offer, Answer: parts.answer, Close: parts.close}[message] for message in messages)
    return total


def _counters(header: Mapping[str, Tree]) -> Counter[str]:
    """What one node has counted; nothing where its dump does not tell."""
    totals: Counter[str] = Counter()
    status = header.get("status")
    meetings = status.get("meetings") if isinstance(status, dict) else None
    entries = meetings.get("bytes") if isinstance(meetings, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("direction") in _DIRECTIONS and isinstance(entry.get("bytes"), int):
            totals[f"{entry['direction']} counted"] += int(str(entry["bytes"]))
    return totals


def _side(totals: Mapping[str, int], direction: str) -> Counted:
    predicted, completed, counted = (totals[f"{direction} {what}"] for what in ("all", "completed", "counted"))
    return Counted(
        completed=completed,
        in_vain=predicted - completed,
        counted=counted,
        error=predicted / counted - 1 if counted else math.nan,
    )
