"""Own plans follow the manifest and what was seen; foreign ones are checked against the same limits."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lowcomm_node.algo.correction import Correction
from lowcomm_node.algo.sizes import part_bytes
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.errors import RefusalReason, RemoteProtocolError
from lowcomm_node.settings.manifest import Manifest, MeetingConfig, OptimizerConfig
from lowcomm_node.train.plans import Planner
from lowcomm_node.units import Codec, Dtype, Omega, Stream

_SHAPES = ((64, 48), (48,), (64, 48))
_BUDGET = 4096


def _planner(optimizer: str = "adamw", **meeting: Any) -> Planner:
    defaults = {"codec": "ab", "dtype": "bf16", "budget_bytes": _BUDGET, "dense_last_ratio": 0.05}
    config = MeetingConfig(**{**defaults, **meeting})
    manifest = Manifest(meeting=config, optimizer=OptimizerConfig(kind=optimizer))
    return Planner(manifest, dict.fromkeys(Stream, _SHAPES))


def _correction(plan: StreamPlan, scale: float = 1.0) -> Correction:
    """A difference of rms ``scale``, as if sent whole."""
    parts = [torch.full(shape, scale) if rank else None for shape, rank in zip(_SHAPES, plan.ranks, strict=True)]
    return Correction(tuple(parts))


def _refusal(planner: Planner, *plans: StreamPlan, progress_steps: float = 0.0) -> RefusalReason | None:
    try:
        planner.check_foreign(plans, progress_steps)
    except RemoteProtocolError as error:
        return error.reason
    return None


@pytest.mark.parametrize("codec", ["ab", "sparse", "dense"])
@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("omega", Omega)
def test_own_plans_are_what_others_accept(codec: str, dtype: Dtype, omega: Omega) -> None:
    """Before and after differences were seen, in the budget but for codec dense, and in the manifest's words."""
    planner, partner = (_planner(codec=codec, dtype=dtype.value, omega=omega.value) for _ in range(2))

    for _ in range(8):
        plan = planner.plan(Stream.PARAMS, is_dense=False)
        assert _refusal(partner, plan) is None
        assert codec == "dense" or part_bytes(_SHAPES, plan).largest_direction <= _BUDGET
        assert plan.omega is (omega if codec == "ab" else Omega.SEEDED)
        assert (planner.ranges(plan) is None) == (plan.dtype in (Dtype.FP32, Dtype.BF16))
        planner.observe(plan, _correction(plan), is_own=True)
    assert planner.plan(Stream.PARAMS, is_dense=False).dtype is dtype


def test_integers_wait_for_the_first_difference() -> None:
    """Until every tensor of a plan was seen once the plan is in bf16; then ranges are what was seen."""
    planner = _planner(codec="dense", dtype="int8")
    plan = planner.plan(Stream.PARAMS, is_dense=False)
    assert plan.dtype is Dtype.BF16

    planner.observe(plan, _correction(plan, 0.25), is_own=False)

    plan = planner.plan(Stream.PARAMS, is_dense=False)
    assert plan.dtype is Dtype.INT8
    assert planner.ranges(plan) == pytest.approx((0.25, 0.25, 0.25))


def test_only_the_initiator_learns_from_a_void_tensor() -> None:
    """A partner whose beliefs are absurd cannot make the answerer doubt its own."""
    planner = _planner(codec="dense", dtype="int8")
    plan = planner.plan(Stream.PARAMS, is_dense=False)
    planner.observe(plan, _correction(plan), is_own=True)
    before = planner.ranges(planner.plan(Stream.PARAMS, is_dense=False))
    assert before is not None

    for is_own, growth in ((False, 2**0.5), (True, 4 * 3**0.5)):
        planner.observe(plan, Correction((None, None, None)), is_own=is_own)
        after = planner.ranges(planner.plan(Stream.PARAMS, is_dense=False))
        assert after == pytest.approx([growth * value for value in before])


def test_streams_follow_the_optimizer() -> None:
    """A stream that the manifest does not exchange has no plan and is refused; one that it does has its own codec."""
    adamw, muon = _planner(), _planner("muon", momentum_every_steps=7)

    assert adamw.plan(Stream.EXP_AVG_SQ, is_dense=False).codec is Codec.RANK1
    assert muon.plan(Stream.MOMENTUM, is_dense=False).codec is Codec.AB
    momentum = muon.plan(Stream.MOMENTUM, is_dense=False)
    assert _refusal(muon, momentum) is None
    assert _refusal(adamw, momentum) is RefusalReason.MALFORMED
    with pytest.raises(RemoteProtocolError, match="does not exchange momentum"):
        adamw.plan(Stream.MOMENTUM, is_dense=False)


@pytest.mark.parametrize(
    ("codec", "dtype", "expected"), [("dense", "int4", "bf16"), ("ab", "int4", "int4"), ("dense", "fp32", "fp32")]
)
def test_second_moments_are_never_dense_integers(codec: str, dtype: str, expected: str) -> None:
    """One step for numbers of many magnitudes would drown the small ones; logarithms are all right."""
    planner = _planner(exp_avg_sq_codec=codec, dtype=dtype)
    for _ in range(6):
        plan = planner.plan(Stream.EXP_AVG_SQ, is_dense=False)
        planner.observe(plan, _correction(plan), is_own=True)

    assert planner.plan(Stream.EXP_AVG_SQ, is_dense=False).dtype == expected


@pytest.mark.parametrize("codec", ["ab", "sparse", "dense"])
def test_first_moments_are_never_integers(codec: str) -> None:
    """Each counts beside its own second moment, so that noise which is the same everywhere would drown the small ones."""
    planner = _planner(codec=codec, dtype="int4", exp_avg_every_steps=7)
    plan = planner.plan(Stream.EXP_AVG, is_dense=False)
    planner.observe(plan, _correction(plan), is_own=True)

    assert planner.plan(Stream.EXP_AVG, is_dense=False).dtype is Dtype.BF16
    assert _refusal(planner, replace(plan, dtype=Dtype.INT4)) is RefusalReason.MALFORMED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"codec": Codec.SPARSE, "ranks": (1, 1, 1)}, RefusalReason.MALFORMED),
        ({"dtype": Dtype.FP32}, RefusalReason.MALFORMED),
        ({"dtype": Dtype.INT4}, RefusalReason.MALFORMED),
        ({"dtype": Dtype.BF16}, None),
        ({"omega": Omega.CACHED}, RefusalReason.MALFORMED),
        ({"ranks": (1, -1)}, RefusalReason.MALFORMED),
        ({"ranks": (48, -1, 48)}, RefusalReason.OVERSIZED),
        ({"codec": Codec.DENSE, "ranks": (-1, -1, -1)}, RefusalReason.OVERSIZED),
        # Within the budget: but clipping knows nothing yet of a codec that is for the end.
        ({"codec": Codec.DENSE, "ranks": (0, -1, 0)}, RefusalReason.OVERSIZED),
    ],
)
def test_foreign_plans_are_held_to_the_manifest(changes: dict[str, Any], reason: RefusalReason | None) -> None:
    """Another codec, format, test matrix or size is refused; bf16 in place of integers is the form of a first meeting."""
    fields: dict[str, Any] = {"codec": Codec.AB, "dtype": Dtype.INT8, "ranks": (1, -1, 1), "omega": Omega.SEEDED}
    plan = StreamPlan(stream=Stream.PARAMS, **{**fields, **changes})

    assert _refusal(_planner(dtype="int8"), plan) is reason


def test_whole_tensors_over_the_budget_belong_to_the_end() -> None:
    """In the last phase a dense plan in place of ab or sparse is taken, whatever its size."""
    for codec in ("ab", "sparse"):
        planner = _planner(codec=codec)
        plan = planner.plan(Stream.PARAMS, is_dense=True)
        assert plan.codec is Codec.DENSE
        assert _refusal(planner, plan, progress_steps=0.5 * 2000) is RefusalReason.OVERSIZED
        assert _refusal(planner, plan, progress_steps=0.96 * 2000) is None


def test_each_stream_once() -> None:
    """No plan, or two for one stream, is not a meeting."""
    planner = _planner()
    plan = planner.plan(Stream.PARAMS, is_dense=False)

    assert _refusal(planner) is RefusalReason.MALFORMED
    assert _refusal(planner, plan, plan) is RefusalReason.MALFORMED
