"""Networks with lines of their own: real sockets through the emulator, and nothing left on the machine."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from lowcomm_node.adapters.tcp import tune_connections
from lowcomm_node.cli.swarm.lines import parse_line
from lowcomm_node.cli.swarm.sandbox import Room
from lowcomm_node.cli.swarm.shaping import Shaping, ShapingError
from lowcomm_node.sim.profiles import Nat

_PORT = 5000
_PATIENCE_S = 20.0


@contextmanager
def _shaped(*nats: Nat) -> Iterator[tuple[Shaping, list[Room]]]:
    try:
        shaping = Shaping(seed=1)
    except ShapingError as error:
        pytest.skip(f"no shaped networks here: {error}")
    try:
        try:
            rooms: list[Room] = [shaping.room(parse_line("50mbit,20ms"), nat=nat) for nat in nats]
        except ShapingError as error:
            pytest.skip(f"no shaped networks here: {error}")
        shaping.start()
        yield shaping, rooms
    finally:
        shaping.close()


def _listener(room: Room) -> socket.socket:
    with room.entered():
        listener = socket.create_server((room.host, _PORT))
    listener.settimeout(_PATIENCE_S)
    return listener


def _dial(room: Room, host: str, patience_s: float = _PATIENCE_S) -> socket.socket:
    with room.entered():
        dialled = socket.socket()
    dialled.settimeout(patience_s)
    try:
        dialled.connect((host, _PORT))
    except OSError:
        dialled.close()
        raise
    return dialled


def test_bytes_pass_both_ways_and_are_counted() -> None:
    """Many packets there, and a word back; the counters have seen it; afterwards the machine is as it was."""
    interfaces, children = set(psutil.net_if_addrs()), set(psutil.Process().children())
    payload = bytes(range(256)) * 100
    with _shaped(Nat.OPEN, Nat.OPEN) as (shaping, (one, other)):
        with _listener(other) as listener, _dial(one, other.host) as here:
            there, (address, _) = listener.accept()
            with there:
                assert address == one.host
                there.settimeout(_PATIENCE_S)
                here.sendall(payload)
                here.shutdown(socket.SHUT_WR)
                taken = bytearray()
                while piece := there.recv(1 << 16):
                    taken += piece
                assert taken == payload
                there.sendall(b"thanks")
                assert here.recv(16) == b"thanks"
        sent, received = shaping.traffic()
        assert sent.sent_bytes > len(payload)
        assert received.received_bytes >= len(payload)
    assert set(psutil.net_if_addrs()) == interfaces
    assert set(psutil.Process().children()) == children


def test_a_node_behind_a_router_dials_and_is_not_dialled() -> None:
    """Others see its public address; nobody gets in by it, nor by its own."""
    with _shaped(Nat.OPEN, Nat.CONE) as (_, (public, hidden)):
        with _listener(public) as listener, _dial(hidden, public.host):
            there, (address, _) = listener.accept()
            there.close()
            assert address != hidden.host
        with _listener(hidden):
            for host in (address, hidden.host):
                with pytest.raises(OSError, match=r"timed out|unreachable"):
                    _dial(public, host, patience_s=0.5)


def test_cut_lines_heal() -> None:
    """As chaos does it."""
    with _shaped(Nat.OPEN, Nat.OPEN) as (_, (one, other)), _listener(other) as listener:
        _dial(one, other.host).close()
        listener.accept()[0].close()
        other.cut()
        with pytest.raises(TimeoutError):  # noqa: PT012
            while True:  # the order travels by a pipe
                _dial(one, other.host, patience_s=0.5).close()
        other.mend()
        _dial(one, other.host).close()


def test_the_carrier_of_packets_ends_with_its_owner() -> None:
    """Closing is enough, twice too much is not needed: the process is gone, and its devices with it."""
    others = psutil.Process().children()  # of tests before this one
    with _shaped(Nat.OPEN) as (shaping, _):
        shaping.traffic()
        (carrier,) = (child for child in psutil.Process().children() if child not in others)
    assert not carrier.is_running()


def test_far_connections_keep_little_in_the_kernel_and_near_ones_what_they_like() -> None:
    """A verdict would wait behind what the kernel has taken and cannot send yet; on loopback nothing waits."""
    with (
        socket.create_server(("127.0.0.1", 0)) as near,
        socket.create_connection(near.getsockname()) as at_hand,
        _shaped(Nat.OPEN, Nat.OPEN) as (_, (one, other)),
        _listener(other) as listener,
        _dial(one, other.host) as dialled,
        listener.accept()[0] as accepted,
    ):
        tune_connections()

        option = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        assert dialled.getsockopt(*option) == accepted.getsockopt(*option) == 128 << 10
        assert at_hand.getsockopt(*option) == listener.getsockopt(*option) == 0
