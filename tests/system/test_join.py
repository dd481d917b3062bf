"""``lowcomm-node join`` as its users meet it: real processes, sockets and DHT on loopback."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lowcomm_node.adapters.checkpoint_store import newest_state_file
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.load import read_manifest
from tests.system.real_nodes import TINY_MANIFEST, RealNode, wait_until

pytestmark = pytest.mark.system

WAIT_SHARE = 0.25
"""Of the time that a node's meetings took: training that waited for them would wait for all of it. The interpreter's lock, held by a
thread that an overloaded machine has put aside, shows up as some hundredths of a second, and meetings take longer there as well.
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest and a little text."""
    folder = tmp_path_factory.mktemp("n")
    (folder / "run.toml").write_text(TINY_MANIFEST)
    text = folder / "text"
    text.mkdir()
    for index in range(40):
        (text / f"{index}.txt").write_text(f"the quick brown fox {index} jumps over the lazy dog\n" * 60)
    return folder


@pytest.fixture(scope="module")
def first(workshop: Path) -> Iterator[RealNode]:
    """The node that started the run, in training."""
    node = RealNode(workshop / "first", "--manifest", str(workshop / "run.toml"), text=workshop / "text")
    try:
        node.wait_for(lambda status: status["state"] == "training", 40, "the first node trains")
        yield node
    finally:
        node.clean_up()


def start(workshop: Path, name: str, *arguments: str, **options: Path) -> RealNode:
    return RealNode(workshop / name, *arguments, text=options.get("text", workshop / "text"))


def test_a_joiner_needs_nothing_but_an_address(workshop: Path, first: RealNode) -> None:
    """It fetches manifest and state, starts at the swarm's progress, meets, and leaves in order."""
    manifest = read_manifest(workshop / "run.toml")
    before = first.wait_for(lambda s: s["training"]["steps"] > 50, 30, "some steps")
    joiner = start(workshop, "joiner", "--peers", before["join_address"])
    try:
        status = joiner.wait_for(lambda s: s["meetings"]["completed"] >= 5, 60, "the joiner meets")
        assert status["run_id"] == run_id(manifest)
        assert status["training"]["progress_steps"] > before["training"]["progress_steps"]
        assert status["training"]["steps"] < status["training"]["progress_steps"]
        assert status["meetings"]["half"] == 0
        met_s = status["meetings"]["completed"] * status["meetings"]["mean_duration_seconds"]
        assert status["training"]["blocked_seconds"]["meeting"] < WAIT_SHARE * met_s
        assert {(row["stream"], row["codec"]) for row in status["meetings"]["bytes"]} >= {("params", "sparse")}
        assert before["peer_id"] in joiner.cli("peers", "--json").stdout
        assert json.loads(joiner.cli("status", "--json").stdout)["peer_id"] == status["peer_id"]
        export_is_their_mean(workshop, first, joiner)

        assert joiner.end() == 0
        assert joiner.survivors() == []
        assert newest_state_file(workshop / "joiner").stat().st_size > 0
        assert list((workshop / "joiner").glob("**/*.sock")) == []
    finally:
        joiner.clean_up()


def export_is_their_mean(workshop: Path, first: RealNode, joiner: RealNode) -> None:
    """Somebody with no node of his own asks both for their state, says that there is no third, and is never a member."""
    nodes = {node.status()["peer_id"]: node for node in (first, joiner)}
    model, address = workshop / "model", first.status()["join_address"]
    options = ("--state-dir", str(workshop / "nobody"), "--set", f'data.paths=["{workshop / "text"}"]')
    export = (sys.executable, "-m", "lowcomm_node", "export", str(model), "--peers", address, *options)

    done = subprocess.run([*export, "--members", "3"], capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "the mean of 2 nodes" in done.stdout
    assert "3 nodes were asked for" in done.stdout
    card = (model / "README.md").read_text()
    assert run_id(read_manifest(workshop / "run.toml")) in card
    assert all(f"| {peer} |" in card for peer in nodes)
    assert card.count("held-out loss") == 1
    assert "not measured" not in card
    means = load_file(model / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in means.values())
    assert {path.name for path in workshop.glob(".model*")} == set()
    assert not (workshop / "nobody").exists()
    for peer, node in nodes.items():
        assert {other["peer_id"] for other in node.peers()} <= nodes.keys() - {peer}

    export = (*export[:4], str(workshop / "other"), *export[5:])
    elsewhere = subprocess.run([*export, "--run", "0123abcd"], capture_output=True, text=True, check=False, timeout=60)
    assert elsewhere.returncode == 78
    assert "not in 0123abcd" in elsewhere.stderr


def test_a_node_comes_back_as_itself(workshop: Path, first: RealNode) -> None:
    """Same identity and, when nobody is further on, its own saved steps; leave works too."""
    address = first.status()["join_address"]
    peers = []
    for life in range(2):
        node = start(workshop, "returning", "--peers", address)
        try:
            status = node.wait_for(lambda s: s["training"]["steps"] > 5, 40, f"life {life} trains")
            peers.append(status["peer_id"])
            if life == 0:
                assert node.cli("leave").returncode == 0
                assert node.process.wait(30) == 0
            else:
                assert node.end() == 0
            assert node.survivors() == []
        finally:
            node.clean_up()
    assert peers[0] == peers[1]


def test_a_second_signal_leaves_at_once(workshop: Path, first: RealNode) -> None:
    """Whoever presses Ctrl+C twice means it; nothing stays behind."""
    node = start(workshop, "hasty", "--peers", first.status()["join_address"])
    try:
        node.wait_for(lambda s: s["training"]["steps"] > 5, 40, "it trains")
        node.child("lowcomm_node.train.process").suspend()  # so that the orderly way cannot be quick
        node.process.send_signal(signal.SIGINT)
        wait_until(lambda: "leaving" in node.tail(), 10, "the first signal is heard")
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(5) == 128 + signal.SIGINT
        assert node.survivors() == []
    finally:
        node.clean_up()


def test_local_port_answers(workshop: Path, first: RealNode) -> None:
    """Metrics, liveness and readiness of a training node, on the port its log names."""
    del workshop
    lines = [json.loads(line) for line in first.log.read_text().splitlines() if line.startswith("{")]
    port = next(line["port"] for line in lines if line["event"] == "http_listening")
    assert first.get(f"http://127.0.0.1:{port}/livez") == "ok\n"
    assert first.get(f"http://127.0.0.1:{port}/readyz") == "ok\n"
    metrics = first.get(f"http://127.0.0.1:{port}/metrics")
    assert 'lowcomm_node_state{state="training"} 1.0' in metrics
    blocked = re.search(r'lowcomm_train_blocked_seconds_total\{cause="meeting"\} (\S+)', metrics)
    assert blocked
    met = re.search(r"lowcomm_meeting_duration_seconds_sum\S* (\S+)", metrics)
    assert met
    assert float(blocked[1]) < WAIT_SHARE * float(met[1])
    assert "lowcomm_meetings_half_total 0.0" in metrics


def test_wrong_run_is_refused_by_name(workshop: Path, first: RealNode) -> None:
    """--run pins the run: an address that leads to another one is an error, not a surprise."""
    node = start(workshop, "misled", "--peers", first.status()["join_address"], "--run", "0123abcd")
    try:
        assert node.process.wait(40) == 78
        assert "not in 0123abcd" in node.tail()
        assert node.survivors() == []
    finally:
        node.clean_up()


def test_the_doctor_sees_the_run_and_the_line(workshop: Path, first: RealNode) -> None:
    """Peers, protocol, clock, the way in, and the line; a run that is not the one wanted is a failure."""
    peers = ("--peers", first.status()["join_address"])
    doctor = (
        sys.executable,
        "-m",
        "lowcomm_node",
        "doctor",
        "--json",
        "--state-dir",
        str(workshop / "patient"),
        *peers,
    )

    well = subprocess.run(doctor, capture_output=True, text=True, check=False, timeout=60)
    ill = subprocess.run([*doctor, "--run", "0123abcd"], capture_output=True, text=True, check=False, timeout=60)

    levels = {finding["code"]: finding["level"] for finding in json.loads(well.stdout)}
    assert well.returncode == 0, well.stdout
    asked = {"seeds", "protocol", "run", "clock", "inbound", "nat", "line", "memory"}
    assert {code: levels.get(code) for code in asked} == dict.fromkeys(asked, "pass")
    assert {"rtt", "rates", "loss"} <= levels.keys()
    assert ill.returncode == 1
    assert [finding["code"] for finding in json.loads(ill.stdout) if finding["level"] == "fail"] == ["run"]


def test_what_the_run_would_cost_needs_an_address_only(workshop: Path, first: RealNode) -> None:
    """Manifest and line are found out from the peer; nothing is left in the state directory."""
    state_dir = workshop / "never"
    plan = [
        sys.executable,
        "-m",
        "lowcomm_node",
        "plan",
        "--json",
        "--steps-per-second",
        "1",
        "--state-dir",
        str(state_dir),
    ]

    well = subprocess.run(
        [*plan, "--peers", first.status()["join_address"]], capture_output=True, text=True, check=False, timeout=60
    )

    assert well.returncode == 0, well.stderr
    estimate = json.loads(well.stdout)
    assert estimate["run_id"] == run_id(read_manifest(workshop / "run.toml"))
    assert estimate["around"]["up_mbit_per_s"] > 0
    assert estimate["around"]["down_mbit_per_s"] > 0
    assert estimate["costs"]["usual"]["bytes_per_day"] > 0
    assert not state_dir.exists()


def test_taken_ports_and_directories_are_named(workshop: Path, first: RealNode) -> None:
    """A second node in the same directory, or on the same port, is told so."""
    status = first.status()
    dht_port = status["join_address"].split("/")[4]
    grpc_port = status["grpc_address"].rsplit(":", 1)[1]
    cases = {
        "same-dht": (["--dht-port", dht_port], "network.dht_port"),
        "same-grpc": (["--grpc-port", grpc_port], "network.grpc_port"),
    }
    nodes = {
        words: start(workshop, name, "--peers", status["join_address"], *arguments)
        for name, (arguments, words) in cases.items()
    }
    try:
        for words, node in nodes.items():
            assert node.process.wait(40) not in (0, 1), node.tail()
            assert "error: " in node.tail()
            assert words in node.tail()
            assert node.survivors() == []
    finally:
        for node in nodes.values():
            node.clean_up()
    again = first.cli("join", "--peers", status["join_address"])
    assert again.returncode == 73
    assert f"a node is already running here with pid {first.process.pid}" in again.stderr


def test_nobody_answers_and_no_text(workshop: Path, first: RealNode) -> None:
    """An address nobody listens at, one that is none, and a data folder without text: one sentence each, with the cause."""
    nobody = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWJ4ZgvddTV5uucEyieDVf86e4CVy8wXxuPNQbPYcvWK5s"
    lost = start(workshop, "lost", "--peers", nobody, "--set", "network.start_timeout_s=2")
    empty_folder = workshop / "empty"
    empty_folder.mkdir()
    starved = start(workshop, "starved", "--peers", first.status()["join_address"], text=empty_folder)
    mistaken = start(workshop, "mistaken", "--peers", "NONSENSE")
    try:
        assert lost.process.wait(40) == 69
        assert nobody in lost.tail()
        assert starved.process.wait(40) == 78
        assert str(empty_folder) in starved.tail().rsplit("error:", 1)[1]
        assert mistaken.process.wait(40) == 78
        assert "error: 'NONSENSE' is not a peer's address; one looks like /ip4/" in mistaken.tail()
        for node in (lost, starved, mistaken):
            assert not list(node.state_dir.glob("crash-*.json"))
            assert node.survivors() == []
    finally:
        for node in (lost, starved, mistaken):
            node.clean_up()
