"""What a meeting of each exchanged stream weighs: the plans that honest nodes make, and their exact sizes. No weights are drawn."""

from dataclasses import dataclass

from lowcomm_node.algo.shapes import Shapes
from lowcomm_node.algo.sizes import PartBytes
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.streams import Scope, periods, state_streams
from lowcomm_node.train.model import matrices_of, outline, parameter_shapes
from lowcomm_node.train.plans import Planner
from lowcomm_node.units import Stream, StreamKind

__all__ = ["StreamSizes", "exchanged_shapes", "meeting_sizes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSizes:
    """One stream's part of a meeting."""

    plan: StreamPlan
    sizes: PartBytes
    first_sizes: PartBytes
    """Before the size of differences is known: of integers in bf16, within the same budget where there is one."""
    last: StreamPlan
    """The plan in the dense last phase of the run (``core.progress.is_cooldown``)."""
    last_sizes: PartBytes


def meeting_sizes(manifest: Manifest) -> dict[Stream, StreamSizes]:
    """Of each stream that the manifest exchanges, in a meeting like nearly all: with the size of differences known.

    With codec ab the ranks follow
    from what meetings teach; these are the ones before anything was learnt, which fill the same budget. Raises ConfigError for a
    model that cannot be built here.
    """
    planner = Planner(manifest, exchanged_shapes(manifest))
    found = {}
    for period in periods(manifest):
        if period.every_steps:
            plan, last = (planner.settled(period.stream, is_dense=is_dense) for is_dense in (False, True))
            found[period.stream] = StreamSizes(
                plan=plan,
                sizes=planner.sizes(plan),
                first_sizes=planner.sizes(planner.plan(period.stream, is_dense=False)),
                last=last,
                last_sizes=planner.sizes(last),
            )
    return found


def exchanged_shapes(manifest: Manifest) -> dict[Stream, Shapes]:
    """Shape of each tensor of the parameters and of every stream that meetings could be about. Raises ConfigError."""
    model = outline(manifest)
    shapes = parameter_shapes(model)
    matrices = set(matrices_of(model, manifest))
    of_scope = {
        Scope.ALL: shapes,
        Scope.MATRICES: tuple(shape for index, shape in enumerate(shapes) if index in matrices),
        Scope.REST: tuple(shape for index, shape in enumerate(shapes) if index not in matrices),
    }
    kept = [stream for stream in state_streams(manifest.optimizer) if stream.kind is not StreamKind.BASIS]
    return {Stream.PARAMS: shapes, **{stream.name: of_scope[stream.scope] for stream in kept}}
