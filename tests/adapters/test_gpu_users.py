"""Who uses a GPU: over a library that answers as NVIDIA's does. No GPU was at hand."""

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from lowcomm_node.adapters.gpu_users import GpuUsers, gpu_users, users_of
from lowcomm_node.core.owner import GpuUse

_OWN, _GAME, _DESKTOP = 4_000_001, 4_000_002, 4_000_003
"""Numbers that no process of this machine has."""


class _NVMLError(Exception):
    """As the library's own."""


class Driver:
    """One GPU of 100 bytes per test, with processes that hold so many of them and compute so much."""

    def __init__(self) -> None:
        self.graphics: dict[int, int | None] = {_DESKTOP: 5}
        self.compute: dict[int, int | None] = {_OWN: 40}
        self.samples: list[tuple[int, int, int]] = []
        """pid, time, percent"""
        self.asked_since: list[int] = []
        self.free = 55

    def library(self) -> ModuleType:
        nvml = ModuleType("pynvml")

        def processes(held: dict[int, int | None]) -> list[Any]:
            return [SimpleNamespace(pid=pid, usedGpuMemory=taken) for pid, taken in held.items()]

        def utilization(_handle: object, since: int) -> list[Any]:
            self.asked_since.append(since)
            found = [
                SimpleNamespace(pid=pid, timeStamp=time, smUtil=used)
                for pid, time, used in self.samples
                if time > since
            ]
            if not found:
                raise _NVMLError
            return found

        answers: dict[str, Any] = {
            "NVMLError": _NVMLError,
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 1,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(free=self.free, total=100),
            "nvmlDeviceGetGraphicsRunningProcesses": lambda _: processes(self.graphics),
            "nvmlDeviceGetComputeRunningProcesses": lambda _: processes(self.compute),
            "nvmlDeviceGetProcessUtilization": utilization,
        }
        for name, answer in answers.items():
            setattr(nvml, name, answer)
        return nvml

    def users(self, own: Collection[int] = (_OWN,)) -> GpuUsers:
        users = users_of(self.library(), lambda: own)
        assert users is not None
        return users


def test_own_and_others_are_told_apart() -> None:
    """Memory of graphics and compute processes, and the computing of others only."""
    driver = Driver()
    driver.graphics[_GAME] = 20
    driver.samples = [(_OWN, 7, 95), (_GAME, 7, 30), (_GAME, 6, 99), (_DESKTOP, 5, 4)]

    assert driver.users().read() == {
        0: GpuUse(others_ratio=0.34, others_bytes=25, own_bytes=40, free_bytes=55, size_bytes=100)
    }


def test_samples_count_once() -> None:
    """The driver is asked for newer ones than were seen; none at all, an error there, is no use."""
    driver = Driver()
    driver.samples = [(_DESKTOP, 7, 50)]
    users = driver.users()

    assert [users.read()[0].others_ratio for _ in range(2)] == [0.5, 0.0]
    assert driver.asked_since == [0, 7]


def test_a_gpu_without_our_trainer_is_nobodys_business() -> None:
    """Another GPU, or a container in which processes have other numbers: nothing can be told apart, so nothing is."""
    driver = Driver()
    driver.samples = [(_OWN, 7, 95)]

    assert driver.users(own=(_GAME,)).read() == {}


def test_a_gpu_is_ours_while_the_trainer_is_paused() -> None:
    """Once seen there, it is looked at until the trainer comes back; then a game has to be gone."""
    driver = Driver()
    users = driver.users()
    assert users.read()[0].own_bytes == 40

    driver.compute, driver.graphics[_GAME], driver.samples = {}, None, [(_GAME, 9, 80)]

    assert users.read()[0] == GpuUse(others_ratio=0.8, others_bytes=5, own_bytes=0, free_bytes=55, size_bytes=100)


def test_other_nodes_trainers_are_no_owner() -> None:
    """Several nodes share a GPU: each would pause for the others."""
    words = [sys.executable, "-c", "import sys; sys.stdin.read()", "lowcomm_node.train.process"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as trainer:
        driver = Driver()
        driver.compute[trainer.pid] = 40
        driver.samples = [(trainer.pid, 7, 90)]
        while "lowcomm_node.train.process" not in Path(f"/proc/{trainer.pid}/cmdline").read_text():
            pass  # until it is what it was started as

        found = driver.users().read()[0]
        trainer.communicate(b"")

    assert (found.others_ratio, found.others_bytes) == (0.0, 5)


def test_this_machine_can_be_asked() -> None:
    """Whatever it has, and whether or not the library is installed: no error."""
    users = gpu_users(lambda: (os.getpid(),))

    assert users is None or users.read() == {}
