"""Where the flight recorder's dumps go: on request, and by itself when the node fails.

A dump is written with mode 0600 into the state directory, whole or not at all, and only the newest few are kept. What
the recorder holds is told by ``telemetry.flight``; here the header is added: what was running where, and in which state.
"""

import asyncio
import os
import platform
import re
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from lowcomm_node import PROTOCOL_VERSION, __version__
from lowcomm_node.core.node import NodeCore
from lowcomm_node.core.places import Fullness
from lowcomm_node.daemon.plain import as_plain
from lowcomm_node.errors import ConfigError, DataError, LowcommError, NoPeerError, StoreError
from lowcomm_node.settings.merge import values_of
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.rules import OneOf
from lowcomm_node.settings.schema import keys_of
from lowcomm_node.telemetry.flight.dump import dump_text
from lowcomm_node.telemetry.flight.recorder import FlightRecorder, Recording
from lowcomm_node.telemetry.flight.values import Tree
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import Status

__all__ = ["BlackBox"]

_KEPT = 5
"""Dumps of each kind: more than a node that fails again and again needs to be understood."""
_EXPECTED = (ConfigError, DataError, NoPeerError)
"""Their message says what to do about them; nothing the node did led there."""
_FRAME_FILE = re.compile(r'File "[^"]*?([^/"]+/[^/"]+)"')


class BlackBox:
    """The recorder of one life of one node, and the files made of it. ``status`` is asked when a dump is made."""

    def __init__(
        self,
        *,
        settings: NodeSettings,
        state_dir: Path,
        status: Callable[[], Status],
        recent_log: Sequence[Mapping[str, str]],
    ) -> None:
        self._settings = settings
        self._state_dir = state_dir
        self._status = status
        self._recent_log = recent_log
        self._log = get_logger("flight")
        self._recorder: FlightRecorder | None = None
        self.fullness = Fullness(0, settings.log.flight_entries)
        """Of the recorder, as ``size`` has found it last."""
        self._told: BaseException | None = None
        self._has_failed = False

    def record(self, core: NodeCore) -> FlightRecorder:
        """Watch this core from now on; the shell calls the recorder's ``handle`` in place of the core's."""
        self._recorder = FlightRecorder(core, max_entries=self._settings.log.flight_entries, on_failure=self._failed)
        return self._recorder

    def size(self) -> tuple[int, int]:
        """Entries the recorder holds, and bytes they take, roughly."""
        num_entries, num_bytes = self._recorder.size() if self._recorder is not None else (0, 0)
        self.fullness = Fullness(num_entries, self._settings.log.flight_entries)
        return num_entries, num_bytes

    async def dump(self, is_full: bool) -> Path:
        """Write what there is, without stopping the loop for long; returns the file. Raises StoreError."""
        recording = self._recorder.recording() if self._recorder is not None else None
        header = self._header("request")
        return await asyncio.to_thread(self._write, "dump", header, recording, is_full)

    def crashed(self, error: BaseException) -> None:
        """The node is about to end by ``error``: write what led there, and note on the error where."""
        is_ours = isinstance(error, Exception) and not isinstance(error, _EXPECTED)
        if is_ours and not (self._recorder is None and isinstance(error, OSError)):
            self._write_crash(error)

    def unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler: logs as the loop would, and takes a bug of ours for what it is."""
        loop.default_exception_handler(context)
        error = context.get("exception")
        if isinstance(error, Exception) and not isinstance(error, LowcommError | OSError):
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Something failed that does not end the node by itself. The first is the one to read; others may come by the second."""
        if not self._has_failed:
            self._has_failed = True
            self._write_crash(error)

    def _write_crash(self, error: BaseException) -> None:
        """Once for each error: what the core raised may come by again as the end of the node."""
        if error is self._told:
            return
        self._told = error
        try:
            recording = self._recorder.recording() if self._recorder is not None else None
            header = self._header("crash", error)
            path = self._write("crash", header, recording, is_full=False)
        except Exception as broken:  # noqa: BLE001 - the error that brought us here must get out, whatever is wrong with its dump
            self._log.warning("crash_dump_failed", error=f"{type(broken).__name__}: {broken}")
            return
        error.add_note(f"What led to this is in {path}, without names and addresses; attach it when you report this.")
        self._log.error("crash_dumped", error=f"{type(error).__name__}: {error}", dump=str(path))

    def _write(self, kind: str, header: dict[str, Tree], recording: Recording | None, is_full: bool) -> Path:
        names = None if is_full else self._names(header)
        header["is_full"] = is_full
        header["settings"] = cast("Tree", _plain_settings(self._settings, is_full))
        text = dump_text(header, recording, names=names)
        path = self._state_dir / f"{kind}-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.json"
        try:
            _write_atomically(path, text.encode())
            for old in sorted(self._state_dir.glob(f"{kind}-*.json"))[:-_KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: the dump cannot be written: {error.strerror or error}") from error
        return path

    def _header(self, reason: str, error: BaseException | None = None) -> dict[str, Tree]:
        status = as_plain(self._status())
        training = cast("dict[str, object]", status["training"])
        del training["sketch"], training["sketch_mark"], training["older_sketches"]  # of the weights
        return {
            "lowcomm_node": __version__,
            "protocol_version": PROTOCOL_VERSION,
            "python": platform.python_version(),
            "torch": _torch_version(),
            "platform": platform.platform(),
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "monotonic_s": time.monotonic(),
            "reason": reason,
            "error": cast("Tree", _traceback(error)) if error is not None else [],
            "status": cast("Tree", status),
            "recent_log": [dict(record) for record in tuple(self._recent_log)],
        }

    def _names(self, header: Mapping[str, Tree]) -> dict[str, str]:
        """Words that say whose node this is, and what becomes of them."""
        status = cast("dict[str, str]", header["status"])
        network, data = self._settings.network, self._settings.data
        names = {
            socket.gethostname(): "(host)",
            network.announce_host: "(announce_host)",
            str(Path.home()): "~",
            Path.home().name: "(user)",
            str(self._state_dir): "(state_dir)",
            status["run_name"]: "run",
            status["run_id"]: "run",
            status["run_id"][:12]: "run",
            **dict.fromkeys((*data.paths, data.dataset, data.tokenizer), "(data)"),
        }
        return {name: word for name, word in names.items() if name not in ("", "/")}


def _plain_settings(settings: NodeSettings, is_full: bool) -> dict[str, object]:
    """Values by dotted key; when they shall tell nothing of a person, no text that a person can choose freely."""
    keys, plain = keys_of(NodeSettings), dict[str, object]()
    for dotted, value in values_of(settings).items():
        is_free = isinstance(value, str | tuple) and not isinstance(keys[dotted].rule, OneOf)
        if is_free and not is_full and value != keys[dotted].default:
            plain[dotted] = "(set)"
        else:
            plain[dotted] = list(value) if isinstance(value, tuple) else value
    return plain


def _traceback(error: BaseException) -> list[str]:
    """The traceback's lines, files by their last two names: where a package is installed is the user's business."""
    text = "".join(traceback.format_exception(error))
    return _FRAME_FILE.sub(r'File "\1"', text).splitlines()


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"


def _write_atomically(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
