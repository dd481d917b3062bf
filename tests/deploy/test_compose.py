"""The compose files without an engine: what a user writes wrong is said, and what must not be open is not."""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from lowcomm_node.settings.merge import OTHER_VARIABLES
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.schema import keys_of
from tests.deploy.plugins import plugin
from tests.deploy.tools import REPOSITORY

_FOLDER = REPOSITORY / "docker"
_PEERS = {"LOWCOMM_PEERS": "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooW"}
_FIRST = {"LOWCOMM_NETWORK__ANNOUNCE_HOST": "one.example", "RUN_MANIFEST": "/srv/run.toml"}
_SETS: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "cluster": (("compose.yaml",), {}),
    "first": (("compose.first.yaml",), _FIRST),
    "first with GPUs": (("compose.first.yaml", "compose.gpu.yaml"), _FIRST),
    "node": (("compose.node.yaml",), _PEERS),
    "node with GPUs": (("compose.node.yaml", "compose.gpu.yaml"), _PEERS),
    "node with GPUs by CDI": (("compose.node.yaml", "compose.cdi.yaml"), _PEERS),
}


def _compose(files: tuple[str, ...], variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run compose without an engine, and with no variable of ours but these."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
    return subprocess.run(
        [plugin("docker-compose"), *(word for name in files for word in ("--file", str(_FOLDER / name))), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**kept, **variables},
    )


def _read(name: str) -> dict[str, Any]:
    files, variables = _SETS[name]
    done = _compose(files, variables, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.parametrize("name", _SETS)
def test_compose_takes_them(name: str) -> None:
    """Strictly: no unknown key, no value of a wrong kind, no warning."""
    files, variables = _SETS[name]

    done = _compose(files, variables, "config", "--quiet")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("file", "variables", "missing"),
    [
        ("compose.node.yaml", {}, "LOWCOMM_PEERS"),
        ("compose.node.yaml", {"LOWCOMM_PEERS": ""}, "LOWCOMM_PEERS"),
        ("compose.first.yaml", {"RUN_MANIFEST": "/srv/run.toml"}, "LOWCOMM_NETWORK__ANNOUNCE_HOST"),
        ("compose.first.yaml", {"LOWCOMM_NETWORK__ANNOUNCE_HOST": "one.example"}, "RUN_MANIFEST"),
    ],
)
def test_what_must_be_given_is_asked_for(file: str, variables: Mapping[str, str], missing: str) -> None:
    """A node without peers, or a first node that nobody finds, does not start at all; where to read more is said."""
    done = _compose((file,), variables, "config", "--quiet")

    assert done.returncode != 0
    assert re.search(rf"required variable {missing} is missing a value: .*node\.env\.example", done.stderr)


@pytest.mark.parametrize("name", _SETS)
def test_every_container_is_hardened(name: str) -> None:
    """Read-only, without capabilities or a way to get any, started again, and named by a version."""
    for service, found in _read(name)["services"].items():
        assert found["read_only"] is True, service
        assert found["cap_drop"] == ["ALL"], service
        assert found["security_opt"] == ["no-new-privileges:true"], service
        assert found["restart"] == "unless-stopped", service
        assert "privileged" not in found, service
        assert not found["image"].endswith(":latest"), service
        assert ":" in found["image"], service


@pytest.mark.parametrize("name", _SETS)
def test_nodes_are_looked_after(name: str) -> None:
    """Orphans are reaped, health is what makes a container ready, and there is time to leave in order."""
    nodes = [found for found in _read(name)["services"].values() if "lowcomm-node" in found["image"]]

    assert nodes
    for node in nodes:
        assert node["init"] is True
        assert node["healthcheck"]["test"] == ["CMD", "lowcomm-node", "healthcheck", "--ready"]
        assert node["stop_grace_period"] == "2m0s"
        assert any(volume["target"] == "/run/lowcomm-node" for volume in node["volumes"]) == (name == "cluster")


def test_a_cluster_is_open_to_this_computer_only() -> None:
    """No port of the demonstration is published to others, the one with an unguarded page least."""
    services = _read("cluster")["services"]
    ports = [port for found in services.values() for port in found.get("ports", ())]

    assert len(ports) == 4
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert services["worker"]["scale"] == 3
    assert services["worker"]["depends_on"]["bootstrap"]["condition"] == "service_healthy"


@pytest.mark.parametrize("name", ["first", "node"])
def test_on_several_hosts_nodes_use_the_hosts_own_network(name: str) -> None:
    """Real addresses, and no second router; the local port stays on loopback."""
    node = _read(name)["services"]["node"]

    assert node["network_mode"] == "host"
    assert "ports" not in node
    assert "LOWCOMM_METRICS__HOST" not in node["environment"]


@pytest.mark.parametrize(("name", "driver"), [("node with GPUs", "nvidia"), ("node with GPUs by CDI", "cdi")])
def test_gpus_are_asked_for(name: str, driver: str) -> None:
    """By the words that compose and the engine know; whether a GPU then comes was not tested."""
    (device,) = _read(name)["services"]["node"]["deploy"]["resources"]["reservations"]["devices"]

    assert device["driver"] == driver
    assert device["capabilities"] == ["gpu"]


def test_the_example_of_settings_names_what_there_is() -> None:
    """Each setting in it is one that a node knows, and each other word one that a compose file asks for."""
    text = (_FOLDER / "node.env.example").read_text()
    named = set(re.findall(r"(?m)^(?:# )?([A-Z_]+)=", text))
    settings = {f"LOWCOMM_{key.replace('.', '__').upper()}" for key in keys_of(NodeSettings)} | set(OTHER_VARIABLES)
    asked = {name for path in _FOLDER.glob("*.yaml") for name in re.findall(r"\$\{(\w+)", path.read_text())}

    assert {name for name in named if name.startswith("LOWCOMM_")} <= settings
    assert {name for name in named if not name.startswith("LOWCOMM_")} <= asked
    assert asked & settings <= named
