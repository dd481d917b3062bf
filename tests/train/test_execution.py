"""Number format, recomputation and compiler: what a node chooses, and that it changes nothing but rounding."""

import dataclasses
import functools
import shutil
from typing import Any

import pytest
import torch

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.node import DeviceSettings
from lowcomm_node.train.evaluate import loss_of
from lowcomm_node.train.execution import PLAIN, Execution, choose_execution
from lowcomm_node.train.replica import Replica
from tests.train.pairs import distance, tiny_manifest, tiny_session, train
from tests.train.test_micro_batches import Memory

CPU = torch.device("cpu")


def test_a_cpu_is_left_as_it_is() -> None:
    """auto: float32, not compiled, and recomputed only in need; everything can be switched on and off."""
    assert choose_execution(DeviceSettings(), CPU) == PLAIN
    on = choose_execution(DeviceSettings(autocast="on", recompute="on", compile="on"), CPU)
    assert on == Execution(is_autocast=True, recompute="always", compile="always")
    off = choose_execution(DeviceSettings(autocast="off", recompute="off", compile="off"), CPU)
    assert off == Execution(recompute="never")


def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step fails for it."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)

    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        choose_execution(DeviceSettings(compile="on"), CPU)


@pytest.mark.parametrize(("can", "wish", "found"), [(True, "auto", True), (False, "auto", False), (False, "on", True)])
def test_a_gpu_computes_in_bfloat16_where_it_can(
    monkeypatch: pytest.MonkeyPatch, can: bool, wish: str, found: bool
) -> None:
    """What torch says about the device decides; no GPU is touched here."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: can)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())

    settings = DeviceSettings(autocast=wish, compile="off")
    assert choose_execution(settings, torch.device("cuda", 0)).is_autocast == found


def replica_of(execution: Execution) -> Any:
    """A session whose replica computes so."""
    session = tiny_session(tiny_manifest())
    return dataclasses.replace(session, replica=Replica(session.manifest, CPU, execution=execution))


def test_autocast_rounds_products_and_keeps_everything_else() -> None:
    """The same run to a few percent of its way; weights, gradients and state are float32, and logits were bfloat16."""
    plain, cast = replica_of(PLAIN), replica_of(Execution(is_autocast=True))
    seen = set()
    cast.replica.model.register_forward_hook(lambda _module, _inputs, logits: seen.add(logits.dtype))
    start = [theta.clone() for theta in plain.replica.theta]

    losses = train(plain, 12), train(cast, 12)

    assert seen == {torch.bfloat16}
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert losses[0] != losses[1]
    way = distance(plain.replica.theta, start)
    assert 0 < distance(plain.replica.theta, cast.replica.theta) < 0.3 * way
    assert {spec.dtype for spec in cast.replica.layout().values()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in cast.replica.model.parameters()} == {torch.float32}


def test_recomputation_changes_nothing() -> None:
    """Same losses, same weights, bit for bit."""
    plain, recomputed = replica_of(PLAIN), replica_of(Execution(recompute="always"))

    assert train(plain, 5) == train(recomputed, 5)
    assert distance(plain.replica.theta, recomputed.replica.theta) == 0.0


def test_recomputation_is_tried_before_giving_up() -> None:
    """When not even one example fits; only where the settings leave it open, and only once."""
    for mode in ("when_short", "never"):
        session = replica_of(Execution(recompute=mode))
        memory = Memory(session.replica, fits=0)

        def recover(memory: Memory = memory, session: Any = session) -> None:
            memory.fits = 4 if session.replica.model.is_recomputing else 0

        session.replica.model.register_forward_pre_hook(
            lambda _module, _inputs, recover=recover: recover(), prepend=True
        )
        if mode == "never":
            with pytest.raises(torch.OutOfMemoryError):
                train(session, 1)
        else:
            train(session, 1)
            assert (session.replica.micro_batches, memory.failures) == (4, 3)


def test_a_compiled_model_trains_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same losses, in parts and with recomputation too; parameters keep their names, so state files fit.

    Captured as for the compiler, with only its last stage left out, which takes minutes.
    """
    captured = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> Any:
        captured.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    execution = Execution(compile="always", recompute="always")
    plain, compiled = replica_of(PLAIN), replica_of(execution)
    compiled.replica.micro_batches = 2

    assert compiled.replica.names == plain.replica.names
    assert train(compiled, 4) == pytest.approx(train(plain, 4), rel=1e-4)
    assert captured


def test_the_run_decides_the_loss_and_the_node_the_format() -> None:
    """Two nodes of a run that differ in autocast measure nearly the same loss on the same weights."""
    session = tiny_session(tiny_manifest())
    batch = session.validation[0]

    exact, rounded = (
        float(loss_of(session.manifest, is_autocast=is_autocast)(session.replica.model, batch).detach())
        for is_autocast in (False, True)
    )

    assert exact != rounded
    assert exact == pytest.approx(rounded, rel=1e-2)
