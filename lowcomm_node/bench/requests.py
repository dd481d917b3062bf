"""The command lines of comparisons with others, checked before anything heavy is imported."""

from collections.abc import Sequence
from dataclasses import dataclass

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.presets import MODELS
from lowcomm_node.settings.schema import nearest

__all__ = ["AveragerRequest", "FieldRequest", "UtilisationRequest"]

_MOST_NODES = 16
_MOST_EMULATED_MBIT = 200.0
"""A user-space emulator keeps its rate up to some hundred Mbit/s on an idle machine; faster lines are reckoned from these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRequest:
    """The command line of ``bench field``."""

    nodes: int = 4
    steps: int = 400
    seeds: int = 1
    diloco_every_steps: Sequence[int] = (50, 10)
    """H, one run of DiLoCo for each."""
    threads: int = 1
    """Of torch, in each process."""

    def check(self) -> None:
        """Raises ConfigError naming the option and what it allows."""
        if not 2 <= self.nodes <= _MOST_NODES:
            raise ConfigError(f"--nodes {self.nodes} is not allowed; allowed: 2 to {_MOST_NODES}")
        if not 20 <= self.steps <= 1_000_000:
            raise ConfigError(f"--steps {self.steps} is not allowed; allowed: 20 to 1000000")
        if not 1 <= self.seeds <= 100:
            raise ConfigError(f"--seeds {self.seeds} is not allowed; allowed: 1 to 100")
        if not self.diloco_every_steps or any(not 1 <= every <= self.steps for every in self.diloco_every_steps):
            raise ConfigError("--diloco-every is not allowed; allowed: 1 to --steps, several with commas")


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragerRequest:
    """The command line of ``bench averager``."""

    model: str = "125m"
    """Whose weights are averaged: a size of ``init --model``."""
    peers: int = 8
    groups: Sequence[int] = (2, 8)
    """Of hivemind; our meetings are of two."""
    rounds: int = 1
    """That are measured of each kind."""
    patience_s: float = 120.0
    """A round that takes longer has failed."""
    threads: int = 1
    """Of torch, at each peer."""

    def check(self) -> None:
        """Raises ConfigError naming the option and what it allows."""
        if self.model not in MODELS:
            close = nearest(self.model, MODELS)
            hint = f"did you mean {close}?" if close else f"allowed: {', '.join(MODELS)}"
            raise ConfigError(f"--model {self.model} is not a size; {hint}")
        if not 2 <= self.peers <= 64 or self.peers % 2:
            raise ConfigError(f"--peers {self.peers} is not allowed; allowed: even numbers from 2 to 64")
        if not self.groups or any(not 2 <= group <= self.peers or self.peers % group for group in self.groups):
            raise ConfigError("--groups is not allowed; allowed: divisors of --peers from 2 on, several with commas")
        if not 1 <= self.rounds <= 100:
            raise ConfigError(f"--rounds {self.rounds} is not allowed; allowed: 1 to 100")
        if not 10 <= self.patience_s <= 3600:
            raise ConfigError(f"--patience {self.patience_s:g} is not allowed; allowed: 10 to 3600 seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilisationRequest:
    """The command line of ``bench utilisation``."""

    rates_mbit: Sequence[float] = (10.0, 50.0, 200.0, 1000.0)
    round_trip_ms: float = 0.0
    threads: int = 0
    """Of torch, for steps and codecs; 0: all cores."""
    most_emulated_mbit: float = _MOST_EMULATED_MBIT

    def check(self) -> None:
        """Raises ConfigError naming the option and what it allows."""
        if not self.rates_mbit or any(not 0.5 <= rate <= 100_000 for rate in self.rates_mbit):
            raise ConfigError("--rates is not allowed; allowed: Mbit/s from 0.5 on, several with commas")
        if not 0 <= self.round_trip_ms <= 2000:
            raise ConfigError(f"--round-trip {self.round_trip_ms:g} is not allowed; allowed: 0 to 2000 ms")
        if min(self.rates_mbit) > self.most_emulated_mbit:
            raise ConfigError(
                f"--rates: at least one of them at most {self.most_emulated_mbit:g} Mbit/s, to be measured"
            )
