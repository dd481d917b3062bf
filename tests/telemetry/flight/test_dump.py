"""Dump files: what is written is read again, names are gone and the replay does not mind, and no file can do harm."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcomm_node.sim.link import virtual_peer
from lowcomm_node.sim.swarm import VIRTUAL_RUN as RUN
from lowcomm_node.telemetry.flight.dump import Dump, dump_text, read_dump
from lowcomm_node.telemetry.flight.recorder import Recording
from lowcomm_node.telemetry.flight.redaction import redacted
from lowcomm_node.telemetry.flight.replay import Outcome, replay
from lowcomm_node.telemetry.flight.values import DumpError, Tree, encode
from tests.telemetry.flight.recorded_swarm import troubled_swarm

HEADER: dict[str, Tree] = {
    "reason": "request",
    "status": {"run_name": "timeout", "join_address": "/ip4/203.0.113.5/tcp/7000"},
}


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    """All lives of all nodes of a troubled swarm."""
    return [recorder.recording() for recorder in troubled_swarm(seed=5).recorders.values()]


def _read(text: str, folder: Path) -> Dump:
    path = folder / "dump.json"
    path.write_text(text)
    return read_dump(path)


def test_a_full_dump_is_exact(recordings: list[Recording], tmp_path: Path) -> None:
    """What comes back is what the recorder held, and the header as it was given."""
    for recording in recordings:
        dump = _read(dump_text(HEADER, recording), tmp_path)
        assert dump.recording == recording
        assert dump.header == HEADER


def test_a_redacted_dump_runs_the_same(recordings: list[Recording], tmp_path: Path) -> None:
    """Equal and in order as the names were: as many events, as many commands, no difference, at every node."""
    for recording in recordings:
        full = replay(recording)
        text = dump_text(HEADER, recording, names={"timeout": "run"})
        dump = _read(text, tmp_path)
        assert dump.recording is not None
        outcome = replay(dump.recording)
        assert (
            outcome
            == full
            == Outcome(num_events=full.num_events, num_commands=full.num_commands, difference=None, raised=())
        )


def test_a_redacted_dump_names_nobody(recordings: list[Recording]) -> None:
    """No peer id, run id, run name or address; the reason "timeout" stays one where the run is named so."""
    text = "".join(dump_text(HEADER, recording, names={"timeout": "run"}) for recording in recordings)
    full = "".join(dump_text(HEADER, recording) for recording in recordings)

    assert not any(virtual_peer(index) in text for index in range(4))
    assert RUN not in text
    assert "203.0.113.5" not in text
    assert '"run_name": "run"' in text
    assert text.count('"reason": "timeout"') == full.count('"reason": "timeout"') > 0


def test_pseudonyms_keep_order_and_equality() -> None:
    """The smaller id of two has the smaller pseudonym, also beyond nine; equal addresses stay equal."""
    peers = sorted(virtual_peer(index) for index in range(12))
    members: list[Tree] = [
        {"peer": peer, "grpc_address": f"node{index // 2}.example:70", "certificate": encode(peer.encode())}
        for index, peer in enumerate(peers)
    ]

    clean = redacted(
        {
            "members": members,
            "header": {"note": f"node3.example and {peers[4]} at [2001:db8::7]:1, /dns4/home.example/tcp/1"},
        },
        "",
        {},
    )

    listed: Any = clean["members"]
    assert [member["peer"] for member in listed] == sorted({member["peer"] for member in listed})
    assert len({member["grpc_address"] for member in listed}) == 6
    assert listed[0]["grpc_address"] == listed[1]["grpc_address"]
    assert {str(member["certificate"]) for member in listed} == {str(encode(b""))}
    assert clean["header"] == {"note": "host-4 and peer-05 at [ip-1]:1, /dns4/(host)/tcp/1"}


def test_words_of_people_change_no_reason_of_the_core() -> None:
    """A peer may say that its host is called like one of the words the core goes by."""
    tree = {"entries": [{"grpc_address": "disconnect:1"}, {"reason": "disconnect"}], "header": {}}

    clean = redacted(tree, "", {"disconnect": "run"})  # type: ignore[arg-type]

    assert clean["entries"] == [{"grpc_address": "addr-1"}, {"reason": "disconnect"}]


def test_numbers_and_times_are_no_addresses() -> None:
    """What only looks like an IP address is left alone, and loopback tells nothing about anybody."""
    texts = ["12:30:45", "1.2.3.4.5", "version 300.1.2.3", "127.0.0.1:80", "std::vector", "2026-11-26T01:24:07Z"]

    assert redacted({"header": list(texts)}, "", {})["header"] == texts


def test_lines_are_events(recordings: list[Recording]) -> None:
    """Line tools find an event by its number."""
    recording = recordings[0]

    lines = [line for line in dump_text({}, recording).splitlines() if line.startswith('{"n"')]

    assert [json.loads(line.rstrip(","))["n"] for line in lines] == [entry.number for entry in recording.entries]


def test_a_node_without_a_core_yet_has_a_dump(tmp_path: Path) -> None:
    """A crash on the way into the run has a header to tell."""
    assert _read(dump_text(HEADER, None), tmp_path) == Dump(header=HEADER, recording=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON document"),
        ("\xff", "no dump|no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "not an object"),
        ("{}", "no dump of a lowcomm-node"),
        ('{"format": "lowcomm-node flight recorder", "version": 2}', "version 2; this lowcomm-node reads version 1"),
        ('{"format": NaN}', "NaN"),
        ('{"format": "lowcomm-node flight recorder", "version": 1, "header": []}', "header"),
        ("9" * 5000, "no JSON document"),
    ],
)
def test_what_is_no_dump_is_one_error(tmp_path: Path, text: str, message: str) -> None:
    """Named with its path."""
    with pytest.raises(DumpError, match=f"dump.json: .*({message})"):
        _read(text, tmp_path)


def test_a_dump_cut_short_is_noticed(recordings: list[Recording], tmp_path: Path) -> None:
    """Wherever it ends, and when an event in the middle is missing."""
    text = dump_text(HEADER, recordings[0])
    for length in range(0, len(text) - 2, 997):
        with pytest.raises(DumpError):
            _read(text[:length], tmp_path)
    lines = text.splitlines(keepends=True)
    del lines[5]
    with pytest.raises(DumpError, match="is missing"):
        _read("".join(lines), tmp_path)


_ODD: list[Any] = [
    None,
    True,
    -1,
    0.5,
    10**40,
    1e300,
    "",
    "x",
    "events.Ticked",
    [],
    [[]],
    {},
    {"$": "events.Ticked"},
    {"$set": []},
]


@settings(max_examples=100)
@given(data=st.data())
def test_no_file_can_do_more_than_be_refused_or_differ(
    recordings: list[Recording], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever stands anywhere in a dump, reading and replaying it ends in an outcome or in the one error."""
    tree = json.loads(dump_text(HEADER, recordings[-1]))
    places = list(_places(tree))
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = places[data.draw(st.integers(0, len(places) - 1))]
        if isinstance(holder, dict) and data.draw(st.booleans()):
            holder.pop(key, None)
        else:
            holder[key] = data.draw(st.sampled_from(_ODD))

    with suppress(DumpError):
        dump = _read(json.dumps(tree), tmp_path_factory.getbasetemp())
        if dump.recording is not None:
            replay(dump.recording)


def _places(tree: Any) -> Any:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(value)
