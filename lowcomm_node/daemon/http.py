"""The local HTTP port: GET only, nothing secret, and only for who has asked for it under a name of its own.

It runs in threads of its own, because it is needed most when the event loop or the trainer is stuck.

A page on the internet whose name has been made to point to this computer (DNS rebinding) could read the port through the
browser of whoever looks at that page. What gives it away is its name in the Host header: answered are requests to an
address, to localhost, and to the names that the settings allow.
"""

import ipaddress
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Collection
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from lowcomm_node.core.places import Fullness
from lowcomm_node.daemon.views import TEXT, Reply
from lowcomm_node.errors import ConfigError
from lowcomm_node.telemetry.logs import get_logger

__all__ = ["Answer", "LocalHttp", "host_of"]

_MAX_REQUESTS = 8
_REQUEST_TIMEOUT_S = 5.0
_HEADERS = {
    "Cache-Control": "no-store",
    # Everything the page needs comes from this port, and nobody frames it or asks it for parts.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_log = get_logger(__name__)

Answer = Callable[..., Reply]
"""``daemon.views.Views.answer``."""


class LocalHttp:
    """The server. ``start`` binds, ``stop`` ends its threads; both may be called from the event loop."""

    def __init__(self, *, host: str, port: int, names: Collection[str], answer: Answer) -> None:
        """``names``: of this computer, by which the port may be asked besides ``host`` and addresses."""
        self._host = host
        self._wanted_port = port
        self._names = frozenset(name.lower() for name in ("localhost", host, *names) if name)
        self._answer = answer
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on; before ``start`` the wished one, which may be 0."""
        return self._wanted_port if self._server is None else int(self._server.server_address[1])

    @property
    def address(self) -> str:
        """host:port it listens on; empty while it does not."""
        return _joined(self._host, self.port) if self._server is not None else ""

    @property
    def fullness(self) -> Fullness:
        """Of requests that are answered, the one that asks for this included."""
        return Fullness(len(self._server.busy) if self._server is not None else 0, _MAX_REQUESTS)

    def start(self) -> None:
        """Bind and serve. Raises ConfigError when the address cannot be had."""
        try:
            self._server = _Server(self._host, self._wanted_port, self._names, self._answer)
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


def host_of(header: str) -> str:
    """The host in a Host header, lower case, without port and brackets; empty where it makes no sense."""
    try:
        return urlsplit(f"//{header.strip()}").hostname or ""
    except ValueError:
        return ""


def _is_own(header: str | None, names: Collection[str]) -> bool:
    """May a request with this Host header be answered? Without one it comes from no browser."""
    if header is None:
        return True
    host = host_of(header)
    if host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """One short-lived thread per request, a bounded number of them.

    Not ``http.server``'s own server class: that one looks up the host's name in the DNS when it binds.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 2 * _MAX_REQUESTS

    def __init__(self, host: str, port: int, names: Collection[str], answer: Answer) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.names = names
        self.answer = answer
        self._slots = threading.BoundedSemaphore(_MAX_REQUESTS)
        self.busy: set[int] = set()
        """Threads that answer."""
        super().__init__((host, port), _Handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        self.busy.add(threading.get_ident())
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.busy.discard(threading.get_ident())
            self._slots.release()

    def handle_error(self, _request: object, _client_address: object) -> None:
        """A connection broke while it was being answered: the client's loss. Anything else is a fault of ours."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            _log.debug("http_connection_broken", detail=str(error))
        else:
            _log.error("http_fault", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_TIMEOUT_S
    server_version = "lowcomm-node"
    sys_version = ""

    def do_GET(self) -> None:
        server = self.server
        if not isinstance(server, _Server):
            raise TypeError("this handler answers for its own server only")
        if not _is_own(self.headers.get("Host"), server.names):
            text = "This port is not asked by that name; metrics.allowed_hosts may allow it.\n"
            self._send(Reply(HTTPStatus.MISDIRECTED_REQUEST, TEXT, text.encode()))
            return
        try:
            parts = urlsplit(self.path)
        except ValueError:
            self._send(Reply(HTTPStatus.BAD_REQUEST, TEXT, b"not a path\n"))
            return
        is_verbose = "verbose" in parse_qs(parts.query, keep_blank_values=True)
        local = _joined(*self.connection.getsockname()[:2])
        try:
            reply = server.answer(parts.path, is_verbose=is_verbose, local=local)
        except Exception:  # noqa: BLE001 - whatever one view trips over must not take the other views with it
            _log.exception("http_view_failed", path=parts.path)
            reply = Reply(HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, b"this view failed; the node's log says why\n")
        self._send(reply)

    def do_other(self) -> None:
        """Nothing can be changed through this port."""
        self._send(Reply(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"GET only\n"))

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_other  # noqa: N815 - as above

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
        """Requests are not logged: a scraper's would be most of the log."""

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if reply.status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
