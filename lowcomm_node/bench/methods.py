"""The methods the laboratory knows: what each does, as a family of exchanges and the manifest keys that set it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.ab_training import ONLY_LEARNED, AbReferenceConfig
from lowcomm_node.settings.manifest import OptimizerConfig
from lowcomm_node.settings.presets import OPTIMIZERS
from lowcomm_node.settings.schema import nearest

__all__ = ["METHODS", "Family", "Method", "Overrides", "find_methods", "optimizer_overrides"]

Overrides = Mapping[str, object]
"""Manifest values by dotted key."""

_LOCKSTEP_K = 32
"""Steps between two averages of the parameters; DES-LOC (2505.22549) calls 16 to 32 safe."""


class Family(StrEnum):
    """How replicas exchange."""

    DDP = "ddp"
    """Mean gradient in each step."""
    DION_SYNC = "dion-sync"
    """Distributed Dion: P and R of hidden matrices averaged in each step, which is Dion on the mean gradient."""
    LOCAL = "local"
    """Not at all."""
    AVERAGE = "average"
    """All-reduce averages of parameters and moments, each stream with its own period."""
    DILOCO = "diloco"
    """Heavy ball on the mean displacement of all, every outer.every_steps."""
    NOLOCO = "noloco"
    """Heavy ball in random pairs, every outer.every_steps, as published."""
    AB_TRAINING = "ab-training"
    """Whole tensors in lockstep, and between them one factor of each matrix in groups that do not hear of each other (2405.01067)."""
    MEETINGS = "meetings"
    """This project's asynchronous meetings, by the node's own decisions and codecs."""

    @property
    def is_synchronous(self) -> bool:
        """Replicas are equal at all times."""
        return self in {Family.DDP, Family.DION_SYNC}

    @property
    def is_lockstep(self) -> bool:
        """Replicas wait for each other."""
        return self is not Family.MEETINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One line of a comparison."""

    name: str
    family: Family
    about: str
    overrides: Overrides = field(default_factory=dict)
    """What differs from the laboratory's base manifest."""
    ab_training: AbReferenceConfig = field(default_factory=AbReferenceConfig)
    """Of that family."""
    is_default: bool = False
    """Part of a comparison that names no method."""


def optimizer_overrides(kind: str) -> dict[str, object]:
    """The preset of an optimizer, as overrides."""
    preset = OPTIMIZERS[kind]
    return {f"optimizer.{field.name}": getattr(preset, field.name) for field in fields(OptimizerConfig)}


def _periods(params: int, exp_avg: int, exp_avg_sq: int) -> dict[str, object]:
    """K_x, K_u and K_v in steps; 0 is never."""
    return {
        "meeting.params_every_steps": params,
        "meeting.exp_avg_every_steps": exp_avg,
        "meeting.exp_avg_sq_every_steps": exp_avg_sq,
    }


def _outer(every_steps: int, momentum: float, lr: float, gain: float = 1.0) -> dict[str, object]:
    """H, a, b and g."""
    return {
        "outer.every_steps": every_steps,
        "outer.momentum": momentum,
        "outer.lr": lr,
        "outer.mixing_gain": gain,
    }


def _dense(every_steps: int, dtype: str = "bf16") -> dict[str, object]:
    return {"meeting.codec": "dense", "meeting.dtype": dtype, "meeting.params_every_steps": every_steps}


def _coded(codec: str, budget_bytes: int, every_steps: int, dtype: str = "bf16") -> dict[str, object]:
    return {
        "meeting.codec": codec,
        "meeting.dtype": dtype,
        "meeting.budget_bytes": budget_bytes,
        "meeting.params_every_steps": every_steps,
    }


def _lockstep() -> list[Method]:
    """Baselines; with AdamW, as their authors run them, where nothing else is said."""
    methods = [
        Method(name="ddp", family=Family.DDP, about="mean gradient of all replicas in each step", is_default=True),
        *(
            Method(
                name=f"ddp-{kind}",
                family=Family.DDP,
                about=f"the same with {kind}",
                overrides=optimizer_overrides(kind),
                is_default=kind == "muon",
            )
            for kind in ("adopt", "mtdao", "sgd", "muon", "dion")
        ),
        Method(
            name="dion-sync",
            family=Family.DION_SYNC,
            about="ddp-dion, sending only its factors: (m + n) r numbers a matrix and step",
            overrides=optimizer_overrides("dion"),
        ),
        Method(name="local", family=Family.LOCAL, about="each replica for itself", is_default=True),
        *(
            Method(
                name=f"local-{kind}",
                family=Family.LOCAL,
                about=f"the same with {kind}",
                overrides=optimizer_overrides(kind),
            )
            for kind in ("muon", "dion")
        ),
        *(
            Method(
                name=f"diloco-h{every_steps}",
                family=Family.DILOCO,
                about=f"heavy ball on the mean displacement of all every {every_steps} steps (a 0.5, b 0.7)",
                overrides=_outer(every_steps, 0.5, 0.7),
                is_default=True,
            )
            for every_steps in (50, 10)
        ),
        *(
            Method(
                name=f"noloco-h{every_steps}",
                family=Family.NOLOCO,
                about=f"heavy ball in random pairs every {every_steps} steps, as published (a 0.5, b 0.7, g 0.7)",
                overrides=_outer(every_steps, 0.5, 0.7, 0.7),
                is_default=every_steps == 50,
            )
            for every_steps in (50, 10)
        ),
        Method(
            name="diloco-muon",
            family=Family.DILOCO,
            about="diloco-h50 with muon, so that exchange is compared with exchange",
            overrides={**optimizer_overrides("muon"), **_outer(50, 0.5, 0.7)},
        ),
        Method(
            name="noloco-muon",
            family=Family.NOLOCO,
            about="noloco-h50 with muon, so that exchange is compared with exchange",
            overrides={**optimizer_overrides("muon"), **_outer(50, 0.5, 0.7, 0.7)},
            is_default=True,
        ),
        Method(
            name="local-adam",
            family=Family.AVERAGE,
            about=f"averages of parameters and both moments every {_LOCKSTEP_K} steps",
            overrides=_periods(_LOCKSTEP_K, _LOCKSTEP_K, _LOCKSTEP_K),
            is_default=True,
        ),
        Method(
            name="fedavg",
            family=Family.AVERAGE,
            about=f"averages of the parameters every {_LOCKSTEP_K} steps, moments kept",
            overrides=_periods(_LOCKSTEP_K, 0, 0),
        ),
        Method(
            name="des-loc",
            family=Family.AVERAGE,
            about=f"averages every {_LOCKSTEP_K}, {3 * _LOCKSTEP_K} and {6 * _LOCKSTEP_K} steps (parameters, first, second moment)",
            overrides=_periods(_LOCKSTEP_K, 3 * _LOCKSTEP_K, 6 * _LOCKSTEP_K),
            is_default=True,
        ),
        Method(
            name="ab-training",
            family=Family.AB_TRAINING,
            about="data parallel, and in between one factor of each matrix, each node alone; joined with stale copies, as published",
            is_default=True,
        ),
        Method(
            name="ab-training-learned",
            family=Family.AB_TRAINING,
            about="the same, joined by what was learned only",
            ab_training=AbReferenceConfig(join=ONLY_LEARNED),
        ),
        Method(
            name="ab-training-g4",
            family=Family.AB_TRAINING,
            about="ab-training in groups of four nodes that average the gradients of their factor in each step",
            ab_training=AbReferenceConfig(group_size=4),
        ),
    ]
    adamw = optimizer_overrides("adamw")
    return [replace(method, overrides={**adamw, **method.overrides}) for method in methods]


def _meetings() -> list[Method]:
    methods = [
        Method(name="meet", family=Family.MEETINGS, about="meetings as a new manifest has them", is_default=True),
        *(
            Method(
                name=f"meet-dense-k{every_steps}",
                family=Family.MEETINGS,
                about=f"meetings with whole tensors every {every_steps} steps",
                overrides=_dense(every_steps),
                is_default=every_steps == 10,
            )
            for every_steps in (50, 10, 2)
        ),
        *(
            Method(
                name=f"meet-dense-{dtype}-k{every_steps}",
                family=Family.MEETINGS,
                about=f"meetings with whole tensors in {dtype} every {every_steps} steps",
                overrides=_dense(every_steps, dtype),
            )
            for dtype in ("int8", "int4")
            for every_steps in (10, 2)
        ),
    ]
    methods += [
        Method(
            name=f"meet-{codec}-{budget >> 10}k-{dtype}-k{every_steps}",
            family=Family.MEETINGS,
            about=f"meetings of codec {codec} in {dtype}, {budget} bytes every {every_steps} steps",
            overrides=_coded(codec, budget, every_steps, dtype),
            is_default=(codec, budget, every_steps, dtype) == ("ab", 8192, 2, "bf16"),
        )
        for codec in ("ab", "sparse")
        for dtype in ("bf16", "int8", "int4")
        for budget, every_steps in ((8192, 10), (8192, 2), (32768, 5), (32768, 2))
    ]
    methods += [
        Method(
            name=f"meet-{kind}",
            family=Family.MEETINGS,
            about=f"meetings as a new manifest has them, inner steps by {kind}",
            overrides=optimizer_overrides(kind),
        )
        for kind in ("adamw", "adopt", "mtdao", "sgd", "dion")
    ]
    methods.append(
        Method(
            name="meet-ab-adamw",
            family=Family.MEETINGS,
            about="meetings of codec ab in bf16 with a new manifest's budget and period, inner steps by adamw: beside ab-training",
            overrides={**optimizer_overrides("adamw"), "meeting.codec": "ab", "meeting.dtype": "bf16"},
        )
    )
    methods.append(
        Method(
            name="ab-swarm",
            family=Family.MEETINGS,
            about="AB-training among peers: meet-ab-adamw, and in stretches of the run one factor of each matrix, met within its role",
            overrides={
                **optimizer_overrides("adamw"),
                "meeting.codec": "ab",
                "meeting.dtype": "bf16",
                "outer.method": "ab",
            },
        )
    )
    methods += [
        Method(
            name=f"meet-outer-{mixing}",
            family=Family.MEETINGS,
            about=f"meetings with an outer step every 50 steps, mixing {mixing}",
            overrides={**_outer(50, 0.5, 0.7, 0.7), "outer.mixing": mixing},
        )
        for mixing in ("direct", "momentum")
    ]
    return methods


METHODS: Mapping[str, Method] = {method.name: method for method in [*_lockstep(), *_meetings()]}
"""By name, in the order of tables."""


def find_methods(names: Sequence[str]) -> list[Method]:
    """The methods of these names, the default ones for none. Raises ConfigError for a name nobody has."""
    if not names:
        return [method for method in METHODS.values() if method.is_default]
    for name in names:
        if name not in METHODS:
            close = nearest(name, METHODS)
            hint = f"did you mean {close}?" if close else "see --list"
            raise ConfigError(f"no method is named {name}; {hint}")
    return [METHODS[name] for name in dict.fromkeys(names)]
