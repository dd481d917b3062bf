"""One machine of a world, and its life so far."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from lowcomm_node.core.commands import FetchFrozen
from lowcomm_node.core.events import Member
from lowcomm_node.sim.directory import Registrant
from lowcomm_node.sim.node import Node
from lowcomm_node.sim.population import SimTrainer
from lowcomm_node.units import PeerId
from lowcomm_node.wire.records import sign_member

__all__ = ["Host", "T", "avoidance"]

_SIGNATURE_BYTES = 64

T = TypeVar("T", bound=SimTrainer)


@dataclass(eq=False, slots=True)
class Host(Generic[T]):
    """Times are seconds after its start, NaN while they have not come."""

    node: Node[T]
    registrant: Registrant
    is_initial: bool
    joined_at: float
    record: Member | None = None
    ready_at: float = math.nan
    met_at: float = math.nan
    informed_at: float = math.nan
    num_polls: int = 0
    is_leaving: bool = False
    fetching: FetchFrozen | None = None
    """The frozen factors that it is downloading."""

    @property
    def trainer(self) -> T:
        return self.node.trainer

    def signed_record(self) -> bytes:
        """As long as a real one; nobody here checks signatures. Empty before the first."""
        if self.record is None:
            return b""
        limits = self.node.limits
        return sign_member(
            self.record,
            run_id=limits.run_id,
            protocol_version=limits.protocol_version,
            sign=lambda _: bytes(_SIGNATURE_BYTES),
        )


def avoidance(hosts: Mapping[PeerId, Host[T]], now: float) -> Iterator[tuple[bool, bool]]:
    """(is it hostile, is it avoided) of each peer that an honest node knows."""
    for host in hosts.values():
        if not host.trainer.is_hostile:
            for view in host.node.core.partners.views():
                other = hosts.get(view.member.peer)
                if other is not None:
                    yield other.trainer.is_hostile, now < view.avoid_until
