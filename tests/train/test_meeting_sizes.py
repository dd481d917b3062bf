"""train.meeting_sizes: what is said of a meeting without any weights is what real replicas then send."""

from dataclasses import replace

import pytest
import torch

from lowcomm_node.settings.manifest import Manifest, MeetingConfig, ModelConfig, OptimizerConfig
from lowcomm_node.settings.presets import OPTIMIZERS
from lowcomm_node.train.meeting_sizes import exchanged_shapes, meeting_sizes
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Stream
from tests.train.pairs import Pair, tiny_manifest, tiny_meeting

_AB_SLACK = 0.15
"""The tiny model's budget has room for some ten ranks: which of them are chosen, meetings teach."""


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("scalar", ["adamw", "lion"])
def test_shapes_are_those_of_a_replica(kind: str, scalar: str) -> None:
    """Of all streams that meetings could be about, whatever the optimizer."""
    manifest = tiny_manifest(optimizer=OptimizerConfig(kind=kind, scalar=scalar))
    replica = Replica(manifest, torch.device("cpu"))

    shapes = exchanged_shapes(manifest)

    assert set(shapes) == set(replica.streams) - {Stream.BASIS}
    assert all(replica.shapes_of(stream) == shapes[stream] for stream in shapes)


@pytest.mark.parametrize(
    "changes",
    [
        {"codec": "sparse", "dtype": "int4"},
        {"codec": "sparse", "dtype": "fp32", "exp_avg_sq_codec": "dense"},
        {"codec": "dense", "dtype": "int8", "exp_avg_sq_codec": "rank1"},
        {"codec": "dense", "dtype": "bf16", "exp_avg_sq_codec": "dense"},
        {"codec": "ab", "dtype": "int8", "exp_avg_sq_codec": "ab"},
        {"codec": "ab", "dtype": "bf16", "omega": "cached"},
    ],
    ids=lambda changes: "-".join(changes.values()),
)
def test_payloads_are_those_of_a_real_meeting(changes: dict[str, str]) -> None:
    """Each stream's offer, answer and close, to the byte; with low rank to its budget. At the end of the run as well."""
    manifest = tiny_manifest(tiny_meeting(**changes))
    sizes = meeting_sizes(manifest)
    pair = Pair(manifest)
    streams = tuple(sizes)
    assert set(streams) == {Stream.PARAMS, Stream.EXP_AVG, Stream.EXP_AVG_SQ}

    for _ in range(3):  # until the size of differences is known
        pair.meet(*streams)
        pair.step(1)
    for is_dense in (False, True):
        if is_dense:
            pair.i.progress_steps = pair.j.progress_steps = manifest.training.total_steps
            pair.meet(*streams, is_dense=True)
        offer = pair.offer(*streams, is_dense=is_dense)
        answer = pair.answer(offer)
        close = pair.close(answer)
        for plan, *parts in zip(offer.plans, offer.parts, answer.parts, close.parts, strict=True):
            of = sizes[plan.stream]
            expected = of.last_sizes if is_dense else of.sizes
            real = tuple(map(len, parts))
            planned = (expected.offer, expected.answer, expected.close)
            if plan.codec == "ab":
                assert sum(real) == pytest.approx(sum(planned), rel=_AB_SLACK)
            else:
                assert real == planned
        pair.apply(close)
        pair.settle(offer.meeting_id)


def test_a_model_that_no_machine_holds_has_sizes_too() -> None:
    """Seven hundred billion parameters take no memory here."""
    model = ModelConfig(num_layers=100, num_heads=64, d_model=16384, d_ff=131072)
    manifest = Manifest(model=model, meeting=MeetingConfig(codec="sparse"))

    (params, _) = meeting_sizes(replace(manifest, optimizer=OptimizerConfig(kind="adamw"))).values()

    assert params.sizes.largest_direction <= manifest.budget_bytes
    assert params.sizes.largest_direction > 0.99 * manifest.budget_bytes
    assert params.last_sizes.answer > model.num_parameters / 2
