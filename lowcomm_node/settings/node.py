"""Node settings: what the volunteer decides about this machine. Never part of the run id."""

from dataclasses import dataclass, field
from typing import Annotated

from lowcomm_node.settings.hosts import is_loopback
from lowcomm_node.settings.hours import parse_hours
from lowcomm_node.settings.rules import Between, OneOf, fail

__all__ = [
    "BandwidthSettings",
    "CheckpointSettings",
    "DataSettings",
    "DeviceSettings",
    "LogSettings",
    "MeetingSettings",
    "MetricsSettings",
    "NetworkSettings",
    "NodeSettings",
    "OwnerSettings",
]


_LEAST_MBIT_PER_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """What the trainer may use."""

    name: str = "auto"
    """Torch device: auto picks cuda when there is one, else cpu. Several GPUs, as in "cuda:0,cuda:1", train together as one
    node: every step takes a batch on each, and tokens count all of them."""
    threads: Annotated[int, Between(0, 1024)] = 0
    """CPU threads of the trainer, of all its devices together; 0 lets torch decide."""
    micro_batches: Annotated[int, Between(0, 65536)] = 0
    """Parts that a batch is taken in, one after the other: less memory, the same result, somewhat slower. 0 finds out: it begins
    with what this run has needed here before, else on a GPU with the whole batch, on a CPU with as many as the free memory asks
    for; it takes more when the memory does not suffice, and on a GPU tries from time to time whether fewer do again. A number of
    yours is where it begins."""
    autocast: Annotated[str, OneOf("auto", "on", "off")] = "auto"
    """on: matrix products of the model in bfloat16, while weights, gradients and the optimizer's state stay float32; off: all in
    float32; auto: on where a GPU computes in bfloat16, off elsewhere. Nodes that differ in it train together: they exchange weights."""
    recompute: Annotated[str, OneOf("auto", "on", "off")] = "auto"
    """Activations are computed again for the backward pass instead of being kept: much less memory, about a third more work. auto:
    once the memory does not even suffice for one example."""
    compile: Annotated[str, OneOf("auto", "on", "off")] = "auto"
    """torch.compile for the model: the first steps take minutes, all later ones less. auto: on a GPU that has triton, not on a CPU,
    where a C++ compiler is needed."""
    hang_after_s: Annotated[float, Between(1.0, 86400.0)] = 60.0
    """Seconds the trainer may be silent before it is ended and started again; 20 of its own slowest steps where those are
    longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerSettings:
    """When training leaves this machine to its owner, and goes on by itself afterwards; 'lowcomm-node pause' does it at once."""

    pause_on_battery: bool = True
    """Pause while a laptop runs on its battery. A machine without one never does."""
    max_temperature_c: Annotated[float, Between(0.0, 120.0)] = 100.0
    """Pause when processor or GPU has been as hot as this for half a minute, until it is 10 degrees cooler. 0 is no limit."""
    yield_gpu: bool = True
    """Pause while other processes compute on the GPU that this node trains on (a fifth of the time or more), or leave hardly any of
    its memory free. Other nodes' trainers do not count."""
    max_others_load: Annotated[float, Between(0.0, 1.0)] = 0.0
    """Pause when processes that are not this node's have used more than this share of all processors for half a minute, until they
    use less than half of it. 0 is no limit: nice lets them go first anyway."""
    quiet_hours: str = ""
    """Hours, by this machine's clock, in which nothing is trained, as in "18:00-23:30" or "22:00-07:00, 12:00-13:00". Those in which
    only the line is left alone are bandwidth.quiet_hours."""
    nice: Annotated[int, Between(0, 19)] = 10
    """How far the trainer stands back for other processes on the processor, as in nice(1): 19 takes only what nobody else wants."""

    def check(self) -> None:
        _check_hours("owner.quiet_hours", self.quiet_hours)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """What this node trains on, and where it has the run's tokenizer."""

    paths: tuple[str, ...] = ()
    """Text files, folders or globs; or token shards, files and globs that end in .bin (layouts of nanoGPT, modded-nanogpt and
    llm.c). Empty, without a dataset, means the Python standard library's own sources."""
    tokenizer: str = ""
    """The run's tokenizer.json, where its manifest names one; its digest has to be the manifest's."""
    dataset: str = ""
    """In place of paths, a dataset that the package datasets reads (pip install 'lowcomm-node[hf]'): its name on the Hugging Face
    hub, a folder with one, or a file or glob that ends in .parquet or .jsonl. It is streamed, and tokens of it are kept on disk."""
    dataset_config: str = ""
    """Configuration of the dataset, where it has several."""
    dataset_split: str = "train"
    """Split of the dataset that is trained on. Held out is its split "validation" where it has one, else a share of the rows."""
    dataset_revision: str = ""
    """Commit, tag or branch of a dataset on the hub, for a run that shall be repeated on the same rows; empty takes the newest."""
    text_column: str = "text"
    """Column of the dataset that has the text."""
    cache_gb: Annotated[float, Between(0.001, 100_000.0)] = 4.0
    """Most gigabytes of a dataset's tokens kept in the state directory, two bytes each up to 65,536 tokens. A node trains on these
    alone; each reads the dataset in an order of its own, so what does not fit differs from node to node."""

    def check(self) -> None:
        if self.paths and self.dataset:
            fail("data.dataset", self.dataset, "a dataset or data.paths, not both")
        if self.dataset_revision and not self.dataset:
            fail("data.dataset_revision", self.dataset_revision, "empty where data.dataset names no dataset")


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
    tls: Annotated[str, OneOf("on", "off")] = "on"
    """on: connections are encrypted, and each end knows whom it talks to; off: only on this computer, for looking at what is
    said, among nodes that all have it off: host must be a loopback address."""
    inbound: Annotated[str, OneOf("auto", "on", "off")] = "auto"
    """May others dial this node? auto: ask one of them whether it can, and announce the port only then; on: announce it without
    asking; off: open no port for meetings. A node that is not dialled dials the others and hangs its bell there. The DHT's port
    is opened in any case: holes in routers are punched through it."""
    bells: Annotated[int, Between(0, 64)] = 8
    """Members at which this node hangs its bell while it cannot be dialled: so many can start meetings with it."""
    max_bells: Annotated[int, Between(0, 1024)] = 64
    """Bells of others that this node holds when it can be dialled."""
    start_timeout_s: Annotated[float, Between(1.0, 600.0)] = 60.0
    """Seconds the DHT may take to start, and that a joiner looks for the peers it was given."""
    record_ttl_s: Annotated[float, Between(5.0, 3600.0)] = 60.0
    """Seconds a member record lives without being renewed (renewed at a third of it)."""
    poll_every_s: Annotated[float, Between(0.5, 600.0)] = 10.0
    """Seconds between two looks into the directory."""
    max_peers: Annotated[int, Between(2, 10000)] = 64
    """Size of the sample of live peers the node keeps."""
    state_rate_bytes_per_s: Annotated[float, Between(100_000.0, 1e12)] = 1_000_000.0
    """Bytes per second that downloads of this node's state may take together while a meeting is under way; without one they
    may use the whole line."""

    def check(self) -> None:
        hosts = [host for host in (self.host, self.announce_host) if host and not is_loopback(host)]
        if self.tls == "off" and hosts:
            fail(
                "network.tls",
                self.tls,
                f'"on" where others can connect ({hosts[0]}): without TLS a node stays on loopback',
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthSettings:
    """How much of this machine's line meetings and downloads may take. The DHT's own traffic (some 140 kB a minute among four nodes) is not in it."""

    up_mbit_per_s: Annotated[float, Between(0.0, 1e6)] = 0.0
    """Most megabits per second this node sends; 0 is no cap, 0.5 the least. Some nine tenths of what the line can do keep it usable for others."""
    down_mbit_per_s: Annotated[float, Between(0.0, 1e6)] = 0.0
    """Most megabits per second this node takes in; 0 is no cap, 0.5 the least."""
    quiet_hours: str = ""
    """Hours, by this machine's clock, in which nothing is sent or fetched, as in "18:00-23:30" or "22:00-07:00, 12:00-13:00". Training
    goes on; what was due is exchanged afterwards."""
    monthly_gb: Annotated[float, Between(0.0, 1e6)] = 0.0
    """Most gigabytes in a calendar month, both directions together; 0 is no limit. It is spent evenly: meetings become rarer, and
    do not stop before it is used up."""

    def check(self) -> None:
        for key in ("up_mbit_per_s", "down_mbit_per_s"):
            if 0.0 < (cap := getattr(self, key)) < _LEAST_MBIT_PER_S:
                allowed = f"0, or at least {_LEAST_MBIT_PER_S:g}: partners take slower ones for gone"
                fail(f"bandwidth.{key}", cap, allowed)
        _check_hours("bandwidth.quiet_hours", self.quiet_hours)


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
class CheckpointSettings:
    """How often this node writes its state to disk while it trains, and how much of it stays there."""

    every_s: Annotated[float, Between(0.0, 86400.0)] = 600.0
    """Seconds between two checkpoints: what a power cut may cost. 0 writes one only when the node leaves. A checkpoint takes 16
    to 24 bytes per parameter, so a model of 100 million writes 0.3 TB a day at 600 s: a disk may want it rarer."""
    keep: Annotated[int, Between(1, 100)] = 2
    """Checkpoints that stay on disk; more than one, because the newest may turn out to be damaged."""
    max_bytes: Annotated[int, Between(0, 10**15)] = 0
    """Most bytes of all checkpoints together, kept by keeping fewer, though never fewer than one; while one is written, the one
    before it is there too. Where not even one fits, none is written, and the log says so. 0 is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """The local HTTP port: a page to look at, /metrics, /livez, /readyz, /status, /peers, /history and /sd."""

    host: str = "127.0.0.1"
    """Address to bind; keep it on loopback unless a firewall guards it."""
    port: Annotated[int, Between(0, 65535)] = 9464
    """TCP port; 0 picks a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which the port may be asked, besides localhost and addresses, as in "node1.example". Other names are refused, because
    a page on the internet can give itself a name that leads here."""
    publish: str = ""
    """host:port at which others may fetch this node's /metrics; a port alone, as in ":9464", is one of the host that others dial for
    meetings. It stands in this node's record, for everybody in the run to see. Empty: this node does not tell."""
    discover: Annotated[str, OneOf("on", "off")] = "off"
    """on: /sd names other members that publish theirs, too. A Prometheus that reads it fetches /metrics from whatever hosts and ports
    members write into their records."""

    def check(self) -> None:
        host, _, port = self.publish.rpartition(":")
        has_host = bool(host) or self.publish.startswith(":")
        if self.publish and not (has_host and port.isdecimal() and 0 < int(port) < 65536):
            fail("metrics.publish", self.publish, "host:port, as in node1.example:9464, or :port")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What is written to standard error, and what is kept for when something goes wrong."""

    level: Annotated[str, OneOf("debug", "info", "warning", "error")] = "info"
    """Least important level that is written."""
    format: Annotated[str, OneOf("auto", "text", "logfmt", "json")] = "auto"
    """auto: text on a terminal, logfmt in systemd's journal, json otherwise."""
    flight_entries: Annotated[int, Between(100, 1_000_000)] = 8000
    """Events of the node's core that are kept in memory for a dump (see 'debug dump'), some ten minutes' worth and at most
    32 MiB; half as many are always there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """All settings of one node."""

    state_dir: str = ""
    """Directory of identity, checkpoints and control socket; empty means the user's state directory."""
    eval_every_steps: Annotated[int, Between(0, 1_000_000)] = 100
    """Own steps between two looks at the validation loss; 0 is never."""
    device: DeviceSettings = field(default_factory=DeviceSettings)
    owner: OwnerSettings = field(default_factory=OwnerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    bandwidth: BandwidthSettings = field(default_factory=BandwidthSettings)
    meeting: MeetingSettings = field(default_factory=MeetingSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    log: LogSettings = field(default_factory=LogSettings)


def _check_hours(key: str, text: str) -> None:
    try:
        parse_hours(text)
    except ValueError as error:
        fail(key, text, f'spans like "22:00-07:00", separated by commas: {error}')
