"""Checkpoints against kill -9, a full disk and a bootstrap that is gone: real processes, real file systems."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from lowcomm_node.adapters.checkpoint_store import CheckpointStore, newest_state_file
from lowcomm_node.ports import StoredCheckpoint
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import CheckpointSettings
from lowcomm_node.train.checkpoint import read_checkpoint
from lowcomm_node.units import RunId
from tests.system import checkpoint_writer
from tests.system.real_nodes import TINY_MANIFEST, RealNode, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

_MEGABYTES = 24
_KILLS = 6
_KEEP = 2


def _newest(state_dir: Path) -> tuple[int, int]:
    """Steps of the newest checkpoint, every byte verified, and how many there are."""
    told: list[tuple[str, Path, str]] = []
    store = CheckpointStore(state_dir, CheckpointSettings(), lambda *words: told.append(words))
    found = store.candidates(checkpoint_writer.RUN)
    assert not told
    for stored in found:
        state, _ = read_checkpoint(stored.path, checkpoint_writer.RUN, checkpoint_writer.layout(_MEGABYTES))
        assert state.counters.steps == stored.steps
        assert all(bool((tensor == float(stored.steps)).all()) for tensor in state.tensors.values())
    return (found[0].steps if found else 0), len(found)


def test_kill_9_at_any_moment_leaves_the_newest_whole(tmp_path: Path) -> None:
    """Whatever is being written, renamed or removed then: what was told as written is there, to the byte, and no more."""
    chance = random.Random(5)
    for _ in range(_KILLS):
        before, _ = _newest(tmp_path)
        process = subprocess.Popen(
            [sys.executable, checkpoint_writer.__file__, str(tmp_path), str(_MEGABYTES), str(_KEEP)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"written {before + 1}\n"
            time.sleep(chance.uniform(0.0, 0.4))
        finally:
            process.kill()
            told = process.stdout.read() if process.stdout is not None else ""
            if process.stdout is not None:
                process.stdout.close()
            process.wait(10)
        last_told = max([before + 1, *(int(line.split()[1]) for line in told.splitlines())])

        steps, count = _newest(tmp_path)

        assert steps in (last_told, last_told + 1)  # killed before it could say so
        assert count <= _KEEP + 1  # killed before it could remove the oldest


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(TINY_MANIFEST)
    (tmp_path / "text").mkdir()
    for index in range(40):
        (tmp_path / "text" / f"{index}.txt").write_text(f"the quick brown fox {index} jumps over the dog\n" * 60)
    return tmp_path


def _start(workshop: Path, name: str, *arguments: str, **settings: float) -> RealNode:
    sets = [word for key, value in settings.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    return RealNode(workshop / name, *arguments, *sets, text=workshop / "text")


def _resumed_at(node: RealNode) -> int:
    """Own steps of the checkpoint that the node has loaded last, as its first report says."""
    status = node.wait_for(lambda s: s["state"] == "training" and s["training"]["steps"] > 0, 120, "it trains")
    return int(status["training"]["steps"])


def _is_newer(store: CheckpointStore, run: RunId, kept: tuple[StoredCheckpoint, ...]) -> bool:
    return store.candidates(run)[:1] != kept[:1]


def test_who_started_the_run_resumes_it_after_kill_9(workshop: Path) -> None:
    """Started the same way again, twice: at most the work since the last checkpoint is lost, and the run is not begun anew."""
    run = run_id(build(Manifest, tomllib.loads(TINY_MANIFEST), "tiny"))
    store = CheckpointStore(workshop / "solo", CheckpointSettings(), lambda *_: None)
    chance = random.Random(3)
    for life in range(3):
        kept = store.candidates(run)
        node = _start(workshop, "solo", "--manifest", str(workshop / "run.toml"), checkpoint__every_s=0.2)
        try:
            assert _resumed_at(node) >= (kept[0].steps if kept else 0)
            wait_until(partial(_is_newer, store, run, kept), 30, "another checkpoint")
            time.sleep(chance.uniform(0.0, 0.5))
            node.end(signal.SIGKILL)
            assert node.survivors() == []
        finally:
            node.clean_up()
        found = store.candidates(run)
        assert found
        assert (not kept) or found[0].steps > kept[0].steps, f"life {life} has lost work"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(workshop: Path) -> None:
    """With a message that names it; the node trains on from the older one."""
    node = _start(workshop, "solo", "--manifest", str(workshop / "run.toml"), checkpoint__every_s=0.2)
    folder = workshop / "solo" / "checkpoints"
    try:
        wait_until(lambda: folder.is_dir() and len(list(folder.glob("0*"))) >= 2, 120, "two checkpoints")
        assert node.end() == 0
    finally:
        node.clean_up()
    damaged = newest_state_file(workshop / "solo")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)

    again = _start(workshop, "solo", "--manifest", str(workshop / "run.toml"))
    try:
        assert _resumed_at(again) > 0
        assert (folder / f"{damaged.parent.name}.refused").is_dir()
        message = next(line for line in again.log.read_text().splitlines() if "checkpoint_set_aside" in line)
        assert str(damaged.parent) in message
        assert "its digest is another" in message
        assert again.end() == 0
    finally:
        again.clean_up()


def test_a_node_comes_back_when_its_bootstrap_is_gone_for_good(workshop: Path) -> None:
    """First to the others, whom it remembers; and with nobody left it goes on alone, from its own checkpoint."""
    first = _start(workshop, "first", "--manifest", str(workshop / "run.toml"))
    nodes = [first]
    try:
        address = first.wait_for(lambda s: s["training"]["steps"] > 5, 120, "the first trains")["join_address"]
        names = ("second", "third")
        second, third = (_start(workshop, name, "--peers", address, checkpoint__every_s=0.2) for name in names)
        nodes += [second, third]
        for node in (second, third):
            node.wait_for(lambda s: s["meetings"]["completed"] >= 2 and int(s["peers_known"]) == 2, 120, "it meets")
        wait_until(lambda: _remembers(third, second.status()["peer_id"]), 120, "the third knows the second's address")
        for node in (first, third):
            node.end(signal.SIGKILL)

        third = _start(workshop, "third", "--peers", address, network__start_timeout_s=5)
        nodes.append(third)
        third.wait_for(lambda s: s["meetings"]["completed"] >= 1, 150, "the third meets the second again")
        before = int(third.status()["training"]["steps"])
        assert third.end() == 0
        assert second.end() == 0
        third = _start(workshop, "third", "--peers", address, network__start_timeout_s=5)
        nodes.append(third)
        assert _resumed_at(third) >= before
        assert "going_on_alone" in third.log.read_text()
        assert third.end() == 0
    finally:
        for node in nodes:
            node.clean_up()


def _remembers(node: RealNode, peer_id: str) -> bool:
    memory = node.state_dir / "run.json"
    return memory.exists() and peer_id in memory.read_text()


@contextmanager
def _small_disk(folder: Path, megabytes: float) -> Iterator[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_training_goes_on_with_a_full_disk(workshop: Path) -> None:
    """Checkpoints fail and are counted, the one that is there stays whole, and with room again they succeed."""
    with _small_disk(workshop / "solo", 4.0):
        manifest = str(workshop / "run.toml")
        node = _start(workshop, "solo", "--manifest", manifest, checkpoint__every_s=0.2, metrics__port=0)
        try:
            wait_until(lambda: newest_state_file(node.state_dir).exists(), 120, "a checkpoint")
            filler = node.state_dir / "filler"
            _fill(filler)
            wait_until(lambda: node.log.stat().st_size > 0 and _counted(node, "failed") >= 3, 30, "failures counted")
            before = int(node.status()["training"]["steps"])
            node.wait_for(lambda s: int(s["training"]["steps"]) > before + 20, 30, "it trains on")
            assert "checkpoint_failed" in node.log.read_text()
            assert newest_state_file(node.state_dir).exists()
            filler.unlink()
            written = _counted(node, "ok")
            wait_until(lambda: _counted(node, "ok") > written, 30, "checkpoints again")
            assert node.end() == 0
            assert list((node.state_dir / "checkpoints").glob(".*")) == []
        finally:
            node.clean_up()
        again = _start(workshop, "solo", "--manifest", manifest)
        try:
            assert _resumed_at(again) >= before
            assert again.end() == 0
        finally:
            again.clean_up()


def _fill(path: Path) -> None:
    """Until hardly a block is left: enough for a line of the log now and then."""
    with path.open("wb", buffering=0) as file:
        free = os.statvfs(path.parent)
        file.write(bytes(max(0, free.f_bavail * free.f_frsize - 96 * 1024)))


def _counted(node: RealNode, outcome: str) -> int:
    port = re.findall(r'"port": (\d+), "event": "http_listening"|http_listening.*?"port": (\d+)', node.log.read_text())
    number = next(number for number in port[-1] if number)
    text = node.get(f"http://127.0.0.1:{number}/metrics")
    found = re.search(rf'lowcomm_checkpoint_writes_total\{{outcome="{outcome}"\}} (\S+)', text)
    return int(float(found[1])) if found else 0
