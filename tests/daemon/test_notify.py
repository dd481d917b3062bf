"""What a service manager hears, over real datagram sockets."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowcomm_node.daemon.notify import ServiceNotifier


class Manager:
    """The other end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """Every line since the last look."""
        lines = []
        while True:
            try:
                lines += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    abstract = f"@lowcomm-test-{os.getpid()}"
    manager = Manager(str(tmp_path / "notify") if request.param == "path" else abstract)
    yield manager
    manager.close()


def notifier(manager: Manager, **variables: str) -> ServiceNotifier:
    return ServiceNotifier.from_environment({"NOTIFY_SOCKET": manager.address, **variables})


def test_a_life_is_told_once_each(manager: Manager) -> None:
    """Ready and stopping, however often they are said here; stopping asks for the time it may take."""
    service = notifier(manager)

    service.ready()
    service.ready()
    service.stopping(90.0)
    service.stopping(90.0)
    service.close()
    service.stopping(90.0)

    assert manager.heard() == ["READY=1", "STOPPING=1", "EXTEND_TIMEOUT_USEC=90000000"]


def test_the_watchdog_is_fed_three_times_as_often_as_asked_and_no_more(manager: Manager) -> None:
    """Called four times a second for a minute, with a watchdog of six seconds."""
    service = notifier(manager, WATCHDOG_USEC="6000000", WATCHDOG_PID=str(os.getpid()))
    fed: list[float] = []
    for tick in range(240):
        service.beat(tick / 4, "training", state="training", is_well=True)
        fed += [tick / 4] * manager.heard().count("WATCHDOG=1")
    service.close()

    assert fed == [2.0 * number for number in range(30)]


def test_a_node_that_is_not_well_is_not_vouched_for(manager: Manager) -> None:
    """The manager still hears what it does, but neither is the watchdog fed nor more time asked for."""
    service = notifier(manager, WATCHDOG_USEC="6000000")
    for tick in range(240):
        service.beat(tick / 4, "training", state="training", is_well=False)
    service.close()

    assert set(manager.heard()) == {"STATUS=training"}


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "6000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "often"}, {"WATCHDOG_USEC": ""}],
)
def test_no_watchdog_for_us_is_not_fed(tmp_path: Path, variables: dict[str, str]) -> None:
    """None is set, or it watches another process, or makes no sense."""
    manager = Manager(str(tmp_path / "notify"))
    service = notifier(manager, **variables)
    service.ready()
    for tick in range(40):
        service.beat(tick, "training", state="training", is_well=True)
    service.close()

    assert not any("WATCHDOG" in line for line in manager.heard())
    manager.close()


def test_status_is_one_short_line_at_a_bounded_rate(tmp_path: Path) -> None:
    """At once when the state changes, else every five seconds; until ready, each asks for more time."""
    manager = Manager(str(tmp_path / "notify"))
    service = notifier(manager)
    for tick in range(80):
        state = "training" if tick >= 42 else "syncing"
        if tick == 42:
            service.ready()
        service.beat(tick / 4, f"{state}:\n" + "x" * 9999, state=state, is_well=True)
    service.close()

    lines = manager.heard()
    statuses = [line for line in lines if line.startswith("STATUS=")]
    assert [line.partition(":")[0] for line in statuses] == ["STATUS=syncing"] * 3 + ["STATUS=training"] * 2
    assert max(map(len, statuses)) <= 410
    assert lines.count("EXTEND_TIMEOUT_USEC=30000000") == 3
    manager.close()


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nowhere/at/all"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    """No variable, a kind of address we do not speak, or nobody there: no error, no wait."""
    service = ServiceNotifier.from_environment({"NOTIFY_SOCKET": address})

    service.ready()
    service.beat(0.0, "training", state="training", is_well=True)
    service.close()


def test_children_do_not_inherit_the_manager() -> None:
    """They would be told off for speaking, or believe that they are watched."""
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2", "HOME": "/root"}

    ServiceNotifier.from_environment(environ).close()

    assert environ == {"HOME": "/root"}


def test_a_manager_that_reads_nothing_does_not_stop_us(tmp_path: Path) -> None:
    """Its queue holds a few datagrams; what does not fit is dropped, not waited for."""
    manager = Manager(str(tmp_path / "notify"))
    service = notifier(manager)

    for tick in range(5000):
        service.beat(5.0 * tick, "training", state="training", is_well=True)
    service.close()

    assert manager.heard()
    manager.close()
