"""Node settings: what the volunteer decides about this machine. Never part of the run id."""

from dataclasses import dataclass, field
from typing import Annotated

from lowcomm_node.settings.rules import Between, OneOf, fail

__all__ = [
    "DataSettings",
    "DeviceSettings",
    "LogSettings",
    "MeetingSettings",
    "MetricsSettings",
    "NetworkSettings",
    "NodeSettings",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """What the trainer may use."""

    name: str = "auto"
    """Torch device: auto picks cuda when there is one, else cpu. Several GPUs, as in "cuda:0,cuda:1", train together as one
    node: every step takes a batch on each, and tokens count all of them."""
    threads: Annotated[int, Between(0, 1024)] = 0
    """CPU threads of the trainer, of all its devices together; 0 lets torch decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """The text this node trains on."""

    paths: tuple[str, ...] = ()
    """Files, folders or globs; empty means the Python standard library's own sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """Where the node listens."""

    host: str = "127.0.0.1"
    """Address to bind; 0.0.0.0 to be reachable from other machines."""
    announce_host: str = ""
    """Address others should dial; empty means the bound one."""
    dht_port: Annotated[int, Between(0, 65535)] = 0
    """TCP port of the DHT (libp2p); 0 picks a free one."""
    grpc_port: Annotated[int, Between(0, 65535)] = 0
    """TCP port of meetings and downloads; 0 picks a free one."""
    start_timeout_s: Annotated[float, Between(1.0, 600.0)] = 60.0
    """Seconds the DHT may take to start, and that a joiner looks for the peers it was given."""
    record_ttl_s: Annotated[float, Between(5.0, 3600.0)] = 60.0
    """Seconds a member record lives without being renewed (renewed at a third of it)."""
    poll_every_s: Annotated[float, Between(0.5, 600.0)] = 10.0
    """Seconds between two looks into the directory."""
    max_peers: Annotated[int, Between(2, 10000)] = 64
    """Size of the sample of live peers the node keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetingSettings:
    """Patience."""

    deadline_s: Annotated[float, Between(0.5, 3600.0)] = 20.0
    """Longest silence, in seconds, after which one wait of a meeting (for the partner, or for the own trainer) is given up. Nodes
    learn shorter ones from the waits they see: median and spread, 3 s at least. A message that is moving is never cut off."""
    verdict_keep_s: Annotated[float, Between(1.0, 86400.0)] = 120.0
    """Seconds a finished meeting is remembered, so that a retry finds its verdict; no less than deadline_s."""

    def check(self) -> None:
        if self.verdict_keep_s < self.deadline_s:
            fail(
                "meeting.verdict_keep_s",
                self.verdict_keep_s,
                f"at least meeting.deadline_s = {self.deadline_s:g}: a verdict that is forgotten before its partner may "
                "be late leaves half meetings",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """The local HTTP port with /metrics, /livez, /readyz and /status."""

    host: str = "127.0.0.1"
    """Address to bind; keep it on loopback unless a firewall guards it."""
    port: Annotated[int, Between(0, 65535)] = 9464
    """TCP port; 0 picks a free one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What is written to standard error."""

    level: Annotated[str, OneOf("debug", "info", "warning", "error")] = "info"
    """Least important level that is written."""
    format: Annotated[str, OneOf("auto", "text", "json")] = "auto"
    """auto: text on a terminal, json otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """All settings of one node."""

    state_dir: str = ""
    """Directory of identity, checkpoints and control socket; empty means the user's state directory."""
    eval_every_steps: Annotated[int, Between(0, 1_000_000)] = 100
    """Own steps between two looks at the validation loss; 0 is never."""
    device: DeviceSettings = field(default_factory=DeviceSettings)
    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    meeting: MeetingSettings = field(default_factory=MeetingSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    log: LogSettings = field(default_factory=LogSettings)
