"""Are the losses of a troubled swarm those of undisturbed ones? Compared at equal swarm progress and equal tokens.

Progress alone does not make two runs equal: it counts the steps of the average node, whatever the number of nodes behind it. Nor
do tokens alone: twice the nodes take half the steps, and stand elsewhere in the schedule. So the undisturbed swarms go up to the
troubled one's progress, in its schedule, with as many nodes as make its tokens. As nodes are whole there are two of them, one
with fewer tokens and one with more, and the line through their mean losses says what to expect in between.

Nor do both: a node that is away for a while costs a swarm more than its tokens, even when it leaves in order and comes back.
So after faults the same nodes train once more with the same absences, in order, and that is the undisturbed run that the
troubled one is held to; what it has more or less in tokens is worth what the line says.
"""

import statistics
from dataclasses import dataclass

from rich import box
from rich.table import Table

__all__ = ["CalmReport", "Trained", "calm_sizes", "calm_table", "compare_with_calm"]

_LEAST_SPREAD = 0.01
"""Share of the loss by which two undisturbed swarms of equal tokens differ: no two runs of real processes meet alike."""
_FEWEST_NODES = 2
"""Fewer do not meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How far a swarm came, and how good it became. Losses are nats per token."""

    nodes: int
    """At the start."""
    progress_steps: float
    """Mean swarm progress at the end."""
    tokens: int
    """Trained on by all nodes, without what kills took from everybody."""
    meetings: int
    """Completed. With fewer for as many tokens, replicas learn less from one another."""
    losses: dict[str, float]
    """Live node -> validation loss of its last state; not empty."""

    @property
    def loss_mean(self) -> float:
        """Over the nodes."""
        return statistics.fmean(self.losses.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class CalmReport:
    """What trouble cost beyond the work that was not done."""

    troubled: Trained
    calm: list[Trained]
    """The one with fewer nodes first."""
    orderly: Trained | None
    """The same nodes with the same absences, in order; null where there was no fault."""
    expected_present: float
    """Mean loss at the troubled swarm's tokens of undisturbed nodes that are there all the time."""
    expected: float
    """Mean loss at the troubled swarm's tokens of undisturbed nodes with its attendance."""
    spread: float
    """Most that an undisturbed node was above its swarm's mean, or 1 % of the loss, whichever is more."""
    above: dict[str, float]
    """Live node of the troubled swarm -> by how much its loss is above ``expected + spread``; empty is right."""


def calm_sizes(troubled: Trained, *, tokens_per_step: int, most: int) -> tuple[int, int]:
    """Nodes of the two undisturbed swarms: as many as make the troubled one's tokens at its progress, rounded down and up.

    ``most`` nodes have an identity to lend, 3 or more; ``tokens_per_step`` are those of one node.
    """
    nodes = troubled.tokens / (tokens_per_step * troubled.progress_steps)
    fewer = max(_FEWEST_NODES, min(int(nodes), most - 1))
    return fewer, fewer + 1


def compare_with_calm(troubled: Trained, fewer: Trained, more: Trained, orderly: Trained | None = None) -> CalmReport:
    """Are the troubled swarm's losses within the spread of undisturbed swarms? ``fewer`` and ``more`` differ in their tokens."""
    slope = (more.loss_mean - fewer.loss_mean) / (more.tokens - fewer.tokens)
    present = fewer.loss_mean + slope * (troubled.tokens - fewer.tokens)
    expected = present if orderly is None else orderly.loss_mean + slope * (troubled.tokens - orderly.tokens)
    undisturbed = [fewer, more] if orderly is None else [orderly]
    highest = max(max(calm.losses.values()) - calm.loss_mean for calm in undisturbed)
    spread = max(highest, _LEAST_SPREAD * expected)
    excess = {name: loss - expected - spread for name, loss in troubled.losses.items()}
    return CalmReport(
        troubled=troubled,
        calm=[fewer, more],
        orderly=orderly,
        expected_present=present,
        expected=expected,
        spread=spread,
        above={name: by for name, by in excess.items() if by > 0},
    )


def calm_table(report: CalmReport) -> Table:
    """The swarms side by side."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("swarm")
    for heading in ("nodes", "progress", "tokens", "meetings", "validation loss, mean"):
        table.add_column(heading, justify="right")
    table.add_column("of each node", style="dim")
    fewer, more = report.calm
    swarms = [("undisturbed", fewer), ("with trouble", report.troubled), ("undisturbed", more)]
    if report.orderly is not None:
        swarms.insert(1, ("absent in order", report.orderly))
    for what, swarm in swarms:
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in swarm.losses.items())
        counts = (str(swarm.nodes), f"{swarm.progress_steps:.0f}", f"{swarm.tokens:,}", f"{swarm.meetings:,}")
        table.add_row(what, *counts, f"{swarm.loss_mean:.4f}", losses)
    return table
