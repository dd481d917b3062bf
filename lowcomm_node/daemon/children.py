"""The processes this node has started, written down where its next life finds them; and the end of those that are left.

Trainer and p2pd end with their daemon by themselves: on Linux the kernel sees to it, elsewhere a closed pipe does. Should
one survive all the same, the next life ends it. It is known by its pid and the moment it began, as the record says, never by
its name: another node's p2pd has the same one, and a pid may belong to somebody else by now.
"""

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from lowcomm_node.adapters.socket_folder import clear_sockets
from lowcomm_node.ports import ChildKind
from lowcomm_node.telemetry.logs import get_logger

__all__ = ["Children", "Leftovers", "birth_of"]

_FILE_NAME = "processes.json"
_MAX_FILE_BYTES = 65536
_MAX_CHILDREN = 256
_TERM_GRACE_S = 2.0
_KILL_GRACE_S = 3.0
_LOOK_EVERY_S = 0.02
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TIME_FIELD = 22 - 3
"""Of /proc/PID/stat, counted behind the name, which ends with the last parenthesis and may contain anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    kind: str
    pid: int
    birth: str
    sockets: str
    """Folder of its Unix sockets, empty for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What was found of an earlier life, and ended or removed."""

    pids: tuple[int, ...] = ()
    """Of processes."""
    sockets: int = 0


class Children:
    """The record of one state directory; implements ``ports.ChildLedger``. Only for who holds the directory's lock.

    A record that cannot be written costs safety, not the node: that is logged, and nothing raises.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE_NAME
        self._children: dict[int, _Child] = {}
        self._log = get_logger("children")

    def started(self, kind: ChildKind, pid: int, sockets: Path | None = None) -> None:
        """A child runs from now on; ``sockets`` is the folder where it keeps Unix sockets, of its own alone."""
        birth = birth_of(pid)
        if birth is None:
            return  # gone already
        folder = "" if sockets is None else str(sockets.absolute())
        self._children[pid] = _Child(kind=kind.value, pid=pid, birth=birth, sockets=folder)
        self._write()

    def ended(self, *pids: int) -> None:
        """These children were waited for."""
        known = [pid for pid in pids if self._children.pop(pid, None) is not None]
        if known:  # a node that was refused the directory must not write
            self._write()

    def end_leftovers(self) -> Leftovers:
        """End what an earlier life has left running and remove its sockets. Bounded in time; blocks for it."""
        recorded = self._read()
        found = alive = [child for child in recorded if birth_of(child.pid) == child.birth]
        for end, grace_s in ((psutil.Process.terminate, _TERM_GRACE_S), (psutil.Process.kill, _KILL_GRACE_S)):
            for child in alive:
                with suppress(psutil.Error):
                    process = psutil.Process(child.pid)  # remembers who it is: it will signal nobody else
                    if birth_of(child.pid) == child.birth:
                        end(process)
            alive = _outlasting(alive, grace_s)
        for child in alive:
            self._log.error("leftover_does_not_end", kind=child.kind, pid=child.pid)
        sockets = sum(clear_sockets(Path(child.sockets)) for child in recorded if child.sockets)
        self._write()
        return Leftovers(pids=tuple(child.pid for child in found if child not in alive), sockets=sockets)

    def num_leftovers(self) -> int:
        """Processes of an earlier life that still run, as ``end_leftovers`` would find them."""
        return sum(birth_of(child.pid) == child.birth for child in self._read())

    def _read(self) -> list[_Child]:
        try:
            with self._path.open("rb") as file:
                found = json.loads(file.read(_MAX_FILE_BYTES))
            children = [_Child(**entry) for entry in found[:_MAX_CHILDREN]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, RecursionError) as error:
            self._log.warning("children_unreadable", path=str(self._path), detail=str(error))
            return []
        return [
            child for child in children if type(child.pid) is int and child.pid > 1 and isinstance(child.birth, str)
        ]

    def _write(self) -> None:
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}.unfinished")
        try:
            if not self._children:
                self._path.unlink(missing_ok=True)
                return
            unfinished.write_text(json.dumps([asdict(child) for child in self._children.values()]))
            unfinished.replace(self._path)
        except OSError as error:
            self._log.warning("children_not_recorded", path=str(self._path), detail=str(error))


def birth_of(pid: int) -> str | None:
    """What tells this process from all others that had or will have its pid; None when it does not run (any more).

    On Linux the boot and the clock tick since then: unlike a time of day, they do not move when the clock is set.
    """
    if sys.platform != "linux":
        try:
            return repr(psutil.Process(pid).create_time())
        except psutil.Error:
            return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}/{fields[_START_TIME_FIELD]}"


def _outlasting(children: list[_Child], grace_s: float) -> list[_Child]:
    """Those that still run after this time. One that has ended and that nobody has waited for does not."""
    deadline = time.monotonic() + grace_s
    while (
        alive := [child for child in children if birth_of(child.pid) == child.birth]
    ) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
    return alive
