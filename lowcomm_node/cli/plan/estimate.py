"""What a run would cost here: this machine is measured and looked at, the rest is arithmetic of ``core.costs``."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

from lowcomm_node.adapters.power import Power, PowerMeter
from lowcomm_node.cli.pace import Pace, measure_pace
from lowcomm_node.core.allowance import Allowance
from lowcomm_node.core.cost_advice import Advice, Room, advise
from lowcomm_node.core.costs import Circumstances, Costs, Flow, Weight, reckon
from lowcomm_node.core.diagnosis import Facts
from lowcomm_node.core.micro_batches import fitting_parts
from lowcomm_node.daemon.doctor.machine import look_at_trainer, wished_bytes
from lowcomm_node.errors import ConfigError, DataError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.hours import parse_hours
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.paths import resolve_state_dir
from lowcomm_node.settings.sizes import example_bytes, fixed_bytes, state_bytes
from lowcomm_node.settings.streams import periods
from lowcomm_node.train.meeting_sizes import StreamSizes, meeting_sizes
from lowcomm_node.units import Stream
from lowcomm_node.wire.meeting_weight import message_bytes

__all__ = ["Asked", "Estimate", "estimate", "weights_of"]

_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line says; None and 0 are: find out, or leave out."""

    steps_per_second: float | None = None
    nodes: int = 0
    up_mbit_per_s: float | None = None
    down_mbit_per_s: float | None = None
    hours_per_day: float = 24.0
    joins_per_day: float = 1.0
    watts: float | None = None
    price_per_kwh: float | None = None
    currency: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """All that there is to say."""

    run_name: str
    run_id: str
    parameters: int
    tokens_per_step: int
    total_steps: int
    codings: dict[Stream, str]
    """Codec and number format of each exchanged stream."""
    weights: tuple[Weight, ...]
    around: Circumstances
    costs: Costs
    room: Room
    advice: tuple[Advice, ...]
    pace: Pace | None
    """None where steps a second were given."""
    device: str
    memory_name: str
    power: Power | None
    """None where watts are not known."""
    nodes: int
    """0: not said."""
    currency: str
    has_roles: bool
    """In stretches of the run meetings are in role (AB-training), which is not reckoned with."""


def estimate(
    manifest: Manifest,
    settings: NodeSettings,
    asked: Asked,
    *,
    up_bytes_per_s: float = 0.0,
    down_bytes_per_s: float = 0.0,
    say: Callable[[str], None],
) -> Estimate:
    """All of it. ``up_bytes_per_s`` and ``down_bytes_per_s``: the line as it was measured to a peer; 0 where it was not.

    Raises ConfigError and DataError, for a machine that cannot train this model as well.
    """
    sizes = meeting_sizes(manifest)
    facts = look_at_trainer(Facts(), settings, manifest)
    if problem := facts.torch_error or facts.gpu_error:
        raise ConfigError(problem)
    pace = None if asked.steps_per_second is not None else _measured(manifest, settings, facts, say)
    power = pace.power if pace is not None else None
    if asked.watts is not None:
        power = Power(watts=asked.watts, of="--watts")
    bandwidth = settings.bandwidth
    training_share, open_share = _shares(settings)
    around = Circumstances(
        steps_per_s=pace.steps_per_second if pace is not None else asked.steps_per_second or 0.0,
        hours_per_day=asked.hours_per_day,
        training_share=training_share,
        open_share=open_share,
        up_mbit_per_s=asked.up_mbit_per_s or _least(bandwidth.up_mbit_per_s, up_bytes_per_s),
        down_mbit_per_s=asked.down_mbit_per_s or _least(bandwidth.down_mbit_per_s, down_bytes_per_s),
        monthly_gb=bandwidth.monthly_gb,
        joins_per_day=asked.joins_per_day,
        state_bytes=state_bytes(manifest),
        total_steps=manifest.training.total_steps,
        last_ratio=manifest.meeting.dense_last_ratio,
        watts=power.watts if power is not None else 0.0,
        price_per_kwh=asked.price_per_kwh or 0.0,
    )
    weights = weights_of(manifest, sizes)
    costs, room = reckon(weights, around), _room(manifest, settings, facts, around, pace)
    return Estimate(
        run_name=manifest.name,
        run_id=run_id(manifest),
        parameters=manifest.model.num_parameters,
        tokens_per_step=manifest.tokens_per_step,
        total_steps=manifest.training.total_steps,
        codings={stream: f"{of.plan.codec} {of.plan.dtype}" for stream, of in sizes.items()},
        weights=weights,
        around=around,
        costs=costs,
        room=room,
        advice=advise(costs, room),
        pace=pace,
        device=facts.device,
        memory_name=facts.memory_name,
        power=power,
        nodes=asked.nodes,
        currency=asked.currency,
        has_roles=manifest.outer.method == "ab",
    )


def weights_of(manifest: Manifest, sizes: dict[Stream, StreamSizes]) -> tuple[Weight, ...]:
    """What meetings of each stream weigh on the wire, the most frequent first."""
    every = {period.stream: period.every_steps for period in periods(manifest)}
    found = []
    for stream, of in sizes.items():
        usual, last = of.sizes, of.last_sizes
        payload = Flow(sent=usual.offer + usual.close, received=usual.answer)
        sent, received = message_bytes(of.plan, usual.offer, usual.answer, usual.close)
        found.append(
            Weight(
                stream=stream,
                every_steps=every[stream],
                payload=payload,
                framing=Flow(sent=sent - payload.sent, received=received - payload.received),
                last_payload=Flow(sent=last.offer + last.close, received=last.answer),
            )
        )
    return tuple(sorted(found, key=lambda weight: weight.every_steps))


def _measured(manifest: Manifest, settings: NodeSettings, facts: Facts, say: Callable[[str], None]) -> Pace:
    needed = fixed_bytes(manifest)
    if facts.memory_free_bytes and needed > facts.memory_free_bytes:
        raise ConfigError(
            f"this model takes {needed / 1e9:.3g} GB and more, {facts.memory_free_bytes / 1e9:.3g} GB are {facts.memory_name}: its pace "
            "cannot be measured here; say what it is on the machine that you plan for with --steps-per-second"
        )
    if facts.data_error:
        raise DataError(
            f"{facts.data_error}; or leave measuring out with --steps-per-second, for which no data are needed"
        )
    say(f"measuring how fast {facts.device} trains {manifest.name} here, some seconds")
    # Not in the state directory: that keeps one set of tokens, and a node may be using it.
    with TemporaryDirectory(prefix="lowcomm-plan-") as scratch:
        return measure_pace(manifest, replace(settings, state_dir=scratch), lambda: False, PowerMeter())


def _shares(settings: NodeSettings) -> tuple[float, float]:
    """Of the day, in which training goes on; and of that, in which the line is open."""
    away, closed = _minutes(settings.owner.quiet_hours), _minutes(settings.bandwidth.quiet_hours)
    training = _DAY_MINUTES - len(away)
    return training / _DAY_MINUTES, (training - len(closed - away)) / training if training else 0.0


def _minutes(hours: str) -> set[int]:
    allowance = Allowance(quiet_hours=parse_hours(hours))
    return {minute for minute in range(_DAY_MINUTES) if allowance.quiet_for_min(minute)}


def _least(cap_mbit_per_s: float, measured_bytes_per_s: float) -> float:
    """Of what is known; 0: nothing is."""
    known = [rate for rate in (cap_mbit_per_s, measured_bytes_per_s * 8 / 1e6) if rate]
    return min(known, default=0.0)


def _room(manifest: Manifest, settings: NodeSettings, facts: Facts, around: Circumstances, pace: Pace | None) -> Room:
    free = facts.memory_free_bytes
    parts = fitting_parts(example_bytes(manifest), manifest.training.batch_size, free - fixed_bytes(manifest))
    fits = fixed_bytes(manifest) + example_bytes(manifest) * -(-manifest.training.batch_size // parts) <= free
    state_dir = resolve_state_dir(settings.state_dir, os.environ)
    existing = next(path for path in (state_dir, *state_dir.absolute().parents) if path.exists())
    return Room(
        # What was seen fits; it is there that the estimate is of no use.
        memory_bytes=pace.memory_bytes if pace is not None else facts.memory_bytes or 0,
        memory_free_bytes=free if pace is None else max(free, pace.memory_bytes),
        fitting_micro_batches=parts if fits else 0,
        fitting_layers=_fitting_layers(manifest, free),
        disk_bytes=wished_bytes(settings, manifest),
        disk_free_bytes=shutil.disk_usage(existing).free,
        state_bytes=around.state_bytes,
        keep=settings.checkpoint.keep,
        checkpoint_every_s=settings.checkpoint.every_s,
        params_every_steps=manifest.meeting.params_every_steps,
        total_steps=around.total_steps,
        monthly_gb=around.monthly_gb,
        up_mbit_per_s=around.up_mbit_per_s,
        up_cap_mbit_per_s=settings.bandwidth.up_mbit_per_s,
    )


def _fitting_layers(manifest: Manifest, free_bytes: int) -> int:
    """The most layers of a gpt of this width that train here, one example at a time; 0 for none."""
    if manifest.model.kind != "gpt":
        return 0
    for layers in range(manifest.model.num_layers, 0, -1):
        fewer = replace(manifest, model=replace(manifest.model, num_layers=layers))
        if fixed_bytes(fewer) + example_bytes(fewer) <= free_bytes:
            return layers
    return 0
