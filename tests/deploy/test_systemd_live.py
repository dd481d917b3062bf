"""The unit under a real systemd: started, watched over, stopped, and left alone when its settings are wrong."""

import json
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.real_systemd import LAUNCHER, PACKAGE, RealSystemd, needs_systemd, wait_until
from tests.deploy.tools import REPOSITORY
from tests.system.real_nodes import TINY_MANIFEST

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

UNIT = "lowcomm-node.service"
_PATIENCE_S = 180.0
"""For a start on a machine that has other things to do."""
_CONFIG = """
state_dir = "/var/lib/lowcomm-node"
[device]
threads = 1
[metrics]
port = 0
"""
_QUICKER = "[Service]\nRestartSec=1\n"
_WATCHED = "[Service]\nWatchdogSec=10\n"
"""What a test cannot wait for; all else is as it is shipped."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSystemd]:
    needs_systemd()
    machine = RealSystemd(tmp_path_factory.mktemp("systemd"), PACKAGE)
    try:
        machine.run("useradd", "--system", "--user-group", "--home-dir=/var/lib/lowcomm-node", "lowcomm-node")
        machine.write("/opt/lowcomm-node/current/bin/lowcomm-node", LAUNCHER, 0o755)
        machine.write(f"/etc/systemd/system/{UNIT}", (REPOSITORY / "deploy/systemd" / UNIT).read_text())
        machine.write(f"/etc/systemd/system/{UNIT}.d/test.conf", _QUICKER)
        machine.write("/etc/lowcomm-node/run.toml", TINY_MANIFEST)
        machine.write("/etc/lowcomm-node/node.env", "JOIN_OPTIONS=--manifest /etc/lowcomm-node/run.toml\n", 0o600)
        machine.run("systemctl", "daemon-reload")
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def unit(machine: RealSystemd) -> Iterator[RealSystemd]:
    """The machine with the unit stopped, its settings sound, and nothing left of the test before."""
    machine.write("/etc/lowcomm-node/config.toml", _CONFIG)
    yield machine
    machine.run("systemctl", "stop", UNIT, check=False)
    machine.run("systemctl", "reset-failed", UNIT, check=False)
    machine.run("rm", "-rf", "/var/lib/lowcomm-node")


def trains(machine: RealSystemd) -> Mapping[str, str]:
    """Wait for a node that has taken steps; what systemd then says of it."""
    wait_until(
        lambda: re.match(r"training: step \d+", machine.show(UNIT).get("StatusText", "")) is not None,
        _PATIENCE_S,
        machine.failures,
    )
    return machine.show(UNIT)


def steps(shown: Mapping[str, str]) -> int:
    """How many steps its own status says."""
    return int(re.findall(r"step (\d+)", shown["StatusText"])[0])


def journal(machine: RealSystemd, *options: str) -> list[dict[str, Any]]:
    """What the unit's processes have said, the oldest first."""
    text = machine.ask("journalctl", f"_SYSTEMD_UNIT={UNIT}", "--output=json", *options)
    return [json.loads(line) for line in text.splitlines()]


def processes(machine: RealSystemd) -> dict[int, str]:
    """Every process of the service, by its pid in there."""
    pids = machine.ask("cat", f"/sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs").split()
    return {int(pid): machine.ask("cat", f"/proc/{pid}/cmdline").replace("\0", " ") for pid in pids}


def test_a_start_ends_when_the_node_is_a_member(unit: RealSystemd) -> None:
    """Not before: then it has found or founded its run. Afterwards status, journal and sandbox are what the unit promises."""
    unit.run("systemctl", "start", UNIT, timeout_s=_PATIENCE_S)

    said = [entry["MESSAGE"] for entry in journal(unit)]
    assert any("event=joined" in line for line in said)
    shown = trains(unit)
    assert (shown["ActiveState"], shown["NRestarts"], shown["User"]) == ("active", "0", "lowcomm-node")
    assert re.search(r"loss \d+\.\d+, 0 peers known", shown["StatusText"])
    running = processes(unit)
    assert sum("lowcomm_node join" in words for words in running.values()) == 1
    assert sum("train.process" in words for words in running.values()) == 1
    assert unit.ask("stat", "--format=%U %a", "/var/lib/lowcomm-node") == "lowcomm-node 700"
    unit.run("runuser", "-u", "lowcomm-node", "--", "/opt/lowcomm-node/current/bin/lowcomm-node", "status")
    exposure = unit.ask("systemd-analyze", "security", UNIT).splitlines()[-1]
    assert float(re.findall(r"\d+\.\d+", exposure)[0]) < 2.0
    assert not journal(unit, "--priority=err")
    everything = unit.ask("journalctl", "--unit", UNIT)
    assert "reception only permitted" not in everything  # of messages to systemd: the children send none


def test_a_frozen_daemon_is_ended_and_started_again(unit: RealSystemd) -> None:
    """By the watchdog, with all its children; where the threads were is in the journal, and the new life trains."""
    drop_in = f"/etc/systemd/system/{UNIT}.d/watched.conf"
    unit.write(drop_in, _WATCHED)
    unit.run("systemctl", "daemon-reload")
    try:
        unit.run("systemctl", "start", UNIT, timeout_s=_PATIENCE_S)
        before = trains(unit)
        old = processes(unit)

        unit.run("kill", f"-{signal.SIGSTOP}", before["MainPID"])

        wait_until(lambda: unit.show(UNIT)["NRestarts"] != "0", _PATIENCE_S, unit.failures)
        after = trains(unit)
    finally:
        unit.run("rm", drop_in)
        unit.run("systemctl", "daemon-reload")
    assert after["MainPID"] != before["MainPID"]
    assert not old.keys() & processes(unit).keys()
    everything = unit.ask("journalctl", "--unit", UNIT, "--output=cat")
    assert "Watchdog timeout" in everything
    assert "Fatal Python error: Aborted" in everything


def test_a_trainer_that_dies_is_the_daemons_business(unit: RealSystemd) -> None:
    """As after the kernel has ended it for want of memory: the service goes on, with another trainer."""
    unit.run("systemctl", "start", UNIT, timeout_s=_PATIENCE_S)
    before = trains(unit)
    trainer = next(pid for pid, words in processes(unit).items() if "train.process" in words)

    unit.run("kill", f"-{signal.SIGKILL}", str(trainer))

    wait_until(
        lambda: any("train.process" in words and pid != trainer for pid, words in processes(unit).items()),
        _PATIENCE_S,
        unit.failures,
    )
    after = trains(unit)
    assert (after["MainPID"], after["NRestarts"]) == (before["MainPID"], "0")


def test_a_stop_saves_and_the_next_start_goes_on(unit: RealSystemd) -> None:
    """The state is saved while the trainer still lives; the next life has the same identity and begins with that state."""
    unit.run("systemctl", "start", UNIT, timeout_s=_PATIENCE_S)
    before = steps(trains(unit))
    key = unit.ask("sha256sum", "/var/lib/lowcomm-node/identity.key")

    unit.run("systemctl", "stop", UNIT, timeout_s=_PATIENCE_S)

    stopped = unit.show(UNIT)
    assert (stopped["ActiveState"], stopped["Result"]) == ("inactive", "success")
    assert unit.ask("sh", "-c", "ls /var/lib/lowcomm-node/checkpoints") == "00000001"
    unit.run("systemctl", "start", UNIT, timeout_s=_PATIENCE_S)
    assert steps(trains(unit)) > before
    assert unit.ask("sha256sum", "/var/lib/lowcomm-node/identity.key") == key


def test_leaving_is_not_undone(unit: RealSystemd) -> None:
    """'lowcomm-node leave' by the operator ends the service, too."""
    unit.run("systemctl", "start", UNIT, timeout_s=_PATIENCE_S)
    trains(unit)

    unit.run("runuser", "-u", "lowcomm-node", "--", "/opt/lowcomm-node/current/bin/lowcomm-node", "leave")

    wait_until(lambda: unit.show(UNIT)["ActiveState"] == "inactive", _PATIENCE_S, unit.failures)
    shown = unit.show(UNIT)
    assert (shown["Result"], shown["NRestarts"]) == ("success", "0")


@pytest.mark.parametrize(
    ("settings", "options", "sentence"),
    [
        ('state_dirr = "/var/lib/lowcomm-node"\n', "--manifest /etc/lowcomm-node/run.toml", "did you mean state_dir?"),
        (_CONFIG, "", "nothing to join"),
        (_CONFIG, "--manifestt /etc/lowcomm-node/run.toml", "did you mean --manifest?"),
    ],
    ids=["settings", "no-run", "command-line"],
)
def test_what_trying_again_cannot_cure_is_not_tried_again(
    unit: RealSystemd, settings: str, options: str, sentence: str
) -> None:
    """Exit statuses 78 and 2: the unit has failed, and the journal says in one line what is wrong."""
    unit.write("/etc/lowcomm-node/config.toml", settings)
    unit.write("/etc/lowcomm-node/node.env", f"JOIN_OPTIONS={options}\n", 0o600)
    try:
        done = unit.run("systemctl", "start", UNIT, check=False, timeout_s=_PATIENCE_S)
    finally:
        unit.write("/etc/lowcomm-node/node.env", "JOIN_OPTIONS=--manifest /etc/lowcomm-node/run.toml\n", 0o600)

    shown = unit.show(UNIT)
    assert done.returncode != 0
    assert (shown["ActiveState"], shown["NRestarts"]) == ("failed", "0")
    assert shown["ExecMainStatus"] in ("2", "78")
    errors = [entry["MESSAGE"] for entry in journal(unit, "--priority=err") if sentence in entry["MESSAGE"]]
    assert errors
    assert errors[-1].startswith("error: ")


def test_peers_that_do_not_answer_are_tried_again(unit: RealSystemd) -> None:
    """Exit status 69: the machine was up before its network, or before the other one."""
    peer = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWRxqtvzYSfUUSM6Ktxo7sRWtGuFQjP8hg43twy7HVrGV3"
    unit.write("/etc/lowcomm-node/config.toml", _CONFIG + "[network]\nstart_timeout_s = 5\n")
    unit.write("/etc/lowcomm-node/node.env", f"LOWCOMM_PEERS={peer}\n", 0o600)
    try:
        unit.run("systemctl", "start", "--no-block", UNIT)
        wait_until(lambda: unit.show(UNIT).get("NRestarts") == "2", _PATIENCE_S, unit.failures)
    finally:
        unit.write("/etc/lowcomm-node/node.env", "JOIN_OPTIONS=--manifest /etc/lowcomm-node/run.toml\n", 0o600)

    errors = [entry["MESSAGE"] for entry in journal(unit, "--priority=err")]
    assert any("none of the given peers can be joined" in line for line in errors), errors


def test_the_machine_leaves_nothing(tmp_path: Path) -> None:
    """When its end of the pipe is closed, its control groups and processes are gone from this machine."""
    needs_systemd()
    machine = RealSystemd(tmp_path, {})
    group = machine.group

    machine.stop()

    wait_until(lambda: not group.exists(), 30.0, lambda: f"{group} is still there")
