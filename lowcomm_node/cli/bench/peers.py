"""Peers that average, as processes that obey and answer line by line: started, asked, weighed, killed."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from lowcomm_node.bench.averager_load import Order, PeerLoad, Word
from lowcomm_node.cli.swarm.launch import node_environment
from lowcomm_node.errors import LowcommError

__all__ = ["Peer", "started_peers"]

_START_S = 180.0
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where torch puts it on Linux


class Peer:
    """One peer with all its children."""

    def __init__(self, program: Sequence[str], load: PeerLoad) -> None:
        """``program``: what Python runs."""
        self.load = load
        self._log = Path(load.folder) / "peer.log"
        command = [sys.executable, *program, load.to_json()]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lowcomm_node.cli.swarm.tether", str(os.getpid()), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=node_environment() | {"GRPC_ENABLE_FORK_SUPPORT": "0"},
                start_new_session=True,
            )
        self._family: dict[int, psutil.Process] = {}
        self._words: queue.SimpleQueue[Word | None] = queue.SimpleQueue()
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._hearing.start()

    def order(self, order: Order) -> None:
        """Tell it; nothing happens when it is dead."""
        assert self._process.stdin is not None  # a pipe of our own making
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{order.to_json()}\n")
            self._process.stdin.flush()

    def word(self, until_s: float) -> Word | None:
        """Its next answer, or None when there is none by then (monotonic seconds)."""
        try:
            return self._words.get(timeout=max(0.0, until_s - time.monotonic()))
        except queue.Empty:
            return None

    def ready(self) -> Word:
        """Its first word. Raises LowcommError with the end of its log."""
        word = self.word(time.monotonic() + _START_S)
        if word is None:
            said = " / ".join(self._log.read_text(errors="replace").splitlines()[-3:])
            raise LowcommError(f"peer {self.load.index} did not start: {said}")
        return word

    def look(self) -> None:
        """Remember the children that there are."""
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self._process.pid)
            for process in (parent, *parent.children(recursive=True)):
                self._family.setdefault(process.pid, process)

    def cpu_s(self) -> float:
        """Processor time of all its processes that live, since they began."""
        self.look()
        total = 0.0
        for process in self._family.values():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory_bytes(self) -> int:
        """Proportional set size of all its processes: what several share counts once."""
        total = 0
        for process in self._family.values():
            with contextlib.suppress(psutil.Error, AttributeError):
                total += process.memory_full_info().pss
        return total

    def kill(self) -> None:
        """kill -9 all of it, and wait for its end."""
        self.look()
        for process in self._family.values():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.kill()
        self._process.wait()
        # hivemind's weights lie in files of shared memory, which outlive processes that are killed.
        for pid in self._family:
            for left in _SHARED_MEMORY.glob(f"torch_{pid}_*"):
                left.unlink(missing_ok=True)
        self._hearing.join(1.0)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _hear(self) -> None:
        assert self._process.stdout is not None  # a pipe of our own making
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                if line.startswith("{"):  # what else is printed there is not ours
                    self._words.put(Word.from_json(line))
        self._words.put(None)  # it has ended


@contextlib.contextmanager
def started_peers(
    program: Sequence[str], loads: Sequence[PeerLoad], *, is_led: bool
) -> Iterator[tuple[list[Peer], list[Word]]]:
    """All peers and their first words; none is left afterwards. ``is_led``: the others find each other through the first."""
    peers: list[Peer] = []
    words: list[Word] = []
    try:
        for load in loads:
            if is_led and len(peers) == 1:
                words.append(peers[0].ready())
            led_by = (words[0].where.address,) if words and words[0].where is not None else ()
            own = PeerLoad(
                model=load.model, index=load.index, folder=load.folder, initial_peers=led_by, threads=load.threads
            )
            peers.append(Peer(program, own))
        words += [peer.ready() for peer in peers[len(words) :]]
        yield peers, words
    finally:
        for peer in peers:
            peer.kill()
