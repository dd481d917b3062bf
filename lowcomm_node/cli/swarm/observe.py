"""What is known of a running swarm: newest statuses, counters over all lives, history, memory, time."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from lowcomm_node.cli.swarm.fleet import Fleet, Stage
from lowcomm_node.cli.swarm.history import History, NodePoint, SwarmPoint
from lowcomm_node.cli.swarm.launch import NodePlace
from lowcomm_node.cli.swarm.lives import Ledger, Status, ddp_bytes
from lowcomm_node.cli.swarm.processes import memory_of_all
from lowcomm_node.cli.swarm.watch import Watcher
from lowcomm_node.core.spread import spread_of
from lowcomm_node.wire.vitals import sketches_in

__all__ = ["Observer"]

_MEMORY_EVERY_S = 5.0
_RATE_WINDOW = 30
"""Looks that the meeting rate is taken over."""
_MAX_ADDRESSES = 3
_LEARNED = frozenset({"training", "finished"})


class Observer:
    """Looks at the nodes of a fleet and remembers; decides nothing."""

    def __init__(
        self,
        fleet: Fleet,
        watcher: Watcher,
        *,
        nodes: int,
        processor_s: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """``nodes``: size of the DDP run that traffic is compared with. ``processor_s``: see ``SwarmPoint``."""
        self.ledger = Ledger()
        self.history = History()
        self.statuses: dict[str, Status] = {}
        self.memory_bytes = 0
        self.memory_peak_bytes = 0
        self._fleet = fleet
        self._watcher = watcher
        self._nodes = nodes
        self._processor_s = processor_s
        self._training_from_s: float | None = None
        self._tokens_seen = 0
        self._tokens_grew_s = time.monotonic()
        self._memory_seen_s = -math.inf
        self._meeting_counts: deque[tuple[float, int]] = deque(maxlen=_RATE_WINDOW)

    @property
    def is_training(self) -> bool:
        """The first node has begun to train."""
        return self._training_from_s is not None

    def begin_training(self) -> None:
        """The clock of the run starts now."""
        self._training_from_s = self._tokens_grew_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far."""
        return 0.0 if self._training_from_s is None else time.monotonic() - self._training_from_s

    @property
    def idle_s(self) -> float:
        """Seconds since a node was last seen to take a step."""
        return time.monotonic() - self._tokens_grew_s

    def look(self, places: Mapping[str, NodePlace]) -> None:
        """Ask these nodes for their status; measure memory from time to time."""
        now_s = time.monotonic()
        statuses = self._watcher.look(places)
        for name, status in statuses.items():
            self.ledger.observe(name, status, self.elapsed_s)
            self.statuses[name] = status
        if self.ledger.tokens != self._tokens_seen:
            self._tokens_seen, self._tokens_grew_s = self.ledger.tokens, now_s
        if now_s - self._memory_seen_s >= _MEMORY_EVERY_S:
            self._memory_seen_s = now_s
            self.memory_bytes = memory_of_all(self._fleet.processes())
            self.memory_peak_bytes = max(self.memory_peak_bytes, self.memory_bytes)

    def forget(self, name: str) -> None:
        """What the node said last is no longer true: it is dead."""
        self.statuses.pop(name, None)

    def remember(self) -> None:
        """Add this moment to the history."""
        points = {
            name: NodePoint(
                time_s=self.elapsed_s,
                loss=status.training.loss or math.nan,
                validation_loss=status.training.validation_loss or math.nan,
            )
            for name, status in self.learned().items()
        }
        swarm = SwarmPoint(
            time_s=self.elapsed_s,
            loss=_mean([point.loss for point in points.values()]),
            validation_loss=_mean([point.validation_loss for point in points.values()]),
            spread=self._spread(),
            bytes_sent=self.ledger.bytes_sent_total,
            ddp_bytes=ddp_bytes(self._nodes, self.ledger.parameters, self.ledger.steps),
            meetings=self.ledger.meetings_completed,
            tokens=self.ledger.tokens,
            processor_s=self._processor_s(),
        )
        self.history.add(swarm, points)
        self._meeting_counts.append((self.elapsed_s, swarm.meetings))

    def learned(self) -> dict[str, Status]:
        """Newest statuses of the running nodes that train or have finished, in order of their first start."""
        running = self._fleet.places(Stage.RUNNING)
        return {n: self.statuses[n] for n in running if n in self.statuses and self.statuses[n].state in _LEARNED}

    def addresses(self) -> list[str]:
        """Where a joiner may ask: the first node first, then others, so that losing it does not close the swarm."""
        known = [status.join_address for status in self.learned().values() if status.join_address]
        return list(dict.fromkeys(known))[:_MAX_ADDRESSES]

    def progress(self) -> tuple[float, int]:
        """Mean swarm progress of the nodes that train, and the run's total, in steps; zeros while nobody trains."""
        trainings = [status.training for status in self.learned().values()]
        total = max((training.total_steps for training in trainings), default=0)
        # A node that is on its way in knows no progress yet; counting it as 0 would make the run go backwards.
        known = [training.progress_steps for training in trainings if training.progress_steps > 0]
        return (sum(known) / len(known) if known else 0.0), total

    def share_done(self, limit_s: float | None) -> float:
        """How much of the run is over, 0 to 1, by time or by schedule, whichever ends it earlier."""
        progress, total = self.progress()
        by_time = self.elapsed_s / limit_s if limit_s else 0.0
        return min(1.0, max(by_time, progress / total if total else 0.0))

    @property
    def meetings_per_minute(self) -> float:
        """Completed meetings a minute over the last looks."""
        if len(self._meeting_counts) < 2:
            return 0.0
        (from_s, before), (until_s, now) = self._meeting_counts[0], self._meeting_counts[-1]
        return 60 * (now - before) / (until_s - from_s) if until_s > from_s else 0.0

    def _spread(self) -> float:
        told = [sketches_in(status.training) for status in self.learned().values()]
        return spread_of(told, self.ledger.parameters) or math.nan


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
