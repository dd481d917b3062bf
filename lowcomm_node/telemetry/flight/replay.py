"""A third shell for the core: it feeds recorded events, and looks whether the recorded commands come out."""

from collections.abc import Callable
from dataclasses import dataclass

from lowcomm_node.core.commands import Command
from lowcomm_node.core.node import NodeCore
from lowcomm_node.telemetry.flight.recorder import Entry, Recording, without_payload
from lowcomm_node.telemetry.flight.state import State, core_of, differences, state_of
from lowcomm_node.telemetry.flight.values import DumpError, Tree

__all__ = ["CommandsDiffer", "Outcome", "StateDiffers", "replay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandsDiffer:
    """The core now makes something else of an event."""

    entry: Entry
    commands: tuple[Command, ...]
    raised: str
    """Class and text of the exception the core ended with, empty without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDiffers:
    """All commands were equal, and yet the core does not remember what it did then."""

    before: int
    """Number of the event before which this was seen."""
    attributes: tuple[tuple[str, Tree, Tree], ...]
    """Path, recorded and replayed value of each attribute that differs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How far the replay came, and the first thing that differs."""

    num_events: int
    num_commands: int
    difference: CommandsDiffer | StateDiffers | None
    raised: tuple[int, ...]
    """Events at which the core raised an exception, in the record and in the replay."""


def replay(
    recording: Recording, *, until: int | None = None, on_entry: Callable[[Entry], None] = lambda _: None
) -> Outcome:
    """Run the events, to the first difference or to the event numbered ``until``.

    ``on_entry`` sees each entry before it is run. Raises DumpError for a state no core can be made of.
    """
    core = _start(recording)
    states = dict(recording.states[1:])
    num_events = num_commands = 0
    raised_at: list[int] = []
    difference: CommandsDiffer | StateDiffers | None = None
    for entry in recording.entries:
        if until is not None and entry.number > until:
            break
        difference = _compare_state(core, entry.number, states)
        if difference is not None:
            break
        on_entry(entry)
        commands, raised = _handle(core, entry)
        num_events, num_commands = num_events + 1, num_commands + len(commands)
        if raised:
            raised_at.append(entry.number)
        if commands != entry.commands or raised.partition(":")[0] != entry.raised:
            difference = CommandsDiffer(entry=entry, commands=commands, raised=raised)
            break
    else:
        end = recording.entries[-1].number + 1 if recording.entries else recording.states[0][0]
        difference = _compare_state(core, end, states)
    return Outcome(num_events=num_events, num_commands=num_commands, difference=difference, raised=tuple(raised_at))


def _start(recording: Recording) -> NodeCore:
    try:
        return core_of(recording.states[0][1], recording.draws)
    except DumpError:
        raise
    except Exception as error:
        raise DumpError(f"no core can be made of the recorded state: {type(error).__name__}: {error}") from error


def _handle(core: NodeCore, entry: Entry) -> tuple[tuple[Command, ...], str]:
    try:
        commands = core.handle(entry.event, entry.now)
    except Exception as error:  # noqa: BLE001 - a core that fails is what somebody who replays a crash wants to see
        return (), f"{type(error).__name__}: {error}"
    return tuple(without_payload(command) for command in commands), ""


def _compare_state(core: NodeCore, number: int, states: dict[int, State]) -> StateDiffers | None:
    recorded = states.get(number)
    found = differences(recorded, state_of(core)) if recorded is not None else []
    return StateDiffers(before=number, attributes=tuple(found)) if found else None
