"""Each check fails, alone, on the fact that is its own."""

from dataclasses import replace
from typing import Any

import pytest

from lowcomm_node.core.diagnosis import CODES, Facts, Level, Seed, diagnose

_SEED = "/ip4/203.0.113.5/tcp/7000/p2p/12D3KooW"
_WELL = Facts(
    settings_error="",
    manifest_error="",
    identity_error="",
    state_dir_error="",
    leftovers=0,
    free_bytes=100 << 30,
    needed_bytes=10 << 30,
    wished_bytes=50 << 30,
    open_files=65536,
    busy_ports=(),
    is_loopback_only=False,
    unresolved=(),
    data_error="",
    seeds=(Seed(address=_SEED),),
    run_error="",
    protocol_error="",
    clock_offset_s=0.01,
    inbound="",
    nat="none",
    relay_error="",
    line_error="",
    rtt_s=0.05,
    up_bytes_per_s=2.5e6,
    down_bytes_per_s=12.5e6,
    loss=0.001,
    congestion_control="bbr",
    torch_error="",
    torch_version="2.13",
    device="cuda",
    gpu_error="",
    memory_bytes=4 << 30,
    memory_free_bytes=24 << 30,
    memory_name="free on cuda",
)
_ILL: dict[str, tuple[Level, dict[str, Any]]] = {
    "settings": (Level.FAIL, {"settings_error": "network.hots is no setting"}),
    "manifest": (Level.FAIL, {"manifest_error": "my-run.toml: no such file"}),
    "state-dir": (Level.FAIL, {"state_dir_error": "read-only file system"}),
    "identity": (Level.FAIL, {"identity_error": "other users can read it"}),
    "running": (Level.WARN, {"running_pid": 4711}),
    "leftovers": (Level.WARN, {"leftovers": 2}),
    "disk": (Level.FAIL, {"free_bytes": 5 << 30}),
    "open-files": (Level.FAIL, {"open_files": 64}),
    "ports": (Level.FAIL, {"busy_ports": ("network.grpc_port = 7001 on 0.0.0.0: address already in use",)}),
    "address": (Level.WARN, {"is_loopback_only": True}),
    "data": (Level.FAIL, {"data_error": "/data: no text file in there"}),
    "torch": (Level.FAIL, {"torch_error": "libcudart.so is missing"}),
    "gpu": (Level.FAIL, {"gpu_error": "cuda:0 cannot be used: driver too old"}),
    "memory": (Level.FAIL, {"memory_bytes": 25 << 30}),
    "congestion": (Level.WARN, {"congestion_control": "cubic"}),
    "dns": (Level.FAIL, {"unresolved": ("seed.example: name or service not known",), "seeds": None}),
    "seeds": (Level.FAIL, {"seeds": (Seed(address=_SEED, outcome="connection refused"),)}),
    "protocol": (Level.FAIL, {"protocol_error": "it speaks protocol 9, this node speaks 1"}),
    "run": (Level.FAIL, {"run_error": "it is in run ffff, not in 0123"}),
    "clock": (Level.FAIL, {"clock_offset_s": -3.0}),
    "inbound": (Level.WARN, {"inbound": "no answer in 5 s"}),
    "nat": (Level.WARN, {"nat": "carrier-grade"}),
    "relay": (Level.WARN, {"relay_error": "no reservation in 10 s"}),
    "line": (Level.WARN, {"line_error": "my line was measured enough"}),
    "rtt": (Level.WARN, {"rtt_s": 0.9}),
    "rates": (Level.WARN, {"up_bytes_per_s": 1e4}),
    "loss": (Level.WARN, {"loss": 0.08}),
}


def test_a_sound_machine_passes_everything() -> None:
    """Every check is there but the one about a node that runs, and none has a cure to offer."""
    findings = diagnose(_WELL)

    assert [finding.code for finding in findings] == [code for code in CODES if code != "running"]
    assert {finding.level for finding in findings} == {Level.PASS}
    assert not any(finding.cure for finding in findings)


@pytest.mark.parametrize("code", CODES)
def test_each_fact_makes_exactly_its_check_fail(code: str) -> None:
    """With one line of cure, and what was found in it."""
    level, changes = _ILL[code]

    ill = [finding for finding in diagnose(replace(_WELL, **changes)) if finding.level is not Level.PASS]

    assert [(finding.code, finding.level) for finding in ill] == [(code, level)]
    assert ill[0].cure
    assert "\n" not in ill[0].cure
    assert ill[0].found


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("disk", {"free_bytes": 15 << 30}),
        ("open-files", {"open_files": 512}),
        ("memory", {"memory_bytes": 22 << 30}),
        ("clock", {"clock_offset_s": 1.0}),
        ("dns", {"unresolved": ("seed.example: name or service not known",)}),
        ("nat", {"nat": "behind", "seen_at": ("198.51.100.1:7", "198.51.100.1:8")}),
        ("seeds", {"seeds": (Seed(address=_SEED), Seed(address=_SEED, outcome="refused"))}),
    ],
)
def test_what_is_only_tight_is_a_warning(code: str, changes: dict[str, Any]) -> None:
    ill = [finding for finding in diagnose(replace(_WELL, **changes)) if finding.level is not Level.PASS]

    assert [(finding.code, finding.level) for finding in ill] == [(code, Level.WARN)]


def test_what_was_not_looked_at_is_not_judged() -> None:
    assert diagnose(Facts()) == ()


@pytest.mark.parametrize(
    ("seen_at", "expected"),
    [
        (("198.51.100.1:7", "198.51.100.1:7"), "behind a NAT that keeps a port for everybody (cone)"),
        (("198.51.100.1:7",), "behind a NAT"),
        ((), "behind a NAT"),
    ],
)
def test_what_kind_of_nat_it_is_takes_two_who_see_it(seen_at: tuple[str, ...], expected: str) -> None:
    """One alone cannot say whether the next one sees the same."""
    (finding,) = (one for one in diagnose(replace(_WELL, nat="behind", seen_at=seen_at)) if one.code == "nat")

    assert (finding.level, finding.found) == (Level.PASS, expected)
