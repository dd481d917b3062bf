"""Asks nodes for their status over HTTP on loopback."""

import http.client
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from google.protobuf import json_format

from lowcomm_node.cli.swarm.launch import NodePlace
from lowcomm_node.cli.swarm.lives import Status

__all__ = ["Watcher", "parse_status"]

_LOOPBACK = "127.0.0.1"
_TIMEOUT_S = 2.0
_MAX_STATUS_BYTES = 1 << 20
_HTTP_OK = 200
_MAX_THREADS = 16


def parse_status(body: bytes) -> Status | None:
    """A status from the JSON of GET /status; None when it is none."""
    try:
        status = json_format.Parse(body, Status(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError):
        return None
    return status if status.state else None  # every node has a state; an empty message is something else


class Watcher:
    """Polls many nodes at once, so that a frozen one delays a look by two seconds at most."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=_MAX_THREADS, thread_name_prefix="watch")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def look(self, places: Mapping[str, NodePlace]) -> dict[str, Status]:
        """Statuses of the nodes that answer, by name."""
        answers = self._threads.map(_fetch, places.values())
        return {name: status for name, status in zip(places, answers, strict=True) if status is not None}


def _fetch(place: NodePlace) -> Status | None:
    connection = http.client.HTTPConnection(_LOOPBACK, place.ports.metrics, timeout=_TIMEOUT_S)
    try:
        with place.entered():  # from within, a node answers however its line is cut
            connection.connect()
        connection.request("GET", "/status")
        response = connection.getresponse()
        return parse_status(response.read(_MAX_STATUS_BYTES)) if response.status == _HTTP_OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
