"""What others may read of this node, put together by the event loop and handed out whole: status, peers, history, targets.

Threads of the HTTP port read it while the loop goes on; what they get is replaced, never changed.
"""

import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from types import MappingProxyType

from lowcomm_node.adapters.vitals_book import VitalsBook
from lowcomm_node.core.node import NodeCore
from lowcomm_node.core.spread import MarkedSketch, spread_of
from lowcomm_node.daemon.status import peers_status
from lowcomm_node.settings.hosts import is_loopback
from lowcomm_node.settings.node import MetricsSettings
from lowcomm_node.telemetry.history import HistoryRing
from lowcomm_node.units import PeerId
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import Peers, Status, SwarmStatus
from lowcomm_node.wire.vitals import Vitals, fold, sketches_in

__all__ = ["Board", "swarm_status"]

_RENEW_EVERY_S = 1.0
"""What others tell changes with their records, every few seconds; it may be of a thousand members."""
_WHOSE = "__meta_lowcomm_whose"
"""Labels that begin so are there for relabelling, and do not become labels of what is scraped."""


class Board:
    """``settings`` say what this node tells of itself and what it hands on of others."""

    def __init__(
        self,
        settings: MetricsSettings,
        vitals: VitalsBook,
        wall_clock: Callable[[], float] = time.time,
        *,
        met: Mapping[PeerId, int] = MappingProxyType({}),
    ) -> None:
        """``met``: completed meetings with each peer; it may grow."""
        self.status = Status()
        self.peers = Peers()
        self.history = HistoryRing()
        self._settings = settings
        self._vitals = vitals
        self._met = met
        self._wall_clock = wall_clock
        self._renewed_at = float("-inf")
        self._own_address = ""
        self._swarm = SwarmStatus()
        self._published: dict[str, str] = {}

    def show(self, status: Status, core: NodeCore | None, now: float) -> None:
        """The status as it is now; the board takes it over. Its part about the swarm is filled in here."""
        unix_s = self._wall_clock()
        if now >= self._renewed_at + _RENEW_EVERY_S:
            self._renewed_at = now
            self._renew(status, core, now, unix_s)
        status.swarm.CopyFrom(self._swarm)
        self.status = status
        self.history.see(status, now, unix_s)

    def targets(self, local: str) -> list[dict[str, object]]:
        """For Prometheus' HTTP service discovery: this node, which was asked at ``local``, and those that publish an address.

        Others' are handed on only by wish, because whoever reads this fetches from whatever stands there.
        """
        run = {"run_id": self.status.run_id}
        found: list[dict[str, object]] = [
            _target(self._own_address or local, self.status.peer_id, {**run, _WHOSE: "own"})
        ]
        if self._settings.discover == "on":
            # Only a node that publishes such an address itself is in a swarm on one computer: any other's would be ours.
            may_be_loopback = is_loopback(self._own_address.rpartition(":")[0].strip("[]"))
            found += [
                _target(address, peer, {**run, _WHOSE: "other"})
                for peer, address in sorted(self._published.items())
                if _is_fit(address, may_be_loopback=may_be_loopback)
            ]
        return found

    def _renew(self, status: Status, core: NodeCore | None, now: float, unix_s: float) -> None:
        """What this node tells, and what it knows of the others."""
        training = status.training
        self._own_address = _published(self._settings.publish, status.grpc_address)
        own = Vitals(
            validation_loss=training.validation_loss,
            sketches=tuple(MarkedSketch(mark, fold(sums)) for mark, sums in sketches_in(training)),
            metrics_address=self._own_address,
        )
        self._vitals.own = own
        others = self._vitals.others(unix_s)
        others.pop(PeerId(status.peer_id), None)  # the directory holds our record, too
        self._swarm = swarm_status(own, others.values(), training.parameters)
        self.peers = peers_status(core, now, others, self._met)
        self._published = {peer: told.metrics_address for peer, told in others.items() if told.metrics_address}


def swarm_status(own: Vitals, others: Iterable[Vitals], parameters: int) -> SwarmStatus:
    """What the others tell, in two numbers; 0 where it is not known."""
    told = list(others)
    losses = [vitals.validation_loss for vitals in told if vitals.validation_loss > 0]
    return SwarmStatus(
        members=len(told),
        validation_loss=median(losses) if losses else 0.0,
        spread=spread_of([vitals.sketches for vitals in (own, *told)], parameters),
    )


def _target(address: str, peer: str, labels: dict[str, str]) -> dict[str, object]:
    return {"targets": [address], "labels": {**labels, "__meta_lowcomm_peer_id": peer}}


def _published(publish: str, grpc_address: str) -> str:
    """Where others fetch this node's metrics: a port alone is one of the host that they dial for meetings, once that is known."""
    host = grpc_address.rpartition(":")[0]
    if not publish.startswith(":"):
        return publish
    return f"{host}{publish}" if host and _is_fit(grpc_address, may_be_loopback=True) else ""


def _is_fit(address: str, *, may_be_loopback: bool) -> bool:
    """Not one that means another machine to whoever reads it: own computer (unless all is on this one), own link, nowhere."""
    host = address.rpartition(":")[0].strip("[]")
    if is_loopback(host):
        return may_be_loopback
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return True  # a name
    return not (ip.is_link_local or ip.is_unspecified or ip.is_multicast)
