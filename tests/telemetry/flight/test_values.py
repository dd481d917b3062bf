"""The codec of recorded values: everything the core knows goes in and comes out, and nothing else does."""

import importlib
import json
import math
from collections import OrderedDict, deque
from dataclasses import is_dataclass
from typing import Any, get_args

import grimp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcomm_node.core.commands import Command
from lowcomm_node.core.events import Event, LinkFailed, StepsTaken
from lowcomm_node.core.messages import Message
from lowcomm_node.telemetry.flight.recorder import without_payload
from lowcomm_node.telemetry.flight.values import (
    CLASSES,
    MODULES,
    DumpError,
    StandIn,
    decode,
    encode,
    field_checks,
    stand_in,
)
from lowcomm_node.units import MeetingId, Stream


def test_every_module_the_core_is_made_of_is_known() -> None:
    """A new module with classes of its own must be listed, or what it keeps cannot be recorded."""
    graph = grimp.build_graph("lowcomm_node", cache_dir=None)
    upstream = graph.find_upstream_modules("lowcomm_node.core.node")

    for name in upstream - {module.__name__ for module in MODULES}:
        own = [cls for cls in vars(importlib.import_module(name)).values() if isinstance(cls, type)]
        assert not [cls for cls in own if cls.__module__ == name and name.startswith("lowcomm_node.core.")]


@pytest.mark.parametrize("cls", [*get_args(Event), *get_args(Command), *get_args(Message)])
def test_every_event_command_and_message_is_known(cls: type) -> None:
    """The closed sets of the protocol are all in the table."""
    assert cls in CLASSES.values()


@pytest.mark.parametrize("name", [name for name, cls in CLASSES.items() if is_dataclass(cls)])
def test_every_field_has_a_type_that_can_be_checked(name: str) -> None:
    """A field of a new kind of type fails here, not in a reader of dumps."""
    field_checks(CLASSES[name])


@pytest.mark.parametrize("cls", [*get_args(Event), *get_args(Command), *get_args(Message)])
@settings(max_examples=20)
@given(data=st.data())
def test_what_goes_in_comes_out(cls: Any, data: st.DataObject) -> None:
    """Any event, command or message survives JSON exactly, payloads apart; infinities and NaN too."""
    value = without_payload(data.draw(st.from_type(cls)))

    again = decode(json.loads(json.dumps(encode(value), allow_nan=False)))

    assert again == value or repr(again) == repr(
        value
    )  # NaN is not equal to itself; of mappings only the content counts


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, 10**30, -0.0, 1e300, math.inf, "", "\x1b[2J ü", (), ((1,), (1.0, "a")), Stream.PARAMS,
        {1, 2, 3}, frozenset({"a"}), [1, [2]], {"b": 1, "a": 2}, OrderedDict([("b", 1), ("a", (2,))]),
        deque([True, False], maxlen=5), deque([1]),
    ],
)  # fmt: skip
def test_containers_keep_their_kind_and_order(value: object) -> None:
    """A dictionary's order decides whom the core chooses, so it is part of the value."""
    again = decode(json.loads(json.dumps(encode(value), allow_nan=False)))

    assert type(again) is type(value)
    assert repr(again) == repr(value)
    if isinstance(value, deque):
        assert isinstance(again, deque)
        assert again.maxlen == value.maxlen


def test_payloads_leave_only_a_mark() -> None:
    """Of a payload there is its length and a digest: enough to tell it from another, nothing to read it from."""
    payload = b"weights" * 100_000

    mark = stand_in(payload)

    assert len(mark) < 40
    assert mark.startswith(b"700000 bytes ")
    assert stand_in(mark) is mark
    assert stand_in(payload[:-1] + b"?") != mark
    assert len(stand_in(b"")) == 0
    assert isinstance(decode(encode(payload)), StandIn)


def test_a_foreign_object_is_refused_on_the_way_in() -> None:
    """Nothing is recorded half."""
    with pytest.raises(TypeError, match="cannot be recorded"):
        encode((object(),))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"$": "events.Exploded"}, "nothing in this version is called"),
        ({"$": "units.Stream.GRADIENTS"}, "nothing in this version is called"),
        ({"$": "node.NodeCore"}, "nothing in this version is called"),
        ({"$": ["events.Ticked"]}, "name"),
        ({"$": "events.StepsTaken", "steps": "1"}, "steps cannot be '1'"),
        ({"$": "events.StepsTaken", "steps": True}, "steps cannot be True"),
        ({"$": "events.StepsTaken", "steps": 1.0}, "steps cannot be 1.0"),
        ({"$": "events.StepsTaken"}, "lacks steps"),
        ({"$": "events.StepsTaken", "steps": 1, "speed": 2}, "has no field 'speed'"),
        ({"$": "events.MessageReceived", "message": {"$": "events.Ticked"}}, "message cannot be"),
        ({"$": "events.MembersSeen", "members": [1]}, "members cannot be"),
        ({"$": "events.RecordRenewed", "member": "text"}, "member cannot be"),
        ({"$payload": "rm -rf"}, "broken"),
        ({"$payload": 5}, "broken"),
        ({"$float": "1"}, "broken"),
        ({"$set": [{"$list": []}]}, "broken"),
        ({"$dict": [1]}, "broken"),
        ({"$dict": [[1, 2, 3]]}, "broken"),
        ({"$deque": [-1, []]}, "broken"),
        ({"$deque": 7}, "broken"),
        ({"$eval": "1"}, "unknown kind"),
        ({"a": 1, "b": 2}, "unknown kind"),
        ({}, "unknown kind"),
        (float("inf"), "too large"),
    ],
)
def test_what_no_dump_holds_is_one_error(tree: Any, message: str) -> None:
    """Unknown names, wrong types, missing and unknown fields."""
    with pytest.raises(DumpError, match=message):
        decode(tree)


def test_a_field_that_is_newer_than_the_dump_takes_its_default() -> None:
    """So that dumps that were checked in as tests outlive additions."""
    assert decode({"$": "events.StepsTaken", "steps": 1}) == StepsTaken(steps=1)


def test_events_without_payload_are_kept_as_they_are() -> None:
    """The usual event costs no copy."""
    event = LinkFailed(meeting_id=MeetingId("m"), reason="timeout")

    assert without_payload(event) is event
