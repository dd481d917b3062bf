"""Looks at the owner's machine every other second, hears his word, and says why the node should pause now."""

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lowcomm_node.core.owner import Owner, OwnerRules, PauseReason, Seen
from lowcomm_node.daemon.pause_file import PauseFile
from lowcomm_node.settings.hours import parse_hours
from lowcomm_node.settings.node import OwnerSettings
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.train.messages import Ready
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import PauseStatus

__all__ = ["OwnerWatch"]

_LOOK_S = 2.0
_BLIND_S = 60.0
"""A trainer that has just begun on a GPU may not be shown there yet."""
_NO_SIGHT = (
    "owner.yield_gpu has no effect: the driver does not show this node's trainer on a GPU, so others' use of it cannot be told from "
    "its own; install nvidia-ml-py (pip install 'lowcomm-node[gpu]'), in a container share the machine's process numbers "
    "(docker run --pid=host), or set owner.yield_gpu = false"
)
_LONGEST_S = 366 * 86400.0
"""A pause for longer is one without an end."""

_WORDS = {
    PauseReason.COMMAND: "its owner has said so",
    PauseReason.QUIET_HOURS: "these are quiet hours (owner.quiet_hours)",
    PauseReason.BATTERY: "this machine runs on its battery (owner.pause_on_battery)",
    PauseReason.HOT: "this machine is too hot (owner.max_temperature_c)",
    PauseReason.GPU: "another process uses the GPU (owner.yield_gpu)",
    PauseReason.VRAM: "other processes need the memory of the GPU (owner.yield_gpu)",
    PauseReason.LOAD: "other processes use the processor (owner.max_others_load)",
}


class _Training(Protocol):
    """As ``daemon.training``."""

    has_state: bool
    ready: Ready | None


class OwnerWatch:
    """One life each. Not from threads, but for ``look``, which is called in one.

    Args:
        settings: what the owner wants.
        state_dir: where his word is kept over restarts.
        look: the machine as it is now; blocks.
        training: on which device it is; where it is on a GPU, the owner's use of that should be seen.
        clock: monotonic seconds.
        wall: Unix seconds.
    """

    def __init__(
        self,
        settings: OwnerSettings,
        state_dir: Path,
        *,
        look: Callable[[], Seen],
        training: _Training | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        rules = OwnerRules(
            quiet_hours=parse_hours(settings.quiet_hours),
            pause_on_battery=settings.pause_on_battery,
            max_temperature_c=settings.max_temperature_c,
            yield_gpu=settings.yield_gpu,
            max_others_load=settings.max_others_load,
        )
        self._owner = Owner(rules)
        self._file = PauseFile(state_dir)
        self._look = look
        self._training = training if settings.yield_gpu else None
        self._unseen_since: float | None = None
        """Since then the trainer has been on a GPU where the driver does not show it."""
        self._is_unseen_told = False
        self._clock = clock
        self._wall = wall
        self._seen: Seen | None = None
        self._is_blind = False
        """The last look has failed."""
        self._until: float | None = None
        self._news = asyncio.Event()
        self._log = get_logger("owner")
        self.reasons: tuple[PauseReason, ...] = ()
        """Why the node should pause, the most important first; none when it should not."""

    async def open(self) -> None:
        """Find out how it stands before anything is trained. The state directory is ours alone by now."""
        until = self._file.read()
        self._until = until if until is None or until <= self._wall() + _LONGEST_S else math.inf
        await self._look_at_machine()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self._look_at_machine()

    def pause(self, for_s: float) -> None:
        """The owner's word: for so many seconds, or until he says otherwise when they are 0. A new word takes the place of the old."""
        self._say(self._wall() + for_s if 0 < for_s <= _LONGEST_S else math.inf)

    def resume(self) -> None:
        """The owner takes his word back."""
        self._say(None)

    async def news(self) -> None:
        """Return when ``reasons`` have changed."""
        self._news.clear()
        await self._news.wait()

    def sentence(self) -> str:
        """Why, for people; empty when there is no reason."""
        words = "; ".join(_WORDS[reason] for reason in self.reasons)
        if PauseReason.COMMAND in self.reasons and self._until is not None:
            cure = "until 'lowcomm-node resume'"
            if math.isfinite(self._until):
                cure = f"until {time.strftime('%d %B, %H:%M', time.localtime(self._until))}"
            words = words.replace(_WORDS[PauseReason.COMMAND], f"{_WORDS[PauseReason.COMMAND]}, {cure}")
        return words

    def status(self) -> PauseStatus:
        """For control socket and page."""
        is_bounded = self._until is not None and math.isfinite(self._until)
        left_s = max(0.0, self._until - self._wall()) if is_bounded and self._until is not None else 0.0
        return PauseStatus(reasons=[reason.value for reason in self.reasons], ends_in_seconds=left_s)

    def _say(self, until: float | None) -> None:
        self._until = until
        self._file.write(until)
        self._decide()

    async def _look_at_machine(self) -> None:
        try:
            self._seen = await asyncio.to_thread(self._look)
            self._is_blind = False
        except Exception as error:  # noqa: BLE001 - supervises drivers and sensors, which raise anything; no node ends for that
            local = time.localtime(self._wall())
            self._seen = Seen(minute_of_day=60 * local.tm_hour + local.tm_min)
            if not self._is_blind:
                self._log.warning("machine_unreadable", detail=f"{type(error).__name__}: {error}")
            self._is_blind = True
        self._look_for_trainer()
        self._decide()

    def _look_for_trainer(self) -> None:
        """Where nothing can be seen, say so, once: the owner counts on being let through."""
        is_seen = self._is_blind or bool(self._seen and self._seen.gpus)
        training = self._training
        device = (
            training.ready.device if training is not None and training.has_state and training.ready is not None else ""
        )
        if is_seen or "cuda" not in device:
            self._unseen_since = None
            return
        now = self._clock()
        self._unseen_since = now if self._unseen_since is None else self._unseen_since
        if now - self._unseen_since >= _BLIND_S and not self._is_unseen_told:
            self._is_unseen_told = True
            self._log.warning("gpu_use_unseen", detail=_NO_SIGHT)

    def _decide(self) -> None:
        if self._until is not None and self._wall() >= self._until:
            self._until = None
            self._file.write(None)
        seen = self._seen or Seen()
        reasons = self._owner.look(seen, self._clock(), is_commanded=self._until is not None)
        if reasons != self.reasons:
            self.reasons = reasons
            self._log.info("pause_reasons", reasons=[reason.value for reason in reasons])
            self._news.set()
