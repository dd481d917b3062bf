"""A swarm of real nodes beside real processes that wait for each other: what each run was, and what it came to."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lowcomm_node.bench.reference_load import Reference, Telling
from lowcomm_node.bench.traffic import ring_bytes
from lowcomm_node.units import Dtype

__all__ = [
    "SWARM",
    "Contender",
    "Look",
    "Outcome",
    "Row",
    "contenders",
    "curve_of",
    "reckoned_bytes",
    "rows_of",
]

SWARM = "swarm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One line of the comparison."""

    label: str
    reference: Reference | None
    """None is the swarm."""
    every_steps: int = 0
    """H of DiLoCo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All processes of one run at one moment."""

    tokens: int
    """Trained on by all together."""
    bytes_per_node: float
    """Payload received until then, mean over processes: what one receives another has sent."""
    loss: float
    """On held-out windows, mean over processes, nats per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run with one seed. Losses are nats per token on more held-out windows than a look takes."""

    label: str
    seed: int
    loss: float
    """Mean over the nodes."""
    loss_averaged: float
    """Of their averaged model."""
    spread: float
    """Root mean square distance of the nodes from their mean, per parameter."""
    tokens: int
    bytes_per_node: float
    wire_bytes_per_node: float | None
    """All that came out of a node's network device, whatever for, headers included; None where nobody counted."""
    reckoned_bytes: float | None
    """The same payload by formula; None for the swarm, whose meetings choose."""
    seconds: float
    """From the first step to the last, all processes on one computer."""
    parameters: int
    meetings: int = 0
    curve: tuple[Look, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One contender over its seeds."""

    label: str
    outcomes: tuple[Outcome, ...]

    def mean(self, name: str) -> float:
        """Of a number over the seeds; NaN where one is not known."""
        values = [getattr(outcome, name) for outcome in self.outcomes]
        return math.nan if None in values else statistics.fmean(values)

    def deviation(self, name: str) -> float:
        """Standard deviation over the seeds, 0 of one."""
        values = [getattr(outcome, name) for outcome in self.outcomes]
        return statistics.stdev(values) if len(values) > 1 else 0.0


def contenders(diloco_every_steps: Sequence[int]) -> list[Contender]:
    """The swarm, and what it is compared with, in the order of tables."""
    return [
        Contender(label=SWARM, reference=None),
        Contender(label="ddp", reference=Reference.DDP),
        *(
            Contender(label=f"diloco-h{every}", reference=Reference.DILOCO, every_steps=every)
            for every in dict.fromkeys(diloco_every_steps)
        ),
        Contender(label="local", reference=Reference.LOCAL),
    ]


def curve_of(tellings: Sequence[Sequence[Telling]]) -> tuple[Look, ...]:
    """From what each member said of itself, the looks that all of them took."""
    looks = []
    for at_once in zip(*tellings, strict=False):
        losses = [telling.loss for telling in at_once if telling.loss is not None]
        if len({telling.steps for telling in at_once}) == 1 and losses:
            received = [telling.received_bytes or 0 for telling in at_once]
            looks.append(
                Look(
                    tokens=sum(telling.tokens for telling in at_once),
                    bytes_per_node=statistics.fmean(received),
                    loss=statistics.fmean(losses),
                )
            )
    return tuple(looks)


def reckoned_bytes(contender: Contender, *, parameters: int, nodes: int, steps: int) -> float | None:
    """Payload that each member sends in the whole run by a ring all-reduce in fp32: 2 (N - 1) / N of it each time."""
    if contender.reference is None:
        return None
    exchanges = {
        Reference.DDP: steps,
        Reference.DILOCO: math.ceil(steps / max(1, contender.every_steps)),
        Reference.LOCAL: 0,
    }[contender.reference]
    return exchanges * ring_bytes(parameters, nodes, Dtype.FP32.bits)


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """By contender, in the order in which they were run first."""
    labels = dict.fromkeys(outcome.label for outcome in outcomes)
    return [Row(label, tuple(o for o in outcomes if o.label == label)) for label in labels]
