"""Which fault hits whom, when and for how long: a pure decision that a seed repeats, no clock of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

__all__ = ["DEADLY", "Blow", "Chaos", "Fault"]

_END_FIRST_FROM = 0.2
_CALM_FROM = 0.85
"""No new fault in the last 15 % of a run: there would be no time to come back."""
_MIN_HEALTHY = 3
"""With fewer undisturbed nodes no fault begins, so that two are left to meet each other."""
_STRETCH_FROM, _STRETCH_TO = 0.5, 1.5


class Fault(StrEnum):
    """Kinds of trouble; the values are the words of reports."""

    KILL = "kill node"
    """kill -9 of the daemon; the node is started again a moment later."""
    KILL_TRAINER = "kill trainer"
    """kill -9 of the trainer, as the kernel does when memory runs out."""
    KILL_P2PD = "kill p2pd"
    FREEZE = "freeze node"
    """SIGSTOP to daemon, trainer and p2pd, SIGCONT later: a lid that is closed and opened."""
    FREEZE_DAEMON = "freeze daemon"
    FREEZE_TRAINER = "freeze trainer"
    FREEZE_P2PD = "freeze p2pd"
    CUT_LINE = "cut line"
    """The node's network is down, both ways, without a word to anybody."""
    CUT_PAIR = "cut pair"
    """Two nodes do not reach each other; everybody else reaches both."""
    FULL_DISK = "full disk"
    """The file system of the state directory has no room left."""
    SLEEP = "sleep"
    """The whole node is frozen for longer than its record in the directory lives."""
    STRAND = "strand"
    """Killed, and started again after its record has expired, with no address but that of the first node, which is dead."""
    END_FIRST = "end first"
    """kill -9 of the node that started the run, for good."""


DEADLY = frozenset({Fault.KILL, Fault.KILL_TRAINER, Fault.STRAND, Fault.END_FIRST})
"""Faults that take what only the trainer's memory held, and with it possibly one end of a meeting."""

_SECONDS: Mapping[Fault, tuple[float, float]] = {
    Fault.FREEZE: (3, 12),
    Fault.FREEZE_DAEMON: (3, 12),
    Fault.FREEZE_TRAINER: (3, 12),
    Fault.FREEZE_P2PD: (5, 15),
    Fault.CUT_LINE: (5, 15),
    Fault.CUT_PAIR: (5, 15),
    Fault.FULL_DISK: (5, 15),
}
"""Shortest and longest duration; faults that are not named are over at once."""
_BEYOND_RECORD_S = (2, 6)
"""How much longer than a record's life a node is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """One fault that is to hit now."""

    fault: Fault
    node: str
    seconds: float = 0.0
    """How long it lasts; 0 for what is over at once."""
    other: str = ""
    """The second node of a cut pair."""


class Chaos:
    """Answers: what happens at this moment?

    Blows come every ``every_s`` seconds of training time on average, half as much to one and a half times as much
    apart. Kinds are dealt like cards: all that can happen come once, in random order, before one comes again. The first
    node is killed for good as soon as a fifth of the run is over. The caller asks in the order of time and carries out
    what it is told.
    """

    def __init__(self, *, every_s: float, record_ttl_s: float, seed: int) -> None:
        self._every_s = every_s
        self._record_ttl_s = record_ttl_s
        self._seed = seed
        self._draws = 0
        self._deck: list[Fault] = []
        self._next_s = self._gap_s()

    def due(
        self,
        *,
        elapsed_s: float,
        share_done: float,
        victims: Mapping[Fault, Sequence[str]],
        healthy: Sequence[str],
    ) -> Blow | None:
        """What is due at ``elapsed_s`` seconds of training, with ``share_done`` of the run over.

        ``victims``: whom each fault could hit now. ``healthy``: nodes that train undisturbed. A blow that finds nobody
        waits for the next question.
        """
        if elapsed_s < self._next_s or share_done >= _CALM_FROM or len(healthy) < _MIN_HEALTHY:
            return None
        fault = self._deal(victims, share_done)
        if fault is None:
            return None
        self._next_s = elapsed_s + self._gap_s()
        node = self._pick(sorted(victims[fault]))
        others = sorted(set(healthy) - {node})
        other = self._pick(others) if fault is Fault.CUT_PAIR else ""
        return Blow(fault=fault, node=node, seconds=self._seconds(fault), other=other)

    def _deal(self, victims: Mapping[Fault, Sequence[str]], share_done: float) -> Fault | None:
        if share_done >= _END_FIRST_FROM and victims.get(Fault.END_FIRST):
            return Fault.END_FIRST
        possible = {fault for fault, nodes in victims.items() if nodes and fault is not Fault.END_FIRST}
        if not possible:
            return None
        if not possible & set(self._deck):
            rest = [fault for fault in Fault if fault is not Fault.END_FIRST]
            self._deck = [rest.pop(self._below(len(rest))) for _ in range(len(rest))]
        fault = next(fault for fault in self._deck if fault in possible)
        self._deck.remove(fault)
        return fault

    def _seconds(self, fault: Fault) -> float:
        if fault in {Fault.SLEEP, Fault.STRAND}:
            low, high = (self._record_ttl_s + beyond for beyond in _BEYOND_RECORD_S)
        else:
            low, high = _SECONDS.get(fault, (0.0, 0.0))
        return low + (high - low) * self._share()

    def _gap_s(self) -> float:
        return self._every_s * (_STRETCH_FROM + (_STRETCH_TO - _STRETCH_FROM) * self._share())

    def _pick(self, names: Sequence[str]) -> str:
        return names[self._below(len(names))]

    def _below(self, count: int) -> int:
        return int(self._share() * count)

    def _share(self) -> float:
        """The next draw, 0 to 1, 1 excluded."""
        digest = sha256(f"chaos|{self._seed}|{self._draws}".encode()).digest()
        self._draws += 1
        return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
