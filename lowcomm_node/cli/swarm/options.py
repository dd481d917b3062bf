"""What the user asked ``lowcomm-node swarm`` for, checked before anything starts."""

from dataclasses import dataclass, replace
from pathlib import Path

from lowcomm_node.cli.swarm.lines import LineShape
from lowcomm_node.cli.swarm.nap import AWAKE_S
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.load import read_manifest
from lowcomm_node.settings.manifest import Manifest, OptimizerConfig
from lowcomm_node.settings.node import DataSettings
from lowcomm_node.settings.presets import OPTIMIZERS
from lowcomm_node.sim.profiles import Nat

__all__ = ["DEFAULT_CHAOS_EVERY_S", "DEFAULT_MINUTES", "MAX_NODES", "PORTS_PER_NODE", "SwarmOptions"]

DEFAULT_MINUTES = 2.0
MAX_NODES = 64
PORTS_PER_NODE = 3
"""DHT, gRPC and metrics, in this order."""
DEFAULT_CHAOS_EVERY_S = 6.0
_MIN_KILL_EVERY_S = 3.0
_MIN_CHAOS_EVERY_S = 1.0
_MIN_CHAOS_OPEN = 2
"""Nodes that can be dialled; the directory lives at them."""
_MIN_CHAOS_NODES = 4
"""One dies for good, and faults hit only while three are well."""
_LEAST_COMPARED_S = 300.0
"""Two minutes until all nodes train, one without meetings, one with them, and what is left of the first."""
_MIN_SLEEP_S = 1.0
_MIN_SLEEP_NODES = 3
"""Two meet each other while the third sleeps."""
_MIN_CALM_NODES = 3
"""Undisturbed swarms of one node more and one less are compared, and two is the least that meets."""
_LAST_PORT = 65535
_FIRST_UNPRIVILEGED_PORT = 1024
_MAX_SOCKET_PATH_BYTES = 100
"""Unix socket paths end at 104 bytes on macOS and 108 on Linux."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmOptions:
    """The command line of one swarm."""

    nodes: int = 4
    """Nodes at the start, the bootstrap included."""
    minutes: float | None = None
    """Training time; counted from the first node's first step."""
    steps: int | None = None
    """Length of the schedule instead of a time: the swarm ends when its nodes have finished it."""
    manifest: Path | None = None
    optimizer: str | None = None
    """Kind in ``settings.presets.OPTIMIZERS``; None is the manifest's own."""
    kill_every_s: float = 0.0
    """Seconds between two kill -9; 0 is never."""
    chaos_every_s: float = 0.0
    """Seconds between two faults of random kinds, on average; 0 is never."""
    line: LineShape | None = None
    """Each node at the end of such a line, in a network of its own; None: all share the computer's."""
    line_words: str = ""
    behind_nat: int = 0
    """So many of the nodes at the start, the last ones, cannot be dialled."""
    nat: Nat = Nat.CONE
    """What their routers do."""
    sleep_s: float = 0.0
    """Seconds for which one node is frozen, once; 0 is not at all."""
    join_late: int = 0
    seed: int | None = None
    """Seed of the run and of the choice of victims; None keeps the manifest's."""
    json_file: Path | None = None
    plot_file: Path | None = None
    port_base: int | None = None
    compare_local: bool = False
    compare_calm: bool = False
    compare_no_meetings: bool = False
    """Every second minute without meetings."""
    directory: Path | None = None
    keep: bool = False
    recordings: Path | None = None
    """Folder for the nodes' flight recordings, taken at the end."""
    data: tuple[str, ...] = ()
    """Files, folders or globs to train on; empty is the nodes' default corpus."""
    tokenizer: Path | None = None
    """tokenizer.json of a manifest that names one."""

    def check(self) -> None:
        """Refuse what cannot work. Raises ConfigError naming the option and what it allows."""
        if not 1 <= self.nodes <= MAX_NODES:
            _refuse("--nodes", self.nodes, f"1 to {MAX_NODES}")
        if self.minutes is not None and self.steps is not None:
            raise ConfigError("--minutes and --steps exclude each other: a swarm ends by time or by schedule")
        if self.minutes is not None and not 0 < self.minutes <= 60 * 24 * 30:
            _refuse("--minutes", self.minutes, "more than 0, at most 43200")
        if self.steps is not None and not 1 <= self.steps <= 1_000_000_000:
            _refuse("--steps", self.steps, "1 to 1000000000")
        self._check_trouble()
        if self.compare_calm and self.nodes < _MIN_CALM_NODES:
            raise ConfigError(
                f"--compare calm needs --nodes {_MIN_CALM_NODES} or more: smaller swarms are compared too"
            )
        if not 0 <= self.join_late <= MAX_NODES:
            _refuse("--join-late", self.join_late, f"0 to {MAX_NODES}")
        self._check_lines()
        if self.seed is not None and not 0 <= self.seed < 2**63:
            _refuse("--seed", self.seed, "0 to 2^63 - 1")
        highest = _LAST_PORT - PORTS_PER_NODE * self.members_max + 1
        if self.port_base is not None and not _FIRST_UNPRIVILEGED_PORT <= self.port_base <= highest:
            _refuse("--port-base", self.port_base, f"{_FIRST_UNPRIVILEGED_PORT} to {highest}")
        if self.manifest is not None and not self.manifest.exists():
            raise ConfigError(f"--manifest {self.manifest}: no such file")
        if self.manifest is not None and self.optimizer is not None:
            raise ConfigError(
                f"--optimizer {self.optimizer} and --manifest exclude each other: the manifest's optimizer.kind decides; "
                f"'lowcomm-node init FILE --optimizer {self.optimizer}' writes a manifest with fitting learning rates"
            )
        if self.directory is not None:
            self._check_directory(self.directory)
        if self.recordings is not None:
            _check_is_new("--recordings", self.recordings)

    def data_settings(self) -> DataSettings:
        """What the nodes train on, by absolute paths."""
        tokenizer = "" if self.tokenizer is None else str(self.tokenizer.expanduser().absolute())
        return DataSettings(
            paths=tuple(str(Path(path).expanduser().absolute()) for path in self.data), tokenizer=tokenizer
        )

    def read_manifest(self) -> Manifest:
        """The user's manifest, or the default one with the chosen optimizer; its length may still change."""
        if self.manifest is None:
            manifest = Manifest(name="swarm", optimizer=OPTIMIZERS[self.optimizer or OptimizerConfig().kind])
        else:
            manifest = read_manifest(self.manifest)
        return manifest if self.seed is None else replace(manifest, seed=self.seed)

    @property
    def members_max(self) -> int:
        """Nodes at the start and late ones together."""
        return self.nodes + self.join_late

    @property
    def limit_s(self) -> float | None:
        """Seconds of training after which the swarm ends; None when only the schedule ends it."""
        if self.minutes is not None:
            return self.minutes * 60
        if self.sleep_s and self.steps is None:
            return self.sleep_s + DEFAULT_MINUTES * 60
        if self.steps is not None or self.manifest is not None:
            return None
        return DEFAULT_MINUTES * 60

    def _check_trouble(self) -> None:
        if self.kill_every_s and self.kill_every_s < _MIN_KILL_EVERY_S:
            _refuse("--kill-every", self.kill_every_s, f"0 (never) or at least {_MIN_KILL_EVERY_S:g} seconds")
        if self.kill_every_s and self.nodes < 2:
            raise ConfigError("--kill-every needs --nodes 2 or more: the first node is never killed")
        if self.chaos_every_s and self.chaos_every_s < _MIN_CHAOS_EVERY_S:
            _refuse("--chaos", self.chaos_every_s, f"at least {_MIN_CHAOS_EVERY_S:g} second")
        if self.chaos_every_s and self.nodes < _MIN_CHAOS_NODES:
            raise ConfigError(f"--chaos needs --nodes {_MIN_CHAOS_NODES} or more: the first of them is killed for good")
        if self.chaos_every_s and self.kill_every_s:
            raise ConfigError("--chaos and --kill-every exclude each other: chaos kills too")
        if self.sleep_s:
            self._check_sleep(self.sleep_s)

    def _check_sleep(self, sleep_s: float) -> None:
        if not _MIN_SLEEP_S <= sleep_s < float("inf"):
            _refuse("--sleep", sleep_s, f"at least {_MIN_SLEEP_S:g} second")
        if self.nodes < _MIN_SLEEP_NODES:
            raise ConfigError(f"--sleep needs --nodes {_MIN_SLEEP_NODES} or more: two go on meeting while one is away")
        if self.chaos_every_s or self.kill_every_s:
            raise ConfigError("--sleep excludes --chaos and --kill-every: it shows what one long absence does")
        if self.minutes is not None and self.minutes * 60 <= AWAKE_S + sleep_s:
            least = (AWAKE_S + sleep_s) / 60
            raise ConfigError(
                f"--sleep {sleep_s:g} does not end within --minutes {self.minutes:g}; allowed: more than {least:.1f}"
            )

    def _check_lines(self) -> None:
        if self.nat is not Nat.CONE and not self.behind_nat:
            raise ConfigError(f"--nat {self.nat} needs --behind-nat: there is no router")
        if self.behind_nat and self.line is None:
            raise ConfigError("--behind-nat needs --line: the router is part of the line")
        if self.behind_nat and not 0 < self.behind_nat < self.nodes:
            _refuse("--behind-nat", self.behind_nat, f"less than --nodes {self.nodes}: the first one must be reachable")
        if self.chaos_every_s and self.behind_nat and self.nodes - self.behind_nat < _MIN_CHAOS_OPEN:
            raise ConfigError(
                f"--chaos ends the first node for good: with --behind-nat at least {_MIN_CHAOS_OPEN} of --nodes {self.nodes} must be "
                "reachable, or nobody is left through whom the others find each other"
            )
        if self.compare_no_meetings and (self.limit_s is None or self.limit_s < _LEAST_COMPARED_S):
            raise ConfigError(
                f"--compare no-meetings needs --minutes {_LEAST_COMPARED_S / 60:g} or more: they are taken in turns"
            )

    def _check_directory(self, directory: Path) -> None:
        _check_is_new("--dir", directory)
        longest = directory.resolve() / f"n{self.members_max}" / "control.sock"
        if len(str(longest).encode()) > _MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                f"--dir {directory}: too long for Unix sockets ({longest} has over {_MAX_SOCKET_PATH_BYTES} bytes)"
            )


def _check_is_new(option: str, directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{option} {directory}: not a directory")
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{option} {directory}: not empty; name a new directory")


def _refuse(option: str, value: object, allowed: str) -> None:
    raise ConfigError(f"{option} {value} is not allowed; allowed: {allowed}")
