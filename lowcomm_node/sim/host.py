"""One machine of a world, and its life so far."""

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

from lowcomm_node.core.events import Member
from lowcomm_node.sim.directory import Registrant
from lowcomm_node.sim.node import Node
from lowcomm_node.sim.population import SimTrainer

__all__ = ["Host", "T"]

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

    @property
    def trainer(self) -> T:
        return self.node.trainer
