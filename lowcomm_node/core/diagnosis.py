"""What is wrong with a machine that is about to join, by what was found out about it; each finding with its cure."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["CODES", "Facts", "Finding", "Level", "Seed", "diagnose"]

_FEW_FILES = 4096
_TOO_FEW_FILES = 256
_CLOCK_WARN_S = 0.5
_CLOCK_FAIL_S = 2.5
"""As the directory refuses it: records of a node further off are void for others, or outlive it."""
_SPARE_BYTES = 64 << 20
"""For logs, dumps, and what others put on the disk meanwhile."""
_LONG_RTT_S = 0.5
_SLOW_BYTES_PER_S = 125_000
"""1 Mbit/s: a meeting of the default model takes a few seconds, a download of 100 million parameters hours."""
_LOSSY = 0.03
_TIGHT = 0.8


class Level(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 - a word, no password
    WARN = "warn"
    """It will work, though not as well as it could."""
    FAIL = "fail"
    """A node would not start, or would be of no use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check."""

    code: str
    """Stable, one of ``CODES``."""
    level: Level
    found: str
    cure: str = ""
    """One line; empty where nothing needs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """One address that was given or is remembered, and what happened there."""

    address: str
    outcome: str = ""
    """Empty when it answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found out. None: not looked at, or nothing to look at; texts are empty where all is well."""

    settings_error: str | None = None
    manifest_error: str | None = None
    identity_error: str | None = None
    state_dir_error: str | None = None
    running_pid: int | None = None
    """Of the node that has the state directory."""
    leftovers: int | None = None
    """Processes of an earlier life that still run."""
    free_bytes: int | None = None
    needed_bytes: int = 0
    """Room without which the node cannot begin: for its first state, where it has none yet."""
    wished_bytes: int = 0
    """Room that checkpoints, a download and the tokens of a dataset will take."""
    open_files: int | None = None
    """The soft limit."""
    busy_ports: tuple[str, ...] | None = None
    """Each as "grpc_port 7001: address already in use"."""
    is_loopback_only: bool | None = None
    unresolved: tuple[str, ...] | None = None
    """Names that have no address, each with why."""
    data_error: str | None = None
    seeds: tuple[Seed, ...] | None = None
    run_error: str | None = None
    """Why the run of the seeds cannot be joined."""
    protocol_error: str | None = None
    clock_offset_s: float | None = None
    """The peers' clock minus ours."""
    inbound: str | None = None
    """Why peers cannot reach our port."""
    nat: str | None = None
    """none, behind a NAT, carrier-grade: as told by the address peers see."""
    seen_at: tuple[str, ...] = ()
    """Where peers outside of the own network see the libp2p port, each host:port; two of them tell what kind of NAT it is."""
    relay_error: str | None = None
    line_error: str | None = None
    """Why the line to a peer could not be measured."""
    rtt_s: float | None = None
    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None
    loss: float | None = None
    """Share of our segments that were sent again."""
    congestion_control: str | None = None
    torch_error: str | None = None
    torch_version: str = ""
    device: str = ""
    gpu_error: str | None = None
    memory_bytes: int | None = None
    """Estimate of what training takes."""
    memory_free_bytes: int = 0
    memory_name: str = ""


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """Every check for which there are facts, in the order in which they should be read."""
    findings = []
    for code, check in _CHECKS.items():
        found = check(facts)
        if found is not None:
            level, text, cure = found
            findings.append(Finding(code=code, level=level, found=text, cure=cure))
    return tuple(findings)


_Found = tuple[Level, str, str]


def _ok(text: str) -> _Found:
    return Level.PASS, text, ""


def _warn(text: str, cure: str) -> _Found:
    return Level.WARN, text, cure


def _fail(text: str, cure: str) -> _Found:
    return Level.FAIL, text, cure


def _said(text: str | None, level: Level, cure: str, well: str) -> _Found | None:
    """The check whose fact is itself a sentence about what is wrong."""
    if text is None:
        return None
    return (level, text, cure) if text else _ok(well)


def _running(facts: Facts) -> _Found | None:
    if facts.running_pid is None:
        return None
    return _warn(
        f"a node is running here with pid {facts.running_pid}: its ports and its memory are in use",
        "look at 'lowcomm-node status'; 'lowcomm-node leave' ends it",
    )


def _leftovers(facts: Facts) -> _Found | None:
    if facts.leftovers is None:
        return None
    if facts.leftovers:
        return _warn(
            f"{facts.leftovers} processes of an earlier life still run", "nothing to do: the next start ends them"
        )
    return _ok("nothing is left of an earlier life")


def _disk(facts: Facts) -> _Found | None:
    if facts.free_bytes is None:
        return None
    room = f"{_size(facts.free_bytes)} free, checkpoints, a download and a dataset take {_size(facts.wished_bytes)}"
    if facts.free_bytes < facts.needed_bytes:
        return _fail(room, "make room, or choose another disk with --state-dir")
    if facts.free_bytes < facts.wished_bytes + _SPARE_BYTES:
        return _warn(room, "make room, lower checkpoint.keep or data.cache_gb, or set checkpoint.max_bytes")
    return _ok(room)


def _open_files(facts: Facts) -> _Found | None:
    if facts.open_files is None:
        return None
    text = f"{facts.open_files} open files are allowed"
    cure = f"raise the limit: 'ulimit -n {_FEW_FILES}', or LimitNOFILE={_FEW_FILES} in the systemd unit"
    if facts.open_files < _TOO_FEW_FILES:
        return _fail(text, cure)
    return _warn(text, cure) if facts.open_files < _FEW_FILES // 4 else _ok(text)


def _ports(facts: Facts) -> _Found | None:
    if facts.busy_ports is None:
        return None
    if facts.busy_ports:
        return _fail("; ".join(facts.busy_ports), "set the port to a free one, or to 0 to have one picked")
    return _ok("the ports are free")


def _address(facts: Facts) -> _Found | None:
    if facts.is_loopback_only is None:
        return None
    if facts.is_loopback_only:
        return _warn(
            "the node listens on loopback: no other machine can dial it",
            "join with --host 0.0.0.0; --announce says where others should dial, if that is not where they see it",
        )
    return _ok("the node listens where other machines can reach it")


def _dns(facts: Facts) -> _Found | None:
    if facts.unresolved is None:
        return None
    if not facts.unresolved:
        return _ok("all names have addresses")
    is_enough = any(not seed.outcome for seed in facts.seeds or ())
    cure = "check the name and this machine's DNS, or give the address itself"
    return (Level.WARN if is_enough else Level.FAIL), "; ".join(facts.unresolved), cure


def _seeds(facts: Facts) -> _Found | None:
    if not facts.seeds:
        return None
    silent = [f"{seed.address}: {seed.outcome}" for seed in facts.seeds if seed.outcome]
    if len(silent) == len(facts.seeds):
        return _fail("no peer answers: " + "; ".join(silent), "check address and port, and that the node there runs")
    if silent:
        return _warn("; ".join(silent), "nothing to do: others answer; leave these out of --peers")
    return _ok(f"{len(facts.seeds)} of {len(facts.seeds)} peers answer")


def _clock(facts: Facts) -> _Found | None:
    if facts.clock_offset_s is None:
        return None
    text = f"this clock is {abs(facts.clock_offset_s):.2f} s {'behind' if facts.clock_offset_s > 0 else 'ahead of'} the peers'"
    cure = "switch on NTP: 'timedatectl set-ntp true'"
    if abs(facts.clock_offset_s) > _CLOCK_FAIL_S:
        return _fail(text, cure)
    return _warn(text, cure) if abs(facts.clock_offset_s) > _CLOCK_WARN_S else _ok(text)


def _nat(facts: Facts) -> _Found | None:
    if facts.nat is None:
        return None
    if facts.nat == "carrier-grade":
        return _warn(
            "the provider's own NAT is in between: no port of yours can be forwarded",
            "not needed; ask the provider for an address of your own, or use IPv6",
        )
    if facts.nat == "none":
        return _ok("no NAT: peers see an address of this machine")
    if len(set(facts.seen_at)) > 1:
        return _warn(
            "behind a NAT that gives each connection a port of its own (symmetric): others behind a NAT cannot be met",
            "not needed; all members that can be dialled are met, and with network.grpc_port forwarded everybody is",
        )
    return _ok("behind a NAT" + (" that keeps a port for everybody (cone)" if len(facts.seen_at) > 1 else ""))


def _rtt(facts: Facts) -> _Found | None:
    if facts.rtt_s is None:
        return None
    text = f"{facts.rtt_s * 1000:.0f} ms there and back"
    if facts.rtt_s > _LONG_RTT_S:
        return _warn(text, "meetings take longer; peers nearer by, or less load on the line, help")
    return _ok(text)


def _rates(facts: Facts) -> _Found | None:
    if facts.up_bytes_per_s is None or facts.down_bytes_per_s is None:
        return None
    up, down = facts.up_bytes_per_s, facts.down_bytes_per_s
    text = f"{up * 8e-6:.1f} Mbit/s up, {down * 8e-6:.1f} Mbit/s down, to one peer"
    if min(up, down) < _SLOW_BYTES_PER_S:
        return _warn(text, "meetings will be slow; see what else uses the line")
    return _ok(text)


def _loss(facts: Facts) -> _Found | None:
    if facts.loss is None:
        return None
    text = f"{facts.loss:.1%} of what was sent was sent again"
    if facts.loss > _LOSSY:
        return _warn(
            text, "use a cable instead of wireless, or set bandwidth.up_mbit_per_s a little below the line's rate"
        )
    return _ok(text)


def _congestion(facts: Facts) -> _Found | None:
    if facts.congestion_control is None:
        return None
    if facts.congestion_control == "bbr":
        return _ok("TCP uses bbr")
    return _warn(
        f"TCP uses {facts.congestion_control or 'an unknown algorithm'}: slow on lines that lose packets",
        "'modprobe tcp_bbr' once, as root; the node then uses it for its own connections",
    )


def _memory(facts: Facts) -> _Found | None:
    if facts.memory_bytes is None:
        return None
    text = f"training takes about {_size(facts.memory_bytes)} of {_size(facts.memory_free_bytes)} {facts.memory_name}"
    if facts.memory_bytes > facts.memory_free_bytes:
        return _fail(text, "free memory, set device.micro_batches, or join a run with a smaller model")
    if facts.memory_bytes > _TIGHT * facts.memory_free_bytes:
        return _warn(text, "close what else uses it, or set device.micro_batches to 2 or more")
    return _ok(text)


_CHECKS: dict[str, Callable[[Facts], _Found | None]] = {
    "settings": lambda facts: _said(
        facts.settings_error, Level.FAIL, "correct the setting, see 'config show --origin'", "settings can be used"
    ),
    "manifest": lambda facts: _said(
        facts.manifest_error, Level.FAIL, "correct the manifest, see 'config check'", "the manifest can be used"
    ),
    "state-dir": lambda facts: _said(
        facts.state_dir_error,
        Level.FAIL,
        "give the node a directory of its own with --state-dir",
        "the state directory can be written",
    ),
    "identity": lambda facts: _said(
        facts.identity_error,
        Level.FAIL,
        "restore the file's rights, or move it away to become a new node",
        "the identity is sound and private",
    ),
    "running": _running,
    "leftovers": _leftovers,
    "disk": _disk,
    "open-files": _open_files,
    "ports": _ports,
    "address": _address,
    "data": lambda facts: _said(
        facts.data_error, Level.FAIL, "set data.paths to text files or folders", "there is text to train on"
    ),
    "torch": lambda facts: _said(
        facts.torch_error,
        Level.FAIL,
        "install lowcomm-node again with 'pip install --force-reinstall lowcomm-node'",
        f"torch {facts.torch_version} trains on {facts.device}",
    ),
    "gpu": lambda facts: _said(
        facts.gpu_error,
        Level.FAIL,
        "update the GPU's driver, install the CUDA build of torch, or set device.name",
        "the GPU can be used",
    ),
    "memory": _memory,
    "congestion": _congestion,
    "dns": _dns,
    "seeds": _seeds,
    "protocol": lambda facts: _said(
        facts.protocol_error,
        Level.FAIL,
        "install the lowcomm-node version that the run was started with",
        "the peers speak our protocol",
    ),
    "run": lambda facts: _said(
        facts.run_error,
        Level.FAIL,
        "check --run, --manifest and the address",
        "the peers tell of a run that can be joined",
    ),
    "clock": _clock,
    "inbound": lambda facts: _said(
        facts.inbound,
        Level.WARN,
        "not needed, it then meets over connections of its own; forward network.grpc_port in the router to change it",
        "a peer has reached this node",
    ),
    "nat": _nat,
    "relay": lambda facts: _said(
        facts.relay_error,
        Level.WARN,
        "give more --peers that are reachable: pairs that are both behind NAT need one to find each other",
        "a relay helps to find other nodes behind NAT",
    ),
    "line": lambda facts: _said(
        facts.line_error,
        Level.WARN,
        "try again in a minute: a peer lets itself be measured a few times a minute",
        "the line to a peer was measured",
    ),
    "rtt": _rtt,
    "rates": _rates,
    "loss": _loss,
}
CODES = tuple(_CHECKS)


def _size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit in ("B", "KiB") else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
