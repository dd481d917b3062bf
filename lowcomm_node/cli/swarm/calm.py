"""The measure of a troubled run: the same nodes on the same data up to the same swarm progress, left in peace."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lowcomm_node.cli.swarm.attendance import Absence, Attendance
from lowcomm_node.cli.swarm.conductor import Conductor
from lowcomm_node.cli.swarm.fleet import Fleet
from lowcomm_node.cli.swarm.interrupts import Interrupts
from lowcomm_node.cli.swarm.launch import IDENTITY_FILE, NodePlace, Workshop
from lowcomm_node.cli.swarm.observe import Observer
from lowcomm_node.cli.swarm.options import SwarmOptions
from lowcomm_node.cli.swarm.ports import choose_ports
from lowcomm_node.cli.swarm.view import View
from lowcomm_node.cli.swarm.watch import Watcher
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings

__all__ = ["CalmRun", "train_calm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalmRun:
    """What a run without trouble left."""

    states: dict[str, Path]
    """Node -> last state file, of those that left in order."""
    progress_steps: float
    tokens: int
    """Of all nodes."""
    meetings: int
    """Completed."""


def train_calm(
    options: SwarmOptions,
    *,
    directory: Path,
    manifest: Manifest,
    settings: NodeSettings,
    like: Sequence[NodePlace],
    until_progress_steps: float,
    view: View,
    interrupts: Interrupts,
    absences: Sequence[Absence] | None = None,
) -> CalmRun:
    """Train in the new ``directory`` until the nodes' mean progress is ``until_progress_steps``, or the schedule ends.

    By progress, not by time: trouble takes time, and the question is what else it takes. ``like``: nodes of the troubled run,
    as many as are to train; theirs are the names and identities, and with these the data. ``absences``: all nodes start and join
    late as in the troubled run, and are away then, in order; None: all of ``like`` are there all the time. Raises LowcommError
    when nothing starts.
    """
    directory.mkdir()
    workshop = Workshop(directory, manifest, settings=settings)
    places = [workshop.place(of.name, own) for of, own in zip(like, choose_ports(len(like), None), strict=True)]
    for of, place in zip(like, places, strict=True):
        shutil.copy(of.directory / IDENTITY_FILE, place.directory)
    fleet = Fleet(workshop.command)
    with Watcher() as watcher:
        observer = Observer(fleet, watcher, nodes=len(places))
        conductor = Conductor(
            replace(
                options,
                nodes=options.nodes if absences is not None else len(places),
                chaos_every_s=0.0,
                sleep_s=0.0,
                kill_every_s=0.0,
                join_late=options.join_late if absences is not None else 0,
                line=None,
                behind_nat=0,
                compare_no_meetings=False,
                recordings=None,
                minutes=None,
                steps=manifest.training.total_steps,
            ),
            places=places,
            fleet=fleet,
            observer=observer,
            view=view,
            interrupts=interrupts,
            first_address=workshop.address(places[0]),
            seed=manifest.seed,
            until_progress_steps=until_progress_steps,
            attendance=Attendance(absences or ()),
        )
        conductor.run()
    states = {place.name: place.final_state for place in places if place.name in conductor.ending.live}
    return CalmRun(
        states=states,
        progress_steps=conductor.ending.progress_steps,
        tokens=observer.ledger.tokens,
        meetings=observer.ledger.meetings_completed,
    )
