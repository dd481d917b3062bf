"""The trainer has fallen or is silent: is it started again, when, and with how small a share of a batch at a time?

Decisions only. ``Supervision`` judges one node's trainers over its whole life, ``Watch`` the silence of one of them.
Seconds are monotonic.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from lowcomm_node.core.micro_batches import more_micro_batches

__all__ = ["Cause", "GiveUp", "Restart", "Supervision", "Watch"]

_MAX_FAILURES = 5
_FORGIVEN_AFTER_S = 600.0
_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0

_SLOWEST_STEPS = 20.0
"""Silence worth this many of the slowest recent steps is no step any more. A look at the validation loss costs about four."""
_LONGEST_SILENCES = 3.0
"""What the trainer has done before (a snapshot on a slow disk, a meeting of a large model) may take this much longer."""
_NUM_RECENT = 64
_UNKNOWN_S = 1800.0
"""Patience before the first step is done: it may compile, and the look at the validation loss before it takes a while."""
_ASKED_S = 300.0
"""Patience while a question is open: a state file may be large and the disk slow."""
_NOBODY_LOOKED_S = 5.0
"""Between two looks. A longer gap means that it was the daemon that stood still, and says nothing about the trainer."""


class Cause(StrEnum):
    """Why a trainer ended; the codes of ``errors.TrainerError`` and its kinds."""

    OUT_OF_MEMORY = "out_of_memory"
    DEVICE = "device"
    KILLED = "killed"
    HANG = "hang"
    UNFIT = "unfit"
    """Its state was, see ``core.health``; the process was in order."""
    TRAINER = "trainer"


_CURES = {
    Cause.OUT_OF_MEMORY: "a smaller part of a batch than a single example cannot be taken: close what else uses the memory, "
    "choose another device with device.name, or join a run with a smaller model",
    Cause.DEVICE: "the driver's log (dmesg, nvidia-smi) may say why; device.name chooses another device",
    Cause.KILLED: "something on this machine kills it; if it is short of memory, set device.micro_batches higher",
    Cause.HANG: "the machine may be overloaded or its device stuck; device.hang_after_s gives it more time",
    Cause.UNFIT: "check this machine's memory, its device and its data",
    Cause.TRAINER: "the lines before this one say what went wrong",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Start the trainer again."""

    after_s: float
    micro_batches: int
    """Parts that a batch is to be taken in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Starting it again would not help."""

    sentence: str
    """What happened and what to change."""


class Supervision:
    """Whether and how a fallen trainer is started again.

    Each fall that comes soon after a start counts, and the wait before the next start doubles with each; the fifth in
    a row is the last. A trainer that lived for ten minutes has made good for the falls before. Running out of memory
    does not count while a batch can still be taken in smaller parts: the next life is not a repetition of the last. Nor
    does an unfit state: how often that may happen is for ``core.health`` to say.
    """

    def __init__(self, *, micro_batches: int, batch_size: int) -> None:
        """``micro_batches`` to begin with; more than the batch has examples are as many as it has."""
        self._batch_size = batch_size
        self.micro_batches = max(1, min(micro_batches, batch_size))
        """Parts that a batch is taken in, as far as is known."""
        self._failures = 0
        self._started_at: float | None = None

    def started(self, now: float) -> None:
        """A trainer is about to be started, or told to begin."""
        self._started_at = now

    def took(self, micro_batches: int) -> None:
        """The trainer itself says in how many parts it takes its batches; it may have found that it must be more."""
        self.micro_batches = max(self.micro_batches, min(micro_batches, self._batch_size))

    def fell(self, cause: Cause, detail: str, now: float) -> Restart | GiveUp:
        """The trainer has ended because of ``cause``; ``detail`` is its own sentence about it."""
        if self._started_at is not None and now - self._started_at > _FORGIVEN_AFTER_S:
            self._failures = 0
        self._started_at = None
        more = more_micro_batches(self.micro_batches, self._batch_size) if cause is Cause.OUT_OF_MEMORY else None
        if more is not None:
            self.micro_batches = more
        elif cause is not Cause.UNFIT:
            self._failures += 1
        if self._failures >= _MAX_FAILURES:
            return GiveUp(sentence=f"the trainer has ended {self._failures} times in a row: {detail}; {_CURES[cause]}")
        delay_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**self._failures)
        return Restart(after_s=delay_s, micro_batches=self.micro_batches)


class Watch:
    """Is a trainer that should train silent for too long?

    The bound adapts: a machine whose steps take a minute is given twenty. It is asked often (``is_hanging``) and told
    of every message (``heard``). Time in which it was not asked does not count: then this process stood still too.
    """

    def __init__(self, *, least_s: float, now: float) -> None:
        """``least_s``: never less patience than this."""
        self._least_s = least_s
        self._heard_at = self._looked_at = now
        self._steps_s: deque[float] = deque(maxlen=_NUM_RECENT)
        self._silences_s: deque[float] = deque(maxlen=_NUM_RECENT)

    def heard(self, now: float, step_s: float = 0.0) -> None:
        """The trainer has said something; ``step_s`` is the duration of a step, 0 when it took none."""
        self._silences_s.append(now - self._heard_at)
        self._heard_at = now
        if step_s > 0:
            self._steps_s.append(step_s)

    def patience_s(self, *, is_asked: bool = False) -> float:
        """Seconds of silence that are still in order; ``is_asked`` while the trainer owes an answer to a question."""
        if not self._steps_s:
            return max(self._least_s, _UNKNOWN_S)
        own_s = max(_SLOWEST_STEPS * max(self._steps_s), _LONGEST_SILENCES * max(self._silences_s))
        return max(self._least_s, own_s, _ASKED_S if is_asked else 0.0)

    def is_hanging(self, now: float, *, is_asked: bool = False) -> bool:
        """The trainer has been silent for longer than ``patience_s``."""
        if now - self._looked_at > _NOBODY_LOOKED_S:
            self._heard_at += now - self._looked_at
        self._looked_at = now
        return now - self._heard_at > self.patience_s(is_asked=is_asked)
