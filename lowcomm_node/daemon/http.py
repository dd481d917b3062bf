"""The local HTTP port: ``/metrics``, ``/livez``, ``/readyz`` and ``/status``, GET only, nothing secret.

It runs in threads of its own, because it is needed most when the event loop or the trainer is stuck. The
callables it is given are therefore called from another thread than the loop's: they must only read, and
status should be handed out as a whole that is replaced, not changed.
"""

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from lowcomm_node.daemon.plain import as_json
from lowcomm_node.errors import ConfigError
from lowcomm_node.telemetry.logs import get_logger
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import Status

__all__ = ["Health", "LocalHttp"]

_LOOP_PATIENCE_S = 10.0
"""A healthy loop beats about once a second; slicing a large payload may take it a few."""
_TRAINER_PATIENCE_S = 300.0
"""A step on a slow machine, or the compiler's first one on a GPU, may take minutes."""
_MAX_REQUESTS = 8
_REQUEST_TIMEOUT_S = 5.0

_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What liveness and readiness are judged by. Times are on the clock given to ``LocalHttp``, monotonic seconds."""

    loop_beat_s: float
    """When the event loop last came round."""
    trainer_beat_s: float | None
    """When the trainer last said something; None while none is expected to (starting, finished, draining)."""
    is_joined: bool
    """Member of a run: the directory answers, or this node started the run."""
    has_state: bool
    """Weights are in place and training has begun."""
    is_leaving: bool
    """About to leave: no more meetings."""

    def reasons_not_live(self, now: float) -> list[str]:
        """Only what a restart of this process could cure; peers have no part in it."""
        reasons = []
        if now - self.loop_beat_s > _LOOP_PATIENCE_S:
            reasons.append(f"the event loop has not come round for {now - self.loop_beat_s:.0f} s")
        if self.trainer_beat_s is not None and now - self.trainer_beat_s > _TRAINER_PATIENCE_S:
            reasons.append(f"the trainer has said nothing for {now - self.trainer_beat_s:.0f} s")
        return reasons


@dataclass(frozen=True, slots=True)
class _Reply:
    status: HTTPStatus
    content_type: str
    body: bytes


class LocalHttp:
    """The server. ``start`` binds, ``stop`` ends its threads; both may be called from the event loop."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        metrics: Callable[[], bytes],
        status: Callable[[], Status],
        health: Callable[[], Health],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._metrics = metrics
        self._status = status
        self._health = health
        self._clock = clock
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on; before ``start`` the wished one, which may be 0."""
        return self._wanted_port if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Bind and serve. Raises ConfigError when the address cannot be had."""
        try:
            self._server = _Server(self._host, self._wanted_port, self._answer)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(
                f"metrics.port = {self._wanted_port}: cannot listen on {self._host}: {reason}; "
                "choose another with --set metrics.port=..., 0 picks a free one"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and wait for the accepting thread; requests under way end by their own time limit."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = self._thread = None

    def _answer(self, path: str, *, is_verbose: bool) -> _Reply:
        match path:
            case "/metrics":
                return _Reply(HTTPStatus.OK, _METRICS, self._metrics())
            case "/status":
                return _Reply(HTTPStatus.OK, _JSON, as_json(self._status()).encode())
            case "/livez":
                return _verdict(self._health().reasons_not_live(self._clock()), is_verbose=is_verbose)
            case "/readyz":
                return _verdict(self._reasons_not_ready(), is_verbose=is_verbose)
            case _:
                text = "There are /livez, /metrics, /readyz and /status.\n"
                return _Reply(HTTPStatus.NOT_FOUND, _TEXT, text.encode())

    def _reasons_not_ready(self) -> list[str]:
        health = self._health()
        reasons = []
        if not health.is_joined:
            reasons.append("not yet a member of a run")
        if not health.has_state:
            reasons.append("the training state is not in place yet")
        if health.is_leaving:
            reasons.append("about to leave")
        return reasons


def _verdict(reasons: list[str], *, is_verbose: bool) -> _Reply:
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    if is_verbose:
        return _Reply(status, _JSON, json.dumps({"ok": not reasons, "reasons": reasons}).encode() + b"\n")
    return _Reply(status, _TEXT, ("\n".join(reasons) or "ok").encode() + b"\n")


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """One short-lived thread per request, a bounded number of them.

    Not ``http.server``'s own server class: that one looks up the host's name in the DNS when it binds.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 2 * _MAX_REQUESTS

    def __init__(self, host: str, port: int, answer: Callable[..., _Reply]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.answer = answer
        self._slots = threading.BoundedSemaphore(_MAX_REQUESTS)
        super().__init__((host, port), _Handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, _request: object, _client_address: object) -> None:
        """A connection broke while it was being answered: the client's loss, no traceback on our standard error."""
        _log.debug("http_connection_broken", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_TIMEOUT_S
    server_version = "lowcomm-node"
    sys_version = ""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        is_verbose = "verbose" in parse_qs(parts.query, keep_blank_values=True)
        server = self.server
        if not isinstance(server, _Server):
            raise TypeError("this handler answers for its own server only")
        try:
            reply = server.answer(parts.path, is_verbose=is_verbose)
        except Exception:  # noqa: BLE001 - whatever one view trips over must not take the other views with it
            _log.exception("http_view_failed", path=parts.path)
            reply = _Reply(HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"this view failed; the node's log says why\n")
        self._send(reply)

    def do_other(self) -> None:
        """Nothing can be changed through this port."""
        self._send(_Reply(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"GET only\n"))

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_other  # noqa: N815 - as above

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
        """Requests are not logged: a scraper's would be most of the log."""

    def _send(self, reply: _Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if reply.status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
