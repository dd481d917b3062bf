"""What the local HTTP port answers, path by path. All of it is called from threads and only reads."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files

from lowcomm_node.daemon.board import Board
from lowcomm_node.daemon.plain import as_json

__all__ = ["TEXT", "Health", "Reply", "Views"]

_LOOP_PATIENCE_S = 10.0
"""A healthy loop beats about once a second; slicing a large payload may take it a few."""
_TRAINER_PATIENCE_S = 300.0
"""A step on a slow machine, or the compiler's first one on a GPU, may take minutes."""

TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"
_PAGE: Mapping[str, tuple[str, str]] = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/plots.js": ("plots.js", "text/javascript; charset=utf-8"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What liveness and readiness are judged by. Times are on the clock given to ``Views``, monotonic seconds."""

    loop_beat_s: float
    """When the event loop last came round."""
    trainer_beat_s: float | None
    """When the trainer last said something; None while none is expected to (starting, finished, paused, draining)."""
    is_joined: bool
    """Member of a run: the directory answers, or this node started the run."""
    has_state: bool
    """Weights are in place and training has begun."""
    is_leaving: bool
    """About to leave: no more meetings."""
    paused_for: str = ""
    """Why the machine is left to its owner; empty when it is not."""

    def reasons_not_live(self, now: float) -> list[str]:
        """Only what a restart of this process could cure; peers have no part in it."""
        reasons = []
        if now - self.loop_beat_s > _LOOP_PATIENCE_S:
            reasons.append(f"the event loop has not come round for {now - self.loop_beat_s:.0f} s")
        if self.trainer_beat_s is not None and now - self.trainer_beat_s > _TRAINER_PATIENCE_S:
            reasons.append(f"the trainer has said nothing for {now - self.trainer_beat_s:.0f} s")
        return reasons

    def reasons_not_ready(self) -> list[str]:
        """Why this node takes part in no meetings now."""
        if self.paused_for:
            return [f"paused: {self.paused_for}"]
        reasons = []
        if not self.is_joined:
            reasons.append("not yet a member of a run")
        if not self.has_state:
            reasons.append("the training state is not in place yet")
        if self.is_leaving:
            reasons.append("about to leave")
        return reasons


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to who has asked."""

    status: HTTPStatus
    content_type: str
    body: bytes


class Views:
    """The table of paths."""

    def __init__(
        self,
        *,
        metrics: Callable[[], bytes],
        board: Board,
        health: Callable[[], Health],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._health = health
        self._clock = clock
        folder = files("lowcomm_node.daemon") / "page"
        self._page = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in _PAGE.items()}
        self._data: Mapping[str, Callable[[], Reply]] = {
            "/history": lambda: _json(as_json(board.history.message())),
            "/metrics": lambda: Reply(HTTPStatus.OK, _METRICS, metrics()),
            "/peers": lambda: _json(as_json(board.peers)),
            "/status": lambda: _json(as_json(board.status)),
        }
        self._targets = board.targets

    def answer(self, path: str, *, is_verbose: bool, local: str) -> Reply:
        """``local``: host:port at which this was asked for. Whatever a view trips over is raised."""
        if path in self._page:
            body, kind = self._page[path]
            return Reply(HTTPStatus.OK, kind, body)
        if path in self._data:
            return self._data[path]()
        match path:
            case "/livez":
                return _verdict(self._health().reasons_not_live(self._clock()), is_verbose=is_verbose)
            case "/readyz":
                return _verdict(self._health().reasons_not_ready(), is_verbose=is_verbose)
            case "/sd":
                return _json(json.dumps(self._targets(local)) + "\n")
            case _:
                text = "There are /, /history, /livez, /metrics, /peers, /readyz, /sd and /status.\n"
                return Reply(HTTPStatus.NOT_FOUND, TEXT, text.encode())


def _json(text: str) -> Reply:
    return Reply(HTTPStatus.OK, _JSON, text.encode())


def _verdict(reasons: list[str], *, is_verbose: bool) -> Reply:
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    if is_verbose:
        return Reply(status, _JSON, json.dumps({"ok": not reasons, "reasons": reasons}).encode() + b"\n")
    return Reply(status, TEXT, ("\n".join(reasons) or "ok").encode() + b"\n")
