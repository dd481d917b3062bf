"""What is known of where peers are."""

from dataclasses import replace

import pytest

from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.errors import LinkError
from lowcomm_node.units import PeerId
from tests.adapters.nodes import at

ANN = at(PeerId("ann"), "ann.example:1")


def test_the_newest_record_counts() -> None:
    """An old record that is shown again sends nobody to where a peer was."""
    contacts = Contacts()
    moved = replace(ANN, grpc_address="ann.example:2", expires_at=ANN.expires_at + 1)

    contacts.learn(moved)
    contacts.learn(ANN)

    assert contacts.find(ANN.peer) == moved


def test_a_stranger_is_unreachable() -> None:
    """Nobody is dialled of whom no record is known."""
    with pytest.raises(LinkError, match="unreachable"):
        Contacts().find(ANN.peer)


def test_the_least_lately_learnt_is_forgotten() -> None:
    """Memory is bounded, and who is seen again and again stays."""
    contacts = Contacts(max_contacts=3)

    for name in ("a", "b", "c", "a", "d"):
        contacts.learn(at(PeerId(name), f"{name}:1"))

    assert len(contacts) == 3
    assert contacts.find(PeerId("a")).grpc_address == "a:1"
    with pytest.raises(LinkError):
        contacts.find(PeerId("b"))
