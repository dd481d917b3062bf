"""How the nodes of a swarm are told apart and set up: directories, common settings, command lines."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowcomm_node.adapters.checkpoint_store import newest_state_file
from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.cli.swarm.ports import NodePorts
from lowcomm_node.cli.swarm.sandbox import Disk, Room, Sandbox
from lowcomm_node.settings.load import toml_value
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import MeetingSettings, NodeSettings
from lowcomm_node.settings.template import manifest_template

__all__ = [
    "CHAOS_RECORD_TTL_S",
    "IDENTITY_FILE",
    "NodePlace",
    "RoomOf",
    "Workshop",
    "node_environment",
    "threads_per_node",
    "verdict_keep_s",
]

IDENTITY_FILE = "identity.key"
"""Where ``join`` keeps who a node is, in its state directory."""
_LOOPBACK = "127.0.0.1"
_START_TIMEOUT_S = 180.0
_LOOKS_PER_RUN = 25
_MIN_EVAL_EVERY_STEPS = 10
_POLL_EVERY_S = 2.0
_RECORD_TTL_S = 20.0
CHAOS_RECORD_TTL_S = 12.0
_CHAOS_CHECKPOINT_S = 10
_CHAOS_VERDICT_KEEP_S = 40.0
"""Longer than any fault, so that a verdict is still known when it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlace:
    """Where one node lives, through all its lives."""

    name: str
    """n0 is the bootstrap."""
    ports: NodePorts
    directory: Path
    room: Room | None = None
    """Its own network; None where all share the computer's."""
    disk: Disk | None = None
    """The file system of its directory, if it has one of its own."""

    @property
    def host(self) -> str:
        """Address at which the others find it."""
        return _LOOPBACK if self.room is None else self.room.host

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Sockets that are opened and processes that are started within are in the node's network."""
        return contextlib.nullcontext() if self.room is None else self.room.entered()

    @property
    def log_file(self) -> Path:
        """Output of all its lives."""
        return self.directory.with_suffix(".log")

    @property
    def final_state(self) -> Path:
        """State file of its newest checkpoint: of an orderly end, once it has come to one."""
        return newest_state_file(self.directory)


RoomOf = Callable[[str], Room | None]
"""A network for the node of this name; None where there can be none."""


class Workshop:
    """The swarm's directory: manifest, common node settings, one folder and one log per node."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        settings: NodeSettings,
        sandbox: Sandbox | None = None,
        room_of: RoomOf | None = None,
        quiet_hours: str = "",
        is_patient: bool = False,
    ) -> None:
        """Write the manifest and what the nodes share of ``settings`` (device, data) into ``directory``.

        With a sandbox nodes get disks of their own, and settings that let a fault show within the run; ``is_patient`` leaves
        them all the times that nodes have by default. ``room_of`` gives them networks of their own.
        """
        self.directory = directory
        self._sandbox = sandbox
        self._room_of = room_of
        self.manifest_file = directory / "run.toml"
        self.manifest_file.write_text(manifest_template(manifest), encoding="utf-8")
        self.config_file = directory / "node.toml"
        self.config_file.write_text(
            _node_settings(
                manifest,
                settings,
                is_chaotic=sandbox is not None,
                is_patient=is_patient,
                is_logged=is_patient or sandbox is not None or room_of is not None,
                quiet_hours=quiet_hours,
            ),
            encoding="utf-8",
        )

    def place(self, name: str, ports: NodePorts) -> NodePlace:
        """Make the node's directory."""
        directory = self.directory / name
        directory.mkdir(mode=0o700)
        room = self._room_of(name) if self._room_of is not None else None
        disk = self._sandbox.disk(directory) if self._sandbox is not None else None
        return NodePlace(name=name, ports=ports, directory=directory, room=room, disk=disk)

    def address(self, place: NodePlace) -> str:
        """Where the node will be found once it runs: its identity is made here, before its first start."""
        peer_id = load_or_create(place.directory / IDENTITY_FILE).peer_id
        return f"/ip4/{place.host}/tcp/{place.ports.dht}/p2p/{peer_id}"

    def command(self, place: NodePlace, peers: Sequence[str]) -> list[str]:
        """The ``lowcomm-node join`` of a node; without peers it starts the run."""
        whom = ["--peers", *peers] if peers else ["--manifest", str(self.manifest_file)]
        settings = {
            "network.host": place.host,
            "network.dht_port": place.ports.dht,
            "network.grpc_port": place.ports.grpc,
            "metrics.port": place.ports.metrics,
        }
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        join = ["join", *whom, "--state-dir", str(place.directory), "--config", str(self.config_file), *sets]
        return [sys.executable, "-m", "lowcomm_node", *join]


def threads_per_node(nodes: int, cores: int) -> int:
    """CPU threads for each node's trainer, so that all together do not fight for the cores."""
    return max(1, cores // nodes)


def node_environment() -> dict[str, str]:
    """This environment without the settings a user keeps for a node of their own: a swarm is the same everywhere."""
    return {key: value for key, value in os.environ.items() if not key.startswith("LOWCOMM_")}


def verdict_keep_s(*, is_chaotic: bool) -> float:
    """``meeting.verdict_keep_s`` of the nodes, under chaos or otherwise."""
    return _CHAOS_VERDICT_KEEP_S if is_chaotic else MeetingSettings().verdict_keep_s


def _node_settings(
    manifest: Manifest,
    settings: NodeSettings,
    *,
    is_chaotic: bool,
    is_patient: bool,
    is_logged: bool,
    quiet_hours: str,
) -> str:
    """Settings all share.

    On one computer the directory is cheap, so members are looked up often and expire soon; and all nodes start at
    once, so the last may have to wait long for the first. Under chaos records expire sooner still, checkpoints are written all
    the time, half meetings are counted within the run and not after two minutes. ``is_logged``: the logs tell of each meeting.
    ``is_patient``: everything takes the time it takes by default.
    """
    eval_every = max(_MIN_EVAL_EVERY_STEPS, manifest.training.total_steps // _LOOKS_PER_RUN)
    return "\n".join(
        [
            "# Settings that all nodes of this swarm share; each has its own ports on the command line.",
            f"eval_every_steps = {eval_every}",
            "[device]",
            f"threads = {settings.device.threads}",
            "[owner]",  # who starts a swarm wants it now, and its nodes share one GPU
            "pause_on_battery = false",
            "max_temperature_c = 0.0",
            "yield_gpu = false",
            "nice = 0",
            "[data]",
            f"paths = {toml_value(list(settings.data.paths))}",
            f"tokenizer = {toml_value(settings.data.tokenizer)}",
            "[network]",
            f"start_timeout_s = {_START_TIMEOUT_S}",
            *([] if is_patient else [f"poll_every_s = {_POLL_EVERY_S}"]),
            *([] if is_patient else [f"record_ttl_s = {CHAOS_RECORD_TTL_S if is_chaotic else _RECORD_TTL_S}"]),
            *(["[checkpoint]", f"every_s = {_CHAOS_CHECKPOINT_S}"] if is_chaotic else []),
            *(["[meeting]", f"verdict_keep_s = {_CHAOS_VERDICT_KEEP_S}"] if is_chaotic else []),
            "[log]",
            *(['format = "json"', 'level = "debug"'] if is_logged else ['format = "text"']),
            *(["[bandwidth]", f"quiet_hours = {toml_value(quiet_hours)}"] if quiet_hours else []),
            "",
        ]
    )
