"""What the doctor measures on a real machine: files, ports, names, a holder of the directory."""

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

from lowcomm_node.core.diagnosis import Facts
from lowcomm_node.daemon.doctor.machine import look_at_machine, look_at_trainer
from lowcomm_node.daemon.doctor.peers import look_up_names
from lowcomm_node.daemon.lock import StateDirLock
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import CheckpointSettings, DataSettings, DeviceSettings, NetworkSettings, NodeSettings


def test_a_fresh_directory_is_fit_and_stays_as_it_is(tmp_path: Path) -> None:
    """Nothing is left there but the identity and the lock's file; room is counted from the manifest."""
    small = look_at_machine(Facts(), NodeSettings(), tmp_path / "node", Manifest())
    large = look_at_machine(Facts(), NodeSettings(checkpoint=CheckpointSettings(keep=9)), tmp_path / "node", Manifest())

    assert (small.state_dir_error, small.identity_error, small.leftovers, small.running_pid) == ("", "", 0, None)
    assert small.busy_ports == ()
    assert small.is_loopback_only is True
    assert large.wished_bytes - small.wished_bytes == 7 * 24 * Manifest().model.num_parameters
    rows = NodeSettings(data=DataSettings(dataset="somebody/texts", cache_gb=3.0))
    pool = tmp_path / "node" / "tokens" / "key" / "train-000000.bin"
    pool.parent.mkdir(parents=True)
    pool.write_bytes(bytes(1000))
    with_pool = look_at_machine(Facts(), rows, tmp_path / "node", Manifest())
    assert with_pool.wished_bytes - small.wished_bytes == 3_000_000_000 - 1000
    shutil.rmtree(tmp_path / "node" / "tokens")
    assert small.needed_bytes == 24 * Manifest().model.num_parameters
    assert sorted(path.name for path in (tmp_path / "node").iterdir()) == ["identity.key", "node.lock"]


def test_a_running_node_is_named_and_left_alone(tmp_path: Path) -> None:
    """Its ports are its own: they are not said to be in the way."""
    lock = StateDirLock(tmp_path)
    lock.acquire()
    try:
        facts = look_at_machine(Facts(), NodeSettings(), tmp_path, None)
    finally:
        lock.release()

    assert facts.running_pid == os.getpid()
    assert facts.busy_ports is None
    assert facts.state_dir_error is None


def test_an_identity_that_others_can_read_is_found(tmp_path: Path) -> None:
    look_at_machine(Facts(), NodeSettings(), tmp_path, None)
    (tmp_path / "identity.key").chmod(0o644)

    assert "chmod 600" in (look_at_machine(Facts(), NodeSettings(), tmp_path, None).identity_error or "")


def test_a_place_that_is_no_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    facts = look_at_machine(Facts(), NodeSettings(), tmp_path / "file", None)
    assert facts.state_dir_error
    assert facts.free_bytes is None


def test_a_port_that_somebody_has_is_named_by_its_key(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = NodeSettings(network=NetworkSettings(grpc_port=port))
        facts = look_at_machine(Facts(), settings, tmp_path, None)

    assert facts.busy_ports is not None
    assert len(facts.busy_ports) == 1
    assert facts.busy_ports[0].startswith(f"network.grpc_port = {port} on 127.0.0.1: ")


def test_names_are_looked_up_and_numbers_are_not() -> None:
    """Of announce_host and of multiaddresses; .invalid never has an address (RFC 2606)."""
    settings = NetworkSettings(announce_host="lowcomm.invalid")
    peers = ("/dns4/localhost/tcp/1/p2p/x", "/ip4/203.0.113.5/tcp/7000/p2p/12D3KooW")

    unresolved = look_up_names(Facts(), settings, peers).unresolved
    assert unresolved is not None
    assert [entry.split(":")[0] for entry in unresolved] == ["lowcomm.invalid"]
    assert look_up_names(Facts(), NetworkSettings(), peers[1:]).unresolved is None


def test_what_the_trainer_needs_is_looked_at(tmp_path: Path) -> None:
    """Text, torch, and memory that grows with the model and falls with micro-batches."""
    settings = NodeSettings(device=DeviceSettings(name="cpu"))
    facts = look_at_trainer(Facts(), settings, Manifest())
    split = look_at_trainer(Facts(), replace(settings, device=DeviceSettings(name="cpu", micro_batches=4)), Manifest())
    starved = look_at_trainer(Facts(), replace(settings, data=DataSettings(paths=(str(tmp_path),))), None)

    assert (facts.data_error, facts.torch_error, facts.device, facts.gpu_error) == ("", "", "cpu", None)
    assert 0 < (split.memory_bytes or 0) < (facts.memory_bytes or 0) < facts.memory_free_bytes
    assert str(tmp_path) in (starved.data_error or "")


def test_a_gpu_that_is_not_there_is_found() -> None:
    facts = look_at_trainer(Facts(), NodeSettings(device=DeviceSettings(name="cuda:7")), None)

    assert (facts.gpu_error or "").startswith("cuda:7 cannot be used: ")
