"""Does something slow training down? Blocks of time with it and without it by turns, in one life of one node, and their ratios.

A machine's speed drifts over minutes by more than what is looked for, so each block is only compared with its neighbours: the
blocks of one turn, whose order is turned round from turn to turn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from lowcomm_node.errors import LowcommError

__all__ = ["Block", "Effect", "effect_of", "effect_of_ratios", "measure_blocks"]

_LOOK_S = 0.01
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One stretch of training."""

    turn: int
    every_s: float
    """Between two disturbances; 0: it was left alone."""
    steps_per_s: float
    disturbances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Speed with the disturbance over speed without, turn by turn."""

    ratios: tuple[float, ...]
    middle: float
    standard_error: float
    """Of their mean; NaN for a single one."""


def measure_blocks(
    *,
    turns: int,
    every_s: Sequence[float],
    block_s: float,
    steps: Callable[[], int],
    disturb: Callable[[], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[Block]:
    """In each turn one block for each of ``every_s``, 0 for none, forwards and backwards by turns.

    ``steps`` is how many have been taken so far; a block begins and ends in the moment that this changes, so that it is worth
    whole steps. Raises LowcommError when no step is taken for a minute.
    """
    for turn in range(turns):
        for pause_s in every_s if turn % 2 == 0 else every_s[::-1]:
            began_with, began_at = _next_step(steps, clock, sleep)
            count = 0
            while (left_s := began_at + block_s - clock()) > 0:
                if not pause_s:
                    sleep(left_s)
                elif (wait_s := began_at + count * pause_s - clock()) > 0:
                    sleep(min(wait_s, left_s))
                else:
                    disturb()
                    count += 1
            ended_with, ended_at = _next_step(steps, clock, sleep)
            speed = (ended_with - began_with) / (ended_at - began_at)
            yield Block(turn=turn, every_s=pause_s, steps_per_s=speed, disturbances=count)


def effect_of(blocks: Sequence[Block], every_s: float) -> Effect:
    """Of this pause between two disturbances, against the undisturbed block of the same turn.

    With 0 it is that of nothing: each undisturbed block against the next turn's. What is smaller cannot be told from it.
    """
    quiet = {block.turn: block.steps_per_s for block in blocks if not block.every_s}
    if every_s:
        ratios = [b.steps_per_s / quiet[b.turn] for b in blocks if b.every_s == every_s and b.turn in quiet]
    else:
        ratios = [quiet[turn + 1] / speed for turn, speed in quiet.items() if turn + 1 in quiet]
    return effect_of_ratios(ratios)


def effect_of_ratios(ratios: Sequence[float]) -> Effect:
    """Of ratios that were found turn by turn; NaN where there are none."""
    if not ratios:
        return Effect(ratios=(), middle=float("nan"), standard_error=float("nan"))
    mean = sum(ratios) / len(ratios)
    squares = sum((ratio - mean) ** 2 for ratio in ratios)
    error = (squares / (len(ratios) - 1) / len(ratios)) ** 0.5 if len(ratios) > 1 else float("nan")
    return Effect(ratios=tuple(ratios), middle=median(ratios), standard_error=error)


def _next_step(
    steps: Callable[[], int], clock: Callable[[], float], sleep: Callable[[float], None]
) -> tuple[int, float]:
    """Wait until one more has been taken; how many there are, and when that was."""
    before, until = steps(), clock() + _PATIENCE_S
    while (now_taken := steps()) <= before:
        if clock() > until:
            raise LowcommError(f"the node has taken no step for {_PATIENCE_S:g} s")
        sleep(_LOOK_S)
    return now_taken, clock()
