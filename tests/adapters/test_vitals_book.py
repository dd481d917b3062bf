"""adapters.vitals_book: the newest that each member tells, bounded."""

from dataclasses import replace

from lowcomm_node.adapters.vitals_book import VitalsBook
from lowcomm_node.core.events import Member
from lowcomm_node.units import PeerId
from lowcomm_node.wire.records import sign_member
from lowcomm_node.wire.vitals import Vitals
from tests.wire.samples import KEY, MEMBER, OWN, RUN

NOW = MEMBER.expires_at - 30.0


def _learn(book: VitalsBook, loss: float, *, peer: str = OWN, expires_at: float = MEMBER.expires_at) -> Member:
    record = sign_member(
        MEMBER, run_id=RUN, protocol_version=1, sign=KEY.sign, vitals=Vitals(validation_loss=loss) if loss else None
    )
    member = replace(MEMBER, peer=PeerId(peer), expires_at=expires_at)
    assert book.learn(member, record) is member
    return member


def test_the_newest_record_counts() -> None:
    """Holders of a bucket return old records and new ones in any order."""
    book = VitalsBook()
    _learn(book, 2.0)
    _learn(book, 3.0, expires_at=MEMBER.expires_at - 1)
    assert book.others(NOW) == {OWN: Vitals(validation_loss=2.0)}

    _learn(book, 1.0, expires_at=MEMBER.expires_at + 1)
    assert book.others(NOW) == {OWN: Vitals(validation_loss=1.0)}


def test_who_is_gone_or_tells_nothing_is_not_there() -> None:
    """A median over the living."""
    book = VitalsBook()
    _learn(book, 2.0)
    _learn(book, 0.0, peer="quiet")

    assert set(book.others(NOW)) == {OWN}
    assert book.others(MEMBER.expires_at) == {}


def test_it_does_not_grow_without_end() -> None:
    """Identities cost nothing."""
    book = VitalsBook(max_peers=3)
    for number in range(10):
        _learn(book, 1.0, peer=f"p{number}")

    assert list(book.others(NOW)) == ["p7", "p8", "p9"]
