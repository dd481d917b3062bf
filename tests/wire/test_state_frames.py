"""Questions about a state and their answers, as frames."""

import pytest

from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.wire.state_frames import (
    encode_message,
    encode_question,
    encode_refusal,
    read_answer,
    read_question,
    refused,
)


def test_what_is_said_is_what_is_heard() -> None:
    """Question, message, refusal; a refusal for want of room means: come back later."""
    assert read_question(encode_question("Fetch", b"\x01")) == ("Fetch", b"\x01")
    assert read_answer(encode_message(b"\x02")) == b"\x02"

    no = read_answer(encode_refusal(RemoteProtocolError(RefusalReason.EXPIRED, "gone: long ago")))
    assert isinstance(no, RemoteProtocolError)
    assert (no.reason, no.detail) == (RefusalReason.EXPIRED, "the donor says: gone: long ago")
    later = read_answer(encode_refusal(RemoteProtocolError(RefusalReason.TOO_MANY, "later")))
    assert isinstance(later, LinkError)
    assert later.reason == "busy"


def test_a_reason_that_nobody_knows_is_a_lost_connection_and_short() -> None:
    """The word comes from a peer, and so does the sentence."""
    told = refused("because", "x" * 10_000)
    assert isinstance(told, LinkError)
    assert told.reason == "disconnect"
    assert len(told.detail) < 400


@pytest.mark.parametrize("read", [read_question, read_answer])
def test_what_cannot_be_read_is_malformed(read: object) -> None:
    """At either end."""
    assert callable(read)
    with pytest.raises(RemoteProtocolError, match="malformed"):
        read(b"\xff\xff")
