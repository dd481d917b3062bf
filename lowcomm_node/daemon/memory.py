"""Memory that runs out: has the kernel ended processes for it, and how small a part of a batch has fitted before?"""

import json
import os
from pathlib import Path

from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.units import RunId

__all__ = ["MicroBatchMemory", "kernel_kills"]

_VMSTAT = Path("/proc/vmstat")
_MAX_FILE_BYTES = 4096


def kernel_kills(vmstat: Path = _VMSTAT) -> int | None:
    """How many processes of this machine the kernel has ended for want of memory; None where it does not say.

    The whole machine's number, which is there in every container; those of a control group are not (version 1 and 2
    keep them in different files, the root group keeps none). Together with a SIGKILL that nobody here has sent, it
    growing is as good as proof.
    """
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


class MicroBatchMemory:
    """A small file that lets the next life begin where this one has ended up: without it each would fall again first.

    It holds for one run on one device. Losing it costs no more than that, so nothing here raises.
    """

    def __init__(self, path: Path, run_id: RunId, device: str) -> None:
        self._path = path
        self._key = {"run_id": run_id, "device": device}

    def read(self) -> int | None:
        """What was kept for this run and device."""
        try:
            with self._path.open("rb") as file:
                kept = json.loads(file.read(_MAX_FILE_BYTES))
        except (OSError, ValueError, RecursionError):
            return None
        number = kept.get("micro_batches") if isinstance(kept, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            return None
        return number if kept == {**self._key, "micro_batches": number} else None

    def write(self, micro_batches: int) -> None:
        """Keep this number."""
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}.unfinished")
        try:
            unfinished.write_text(json.dumps({**self._key, "micro_batches": micro_batches}))
            unfinished.replace(self._path)
        except OSError as error:
            get_logger("memory").warning("micro_batches_not_kept", path=str(self._path), detail=str(error))
