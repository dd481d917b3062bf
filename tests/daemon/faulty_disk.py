"""Real files, and a disk under them that can be full, and a process that can be killed at each operation on it."""

import errno
import io
import os
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from safetensors.torch import save_file

from lowcomm_node.train import state_file

__all__ = ["PROCESS", "KilledError", "Process", "disk_of_processes"]

_Usage = namedtuple("_Usage", "total used free")  # noqa: PYI024 - like that of shutil, nothing else looks at it


class KilledError(BaseException):
    """SIGKILL: no handler of an ``Exception`` sees it, and the dead leave nothing on disk any more."""


class Process:
    """Who uses the disk. One that is dead can do nothing."""

    def __init__(self, on_operation: Callable[[str], None]) -> None:
        """``on_operation`` is told of each before it happens; may kill."""
        self._on_operation = on_operation
        self.is_dead = False
        self.has_full_disk = False

    def operates(self, name: str, *, is_growing: bool) -> None:
        """Raises KilledError, OSError."""
        if not self.is_dead:
            self._on_operation(name)
        if self.is_dead:
            raise KilledError(name)
        if is_growing and self.has_full_disk:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)
"""Whose work it is; none for what no fault strikes. Tasks and threads inherit it."""


def _hook(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, is_growing: Callable[..., bool]) -> None:
    real = getattr(module, name)

    def hooked(*args: Any, **options: Any) -> Any:
        process = PROCESS.get()
        if process is not None:
            process.operates(name, is_growing=is_growing(*args, **options))
        result = real(*args, **options)
        if name == "replace" and process is not None:  # by the clock of whoever writes
            os.utime(args[1], (time.time(), time.time()))
        return result

    monkeypatch.setattr(module, name, hooked)


def disk_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, all that the package does to files goes through ``Process.operates``."""

    def never(*_: Any, **__: Any) -> bool:
        return False

    def always(*_: Any, **__: Any) -> bool:
        return True

    def creates(_: Any, flags: int, *__: Any, **___: Any) -> bool:
        return bool(flags & os.O_CREAT)

    def writes(_: Any, mode: str = "r", *__: Any, **___: Any) -> bool:
        return "w" in mode

    for name in ("rename", "replace", "unlink", "rmdir"):
        _hook(monkeypatch, os, name, never)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody cuts the power of the machine that tests
    for name in ("pwrite", "fsync", "mkdir", "link"):
        _hook(monkeypatch, os, name, always)
    _hook(monkeypatch, os, "open", creates)
    _hook(monkeypatch, io, "open", writes)
    real_usage = shutil.disk_usage

    def save(tensors: Any, path: Path, metadata: Any) -> None:
        process = PROCESS.get()
        if process is None:
            save_file(tensors, path, metadata)
            return
        process.operates("save", is_growing=False)
        save_file(tensors, path, metadata)
        os.truncate(path, path.stat().st_size // 2)
        process.operates("save, the second half", is_growing=False)
        if process.has_full_disk:
            raise SafetensorError("I/O error: no space left on device")
        save_file(tensors, path, metadata)

    def usage(path: Any) -> Any:
        process = PROCESS.get()
        return _Usage(0, 0, 0) if process is not None and process.has_full_disk else real_usage(path)

    monkeypatch.setattr(state_file, "save_file", save)
    monkeypatch.setattr(shutil, "disk_usage", usage)
