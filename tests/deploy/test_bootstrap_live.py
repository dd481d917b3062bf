"""The bootstrap on a machine that has nothing yet: it ends in a joined node; another version comes, and goes again."""

import json
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.namespace import Namespace
from tests.deploy.real_systemd import PACKAGE, RealSystemd, needs_systemd, wait_until
from tests.deploy.tools import REPOSITORY, missing
from tests.system.real_nodes import TINY_MANIFEST, RealNode

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

UNIT = "lowcomm-node.service"
_PYTHON = "/usr/bin/python3"
_CONFIG = """
state_dir = "/var/lib/lowcomm-node"
[device]
threads = 1
[metrics]
port = 0
"""
_ONE_CORE = "[Service]\nEnvironment=LOWCOMM_DEVICE__THREADS=1\n"
"""The three are on one computer."""
_NEW_VERSION = "99.1.0"


def wheel(folder: Path, version: str | None = None) -> Path:
    """The package as a wheel, as another version where one is named."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "lowcomm_node", source / "lowcomm_node", ignore=shutil.ignore_patterns("__pycache__"))
    if version is not None:
        module = source / "lowcomm_node/__init__.py"
        module.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', module.read_text()))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        missing(f"pip cannot build a wheel here (it needs hatchling): {done.stderr[-300:]}", "CI_NEEDS_SYSTEMD")
    return next(folder.glob("*.whl"))


@pytest.fixture
def seed(tmp_path: Path) -> Iterator[RealNode]:
    """A node that is in the run already, outside of the container."""
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 2000)
    manifest = tmp_path / "run.toml"
    manifest.write_text(TINY_MANIFEST)
    node = RealNode(tmp_path / "seed", "--manifest", str(manifest), text=text)
    yield node
    node.clean_up()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is, and as it will be."""
    folder = tmp_path_factory.mktemp("wheels")
    shutil.copy(wheel(tmp_path_factory.mktemp("now")), folder)
    shutil.copy(wheel(tmp_path_factory.mktemp("later"), _NEW_VERSION), folder)
    return folder


@contextmanager
def new_machine(folder: Path, wheels: Path, network: Namespace | None = None) -> Iterator[RealSystemd]:
    """One with packages of its own, as rented GPU boxes have torch: those of the interpreter that runs the tests."""
    needs_systemd()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    look = [_PYTHON, "-c", "import venv, ensurepip, sys; print(sys.version)"]
    own = subprocess.run(look, capture_output=True, text=True, check=False)
    if not own.stdout.startswith(f"{version}."):
        missing(f"{_PYTHON} is not a Python {version} with venv, which the packages here are for", "CI_NEEDS_SYSTEMD")
    folder.mkdir()
    machine = RealSystemd(folder, {**PACKAGE, wheels: "/srv/wheels"}, network)
    try:
        site = machine.ask(_PYTHON, "-c", "import site; print(site.getsitepackages()[0])")
        machine.write(f"{site}/tests.pth", f"/srv/packages/lib/python{version}/site-packages\n")
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def machine(tmp_path: Path, wheels: Path) -> Iterator[RealSystemd]:
    """In this machine's network, as the seed is."""
    with new_machine(tmp_path / "systemd", wheels) as machine:
        machine.write("/etc/lowcomm-node/config.toml", _CONFIG)
        yield machine


@pytest.fixture
def networks() -> Iterator[tuple[Namespace, Namespace, Namespace]]:
    """Three hosts' networks: the second and the third have a line to the first, which is the router between them."""
    needs_systemd()
    made: list[Namespace] = []
    try:
        made.extend(Namespace(f"lcn-{secrets.token_hex(3)}-{name}") for name in "abc")
    except (OSError, subprocess.CalledProcessError) as error:
        missing(f"no network namespace can be made here: {error}", "CI_NEEDS_SYSTEMD")
    first, second, third = made
    try:
        first.link(second, "10.78.1.1/24", "10.78.1.2/24", "line-b")
        first.link(third, "10.78.2.1/24", "10.78.2.2/24", "line-c")
        first.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        second.run("ip", "route", "add", "default", "via", "10.78.1.1")
        third.run("ip", "route", "add", "default", "via", "10.78.2.1")
        yield first, second, third
    finally:
        for network in made:
            network.remove()


def packages(machine: RealSystemd) -> list[str]:
    """The wheels in there, the newer version last."""
    return sorted(machine.ask("sh", "-c", "ls /srv/wheels/*").split(), key=lambda name: _NEW_VERSION in name)


def bootstrap(machine: RealSystemd, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as root in there."""
    options = ("--wait", "300")
    return machine.run(
        "/srv/source/deploy/bootstrap/bootstrap.sh", *arguments, *options, check=False, timeout_s=800, PIP_NO_INDEX="1"
    )


def as_user(machine: RealSystemd, *arguments: str) -> Any:
    text = machine.ask("runuser", "-u", "lowcomm-node", "--", "/usr/local/bin/lowcomm-node", *arguments)
    return json.loads(text)


def test_a_machine_with_nothing_on_it_becomes_a_member(machine: RealSystemd, seed: RealNode) -> None:
    """Told off where it is not fit, joined where it is; the same again changes nothing; a new version, and back, keep the identity."""
    now, later = packages(machine)
    options = ("--python", _PYTHON, "--system-packages")
    nobody = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWKTDh6kArzRWoPfs8g43twy7HVrGV3iaiAXM4fx6Xbs4p"
    refused = bootstrap(machine, "--package", now, "--peers", nobody, *options)
    assert refused.returncode == 1, refused.stdout + refused.stderr
    assert "not fit to join yet" in refused.stderr
    assert machine.ask("systemctl", "is-active", UNIT) == "inactive"
    address = seed.wait_for(lambda status: status["state"] == "training", 120.0, "the seed trains")["join_address"]

    first = bootstrap(machine, "--package", now, "--peers", address, *options)

    assert first.returncode == 0, first.stdout + first.stderr + machine.failures()
    assert "is installed already" in first.stdout  # by the run before, which went no further
    assert "the node is a member" in first.stdout
    assert machine.ask("stat", "--format=%U %a", "/etc/lowcomm-node/node.env") == "root 600"
    assert machine.ask("cat", "/etc/lowcomm-node/config.toml") == _CONFIG.strip()
    assert machine.ask("systemctl", "is-enabled", UNIT) == "enabled"
    wait_until(lambda: as_user(machine, "status", "--json")["meetings"]["completed"] > 0, 120.0, machine.failures)
    peer = as_user(machine, "identity", "show", "--json")["peer_id"]
    pid = machine.show(UNIT)["MainPID"]

    again = bootstrap(machine, "--package", now, "--peers", address, *options)

    assert again.returncode == 0, again.stdout + again.stderr
    assert machine.show(UNIT)["MainPID"] == pid

    newer = bootstrap(machine, "--package", later, *options)

    assert newer.returncode == 0, newer.stdout + newer.stderr + machine.failures()
    status = as_user(machine, "status", "--json")
    assert (status["version"], status["peer_id"]) == (_NEW_VERSION, peer)

    back = bootstrap(machine, "--rollback")

    assert back.returncode == 0, back.stdout + back.stderr + machine.failures()
    status = as_user(machine, "status", "--json")
    assert status["version"] != _NEW_VERSION
    assert status["peer_id"] == peer


def test_three_hosts(tmp_path: Path, wheels: Path, networks: tuple[Namespace, Namespace, Namespace]) -> None:
    """The page's first section: one starts the run and says its address, two join it by that; each meets, and knows both others."""
    options = ("--python", _PYTHON, "--system-packages")
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(new_machine(tmp_path / f"host-{index}", wheels, network))
            for index, network in enumerate(networks)
        ]
        for host in hosts:
            host.write(f"/etc/systemd/system/{UNIT}.d/test.conf", _ONE_CORE)
            host.write("/root/run.toml", TINY_MANIFEST)
        package = packages(hosts[0])[0]
        began_at = time.monotonic()

        starts = ("--manifest", "/root/run.toml", "--announce", "10.78.1.1")
        done = bootstrap(hosts[0], "--package", package, *starts, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        first = as_user(hosts[0], "status", "--json")
        assert first["join_address"].startswith("/ip4/10.78.1.1/tcp/4001/p2p/")
        joins = ("--peers", first["join_address"], "--run", first["run_id"][:12])
        for host in hosts[1:]:
            done = bootstrap(host, "--package", package, *joins, *options)
            assert done.returncode == 0, done.stdout + done.stderr

        for host in hosts:
            wait_until(partial(is_in_company, host), 120.0, host.failures)
        print(f"three hosts after {time.monotonic() - began_at:.0f} s")


def is_in_company(host: RealSystemd) -> bool:
    status = as_user(host, "status", "--json")
    return bool(status["meetings"]["completed"]) and len(as_user(host, "peers", "--json")["peers"]) >= 2
