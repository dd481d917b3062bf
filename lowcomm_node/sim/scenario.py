"""What is simulated: everything that defines a run of the simulator. The same scenario gives the same report to the bit."""

import itertools
import re
from dataclasses import dataclass, field
from enum import StrEnum

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.sim.machine import Machine
from lowcomm_node.sim.profiles import PROFILES

__all__ = ["Attack", "Change", "Level", "Partition", "Scenario", "Speeds", "parse_partition", "parse_trace"]

_MAX_NODES = {"consensus": 100_000, "training": 64}
_NUMBER = r"(\d+(?:\.\d*)?)"
_PARTITION = re.compile(rf"{_NUMBER}@{_NUMBER}-{_NUMBER}")


class Level(StrEnum):
    """What a node is."""

    CONSENSUS = "consensus"
    """A vector that drifts and diffuses: swarms of thousands."""
    TRAINING = "training"
    """A real replica that trains on real text: swarms of tens."""


class Attack(StrEnum):
    """What hostile nodes show of themselves in every message, in form quite correct."""

    SIGN_FLIP = "sign-flip"
    """Minus their weights."""
    SCALE = "scale"
    """Ten times their weights."""
    NAN = "nan"
    """Not a number."""
    STALE = "stale"
    """The weights they began with."""
    GARBAGE = "garbage"
    """Random numbers as large as weights."""
    NUDGE = "nudge"
    """Weights of their own that are honest, shifted a little, always in the same direction: as much as clipping lets through."""


class Speeds(StrEnum):
    """How fast machines are."""

    EQUAL = "equal"
    LOGNORMAL = "lognormal"
    """With a standard deviation of 0.5 in the logarithm: of three machines one is more than 1.6 times off the median."""
    UNEQUAL = "unequal"
    """Evenly in the logarithm between 1 and 1/8."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A share of the nodes, and of the directory with them, is cut off from the others for a while."""

    ratio: float
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a churn trace."""

    at_s: float
    kind: str
    """join, leave (in order) or kill."""
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A swarm, its surroundings, and what befalls it. ``check`` says what is wrong in the words of the command line."""

    level: Level = Level.CONSENSUS
    nodes: int = 200
    minutes: float = 10.0
    seed: int = 0
    manifest: Manifest = field(default_factory=Manifest)
    """Its model fixes the payload's bytes, its [meeting] periods, clipping and codec (level consensus: of the parameters alone)."""
    settings: NodeSettings = field(default_factory=NodeSettings)
    """Of every node: deadlines, record lifetime, polling, size of the sample of peers."""
    network: str = "home"
    latency_s: float | None = None
    """One way between any two nodes, in place of the profile's."""
    bytes_per_s: float | None = None
    """Up and down of every node, in place of the profile's."""
    serve_s: float = 0.005
    """A trainer's own work for a meeting's command, besides the wait for the end of its step."""
    step_s: float = 1.0
    """An own step of the median machine."""
    speeds: Speeds = Speeds.LOGNORMAL
    machine: Machine | None = None
    """Level training: every node has this one, as it was recorded, in place of ``serve_s``, ``step_s`` and ``speeds``."""
    churn_per_minute: float = 0.0
    """Share of the nodes that is replaced each minute: half leave in order, half are killed, as many newcomers join."""
    trace: tuple[Change, ...] = ()
    """Comings and goings at given times, besides churn."""
    hostile_ratio: float = 0.0
    attack: Attack = Attack.SIGN_FLIP
    attack_from_s: float = 0.0
    """Until then hostile nodes do as the others."""
    partitions: tuple[Partition, ...] = ()
    skew_s: float = 0.0
    """Standard deviation of the nodes' clocks from the true time."""
    dimension: int = 32
    """Level consensus: numbers of a vector."""
    noise: float = 1.0
    """Level consensus: standard deviation of what one own step adds to each number."""
    drift: float = 0.1
    """Level consensus: what one own step adds to each number on every node alike."""
    data: tuple[str, ...] = ()
    """Level training: text to train on; empty is the standard library's sources."""

    @property
    def duration_s(self) -> float:
        return 60.0 * self.minutes

    def check(self) -> None:
        """Raise ConfigError naming the option and what it allows."""
        _between("--nodes", self.nodes, 2, _MAX_NODES[self.level])
        _between("--minutes", self.minutes, 0.05, 10_000)
        _between("--step-seconds", self.step_s, 1e-3, 3600)
        _between("--serve-ms", self.serve_s, 0, 600)
        _between("--churn", self.churn_per_minute, 0, 5)
        _between("--hostile", self.hostile_ratio, 0, 0.9)
        _between("--attack-from", self.attack_from_s / 60, 0, self.minutes)
        _between("--clock-skew", self.skew_s, 0, 3600)
        _between("--dimension", self.dimension, 1, 4096)
        _between("--noise", self.noise, 0, 1e6)
        _between("--drift", self.drift, 0, 1e6)
        for option, value, low, high in (
            ("--latency-ms", self.latency_s, 0, 60),
            ("--mbit", self.bytes_per_s, 1, 1e12),
        ):
            if value is not None:
                _between(option, value, low, high)
        if self.level is Level.CONSENSUS and self.manifest.outer.method == "ab":
            raise ConfigError('outer.method = "ab" is simulated with --level training alone; vectors have no factors')
        if self.network not in PROFILES:
            raise ConfigError(f"--network {self.network} is not allowed; allowed: {', '.join(PROFILES)}")
        for partition in self.partitions:
            if not 0 < partition.ratio < 1 or not 0 <= partition.from_s < partition.until_s:
                raise ConfigError("--partition is SHARE@FROM-UNTIL in minutes, with a share above 0 and below 1")
        ordered = sorted(self.partitions, key=lambda partition: partition.from_s)
        if any(later.from_s < earlier.until_s for earlier, later in itertools.pairwise(ordered)):
            raise ConfigError("--partition: one has to end before the next one begins")

    def describe(self) -> str:
        """One line for titles."""
        words = [f"{self.nodes:,} nodes", f"{self.minutes:g} min", f"network {self.network}", f"level {self.level}"]
        if self.churn_per_minute:
            words.append(f"churn {self.churn_per_minute:.0%} a minute")
        if self.trace:
            words.append(f"{len(self.trace)} changes of a trace")
        if self.hostile_ratio:
            words.append(f"{self.hostile_ratio:.0%} hostile ({self.attack})")
        words += [f"{p.ratio:.0%} cut off {p.from_s / 60:g}-{p.until_s / 60:g} min" for p in self.partitions]
        return ", ".join([*words, f"seed {self.seed}"])


def parse_partition(text: str) -> Partition:
    """SHARE@FROM-UNTIL, minutes. Raises ConfigError."""
    found = _PARTITION.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--partition {text}: write it as SHARE@FROM-UNTIL in minutes, e.g. --partition 0.3@2-4")
    ratio, start, end = (float(number) for number in found.groups())
    return Partition(ratio, 60 * start, 60 * end)


def parse_trace(text: str, source: str) -> tuple[Change, ...]:
    """Lines of SECONDS,join|leave|kill,COUNT; empty ones and those that begin with # are passed over. Raises ConfigError."""
    changes = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = [word.strip() for word in line.partition("#")[0].split(",")]
        if words == [""]:
            continue
        try:
            at_s, kind, count = words
            change = Change(float(at_s), kind, int(count))
        except ValueError:
            change = None
        if change is None or change.kind not in ("join", "leave", "kill") or change.at_s < 0 or change.count < 1:
            raise ConfigError(f"{source}:{number}: {line.strip()}: write it as SECONDS,join|leave|kill,COUNT")
        changes.append(change)
    return tuple(changes)


def _between(option: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{option} {value:g} is not allowed; allowed: {low:g} to {high:g}")
