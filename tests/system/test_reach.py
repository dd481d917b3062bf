"""A swarm of real nodes of which half accept no connection: everybody meets everybody, in every way there is."""

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.system.real_nodes import TINY_MANIFEST, RealNode, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

PATIENCE_S = 90


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """What is trained on; the manifest lies beside it."""
    (tmp_path / "run.toml").write_text(TINY_MANIFEST)
    text = tmp_path / "text"
    text.mkdir()
    for index in range(40):
        (text / f"{index}.txt").write_text(f"the quick brown fox {index} jumps over the lazy dog\n" * 60)
    return text


@pytest.fixture
def nodes(tmp_path: Path, text: Path) -> Iterator[list[RealNode]]:
    """Two nodes that can be dialled and two that cannot."""
    started: list[RealNode] = []
    try:
        started.append(RealNode(tmp_path / "r0", "--manifest", str(tmp_path / "run.toml"), text=text))
        ready = started[0].wait_for(lambda status: status["state"] == "training", PATIENCE_S, "the first node trains")
        for name, inbound in (("r1", "auto"), ("a", "off"), ("b", "off")):
            options = ["--peers", ready["join_address"], "--set", f"network.inbound={inbound}"]
            started.append(RealNode(tmp_path / name, *options, text=text))
        yield started
    finally:
        for node in started:
            node.clean_up()


def test_nodes_that_nobody_can_dial_are_members_like_others(nodes: list[RealNode]) -> None:
    """Dialled, rung, and by libp2p between the two that neither can dial; no half meeting, and an end in order."""
    open_nodes, closed_nodes = nodes[:2], nodes[2:]
    every_way = {"grpc", "grpc_reversed", "libp2p"}

    def met(status: dict[str, Any]) -> set[str]:
        return {link for link, number in status["meetings"]["links"].items() if number}

    for node in closed_nodes:
        status = node.wait_for(lambda status: met(status) == every_way, PATIENCE_S, "met in every way")
        assert status["reachability"] in {"outbound_only", "holepunched"}  # it is looked at anew every other minute
        assert status["grpc_address"] == ""
        assert (
            status["join_address"] == nodes[0].status()["join_address"]
        )  # a seed's, in place of one that leads nowhere
        # A bell whose connection was lost on the busy computer is hung again.
        node.wait_for(lambda status: status["bells_own"] == 2, PATIENCE_S, "hangs its bell at both")
    for node in open_nodes:
        status = node.wait_for(lambda status: {"grpc", "grpc_reversed"} <= met(status), PATIENCE_S, "rings others")
        assert status["reachability"] == "public"
        node.wait_for(lambda status: status["bells_held"] == 2, PATIENCE_S, "holds both bells")
        assert status["meetings"]["half"] == 0
    for node in closed_nodes:
        assert node.status()["meetings"]["half"] == 0
        # A meeting with somebody whose record has not been read yet is counted, but is not in the view of that member: the next one is.
        wait_until(partial(_sees, node, {(True, "grpc"), (False, "libp2p")}), PATIENCE_S, "each was met as it can be")
    for node in nodes:
        assert node.end() == 0, node.tail()
        assert node.survivors() == []


def _sees(node: RealNode, ways: set[tuple[bool, str]]) -> bool:
    """Of each other member: can it be dialled, and what the last meeting with it went over."""
    return {(peer["reachability"] == "public", peer["link"]) for peer in node.peers()} == ways


@pytest.mark.parametrize("inbound", ["auto", "off"])
def test_a_joiner_gets_its_state_from_a_member_that_nobody_can_dial(tmp_path: Path, text: Path, inbound: str) -> None:
    """The only one that has a state, whether or not the joiner can be dialled itself.

    Nothing is said of meetings: as long as the first node can be dialled by nobody, no record of another one comes to it.
    """
    started: list[RealNode] = []
    try:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
        closed = ["--manifest", str(tmp_path / "run.toml"), "--set", "network.inbound=off"]
        started.append(holder := RealNode(tmp_path / "h", *closed, "--set", f"network.dht_port={port}", text=text))
        status = holder.wait_for(lambda status: status["training"]["steps"] > 20, PATIENCE_S, "the holder trains")
        assert status["grpc_address"] == ""
        peers = ["--peers", f"/ip4/127.0.0.1/tcp/{port}/p2p/{status['peer_id']}"]
        started.append(joiner := RealNode(tmp_path / "j", *peers, "--set", f"network.inbound={inbound}", text=text))
        joiner.wait_for(lambda status: status["state"] == "training", PATIENCE_S, "the joiner trains")
        assert "state_downloaded" in joiner.log.read_text()
        for node in started:
            assert node.end() == 0, node.tail()
            assert node.survivors() == []
    finally:
        for node in started:
            node.clean_up()
