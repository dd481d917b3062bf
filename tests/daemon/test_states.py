"""Whom a joiner can ask for a state: those to whom something leads now."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowcomm_node.core.events import Member
from lowcomm_node.daemon.states import States
from lowcomm_node.errors import DirectoryError, LinkError
from lowcomm_node.units import PeerId
from tests.adapters.nodes import at, membership, some_peer, somebody

_OPEN, _RUNG, _DIRECT, _HIDDEN = (at(somebody(number), "") for number in (1, 2, 3, 4))
_PUBLIC = replace(_OPEN, grpc_address="192.0.2.1:7")


class P2pd:
    """A directory whose p2pd has a direct connection, or is being started anew."""

    def __init__(self, *direct: PeerId, is_up: bool = True) -> None:
        self.direct, self.is_up = list(direct), is_up

    @property
    def session(self) -> "P2pd":
        if not self.is_up:
            raise DirectoryError("it is being started anew")
        return self

    async def direct_peers(self) -> list[PeerId]:
        return self.direct


def askable(dht: P2pd, *members: Member, rung: tuple[PeerId, ...] = ()) -> tuple[Member, ...]:
    """What comes of these members."""
    bells: Any = SimpleNamespace(peers=frozenset(rung), ring_for_state=None)
    anything: Any = SimpleNamespace(metrics=None)
    states = States(
        membership=membership(),
        state_dir=Path("unused"),
        channels=anything,
        dht=dht,  # type: ignore[arg-type]
        bells=bells,
        line=anything,
        rate_bytes_per_s=1e6,
        recorder=anything,
        snapshots=anything,
        fingerprints=anything,
        is_meeting=lambda: False,
        on_refused=lambda _peer, _error: None,
    )
    return asyncio.run(states.askable(members))


def test_a_port_a_bell_and_a_direct_connection_are_ways_to_a_donor() -> None:
    """Those to whom nothing leads are left out as long as there is anybody else."""
    found = askable(P2pd(some_peer(3)), _PUBLIC, _RUNG, _DIRECT, _HIDDEN, rung=(some_peer(2),))

    assert found == (_PUBLIC, _RUNG, _DIRECT)
    assert askable(P2pd(is_up=False), _PUBLIC, _DIRECT) == (_PUBLIC,)


def test_where_nothing_leads_to_a_state_that_is_told() -> None:
    """A member that can be dialled and has none is no help; with no state anywhere there is nothing to look for."""
    stateless = replace(_PUBLIC, has_state=False)

    with pytest.raises(
        LinkError, match="of 1 that have one, none can be dialled, has its bell here or is directly connected"
    ):
        askable(P2pd(), stateless, _HIDDEN)
    assert askable(P2pd(), stateless) == (stateless,)
