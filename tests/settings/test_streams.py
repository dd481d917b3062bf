"""settings.streams: what each optimizer keeps, and the periods that follow from how long it remembers."""

import math

import pytest

from lowcomm_node.settings.manifest import Manifest, MeetingConfig, OptimizerConfig
from lowcomm_node.settings.streams import Period, Scope, half_life, periods, state_streams
from lowcomm_node.units import Stream, StreamKind

P, U, V, M, B = Stream.PARAMS, Stream.EXP_AVG, Stream.EXP_AVG_SQ, Stream.MOMENTUM, Stream.BASIS


def found(meeting: MeetingConfig | None = None, /, **optimizer: float | str) -> dict[Stream, int]:
    """The periods of a run with this optimizer, K = 5 unless ``meeting`` says otherwise."""
    config = OptimizerConfig(**optimizer)  # type: ignore[arg-type]
    return {p.stream: p.every_steps for p in periods(Manifest(optimizer=config, meeting=meeting or MeetingConfig()))}


@pytest.mark.parametrize(
    ("decay", "steps"), [(0.9, 6.58), (0.95, 13.51), (0.99, 68.97), (0.995, 138.28), (0.999, 692.8), (0.9999, 6931.1)]
)
def test_half_lives(decay: float, steps: float) -> None:
    """The table of DES-LOC (2505.22549): ln 0.5 / ln beta."""
    assert half_life(decay) == pytest.approx(steps, abs=0.06)
    assert decay ** half_life(decay) == pytest.approx(0.5)


def test_what_is_not_kept_is_forgotten_at_once() -> None:
    """beta = 0 has no logarithm."""
    assert half_life(0.0) == 0.0
    assert found(kind="adamw", beta1=0.0, beta2=0.0) == {P: 5, U: 0, V: 5}


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ({"kind": "adamw"}, {P: 5, U: 0, V: 69}),
        ({"kind": "adamw", "beta1": 0.95, "beta2": 0.999}, {P: 5, U: 0, V: 693}),
        ({"kind": "adamw", "beta1": 0.99}, {P: 5, U: 69, V: 69}),
        ({"kind": "adopt", "beta2": 0.9999}, {P: 5, U: 0, V: 6931}),
        ({"kind": "mtdao", "beta1": 0.999}, {P: 5, U: 693, V: 69}),
        ({"kind": "sgd", "momentum": 0.9}, {P: 5, M: 0}),
        ({"kind": "sgd", "momentum": 0.98}, {P: 5, M: 34}),
        ({"kind": "muon"}, {P: 5, M: 0, U: 0, V: 69}),
        ({"kind": "muon", "scalar": "lion", "momentum": 0.99}, {P: 5, M: 69, U: 69}),
        ({"kind": "dion", "momentum": 0.97}, {P: 5, M: 23, B: 0, U: 0, V: 69}),
    ],
)
def test_derived_periods(optimizer: dict[str, float | str], expected: dict[Stream, int]) -> None:
    """Once per half-life; never for a signed average that is gone before the next meeting; a basis never."""
    assert found(**optimizer) == expected


def test_no_stream_is_exchanged_more_often_than_the_parameters() -> None:
    """DES-LOC chooses K_x first; the others follow, never below it."""
    rare = MeetingConfig(params_every_steps=100)

    assert found(rare, kind="adamw") == {P: 100, U: 0, V: 100}
    assert found(rare, kind="mtdao", beta1=0.999) == {P: 100, U: 693, V: 100}


def test_the_manifest_overrules_what_is_derived() -> None:
    """A period that is written holds, 0 is never; only the basis has none to write."""
    written = MeetingConfig(exp_avg_every_steps=3, exp_avg_sq_every_steps=0, momentum_every_steps=4)

    assert found(written, kind="dion") == {P: 5, M: 4, B: 0, U: 3, V: 0}
    adamw = Manifest(meeting=written, optimizer=OptimizerConfig(kind="adamw"))
    reasons = {period.stream: period.reason for period in periods(adamw)}
    assert reasons == {P: "set in the manifest", U: "set in the manifest", V: "set in the manifest"}


def test_derived_periods_say_why() -> None:
    """An organiser reads the reason where the number is not in the manifest."""
    told = {period.stream: period for period in periods(Manifest(optimizer=OptimizerConfig(kind="dion")))}

    assert told[V] == Period(stream=V, every_steps=69, reason="half-life of beta 0.99")
    assert "forgets half in 6.6 steps" in told[U].reason
    assert "gauge" in told[B].reason


@pytest.mark.parametrize("kind", ["adamw", "adopt", "mtdao", "sgd", "muon", "dion"])
@pytest.mark.parametrize("scalar", ["adamw", "lion"])
def test_streams_are_declared_once_and_by_their_nature(kind: str, scalar: str) -> None:
    """No name twice; second moments are non-negative, a basis is none of the averaged, every average has its decay."""
    streams = state_streams(OptimizerConfig(kind=kind, scalar=scalar))

    names = [stream.name for stream in streams]
    assert len(set(names)) == len(names)
    assert Stream.PARAMS not in names
    for stream in streams:
        assert (stream.kind is StreamKind.NON_NEGATIVE) == (stream.name is V)
        assert (stream.kind is StreamKind.BASIS) == (stream.name is B) == (stream.decay == 0.0)
        assert 0.0 <= stream.decay < 1.0
        assert math.isfinite(half_life(stream.decay))
    scopes = {stream.scope for stream in streams}
    assert scopes == ({Scope.MATRICES, Scope.REST} if kind in ("muon", "dion") else {Scope.ALL})
