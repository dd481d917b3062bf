"""What a joiner believes of a hello's answer."""

from hashlib import sha256

import pytest

from lowcomm_node.adapters.hello import no_peer, no_welcome, read_welcome, wrong_clock
from lowcomm_node.core.versions import Versions
from lowcomm_node.errors import ConfigError, DirectoryError, NoPeerError, RefusalReason, RemoteProtocolError
from lowcomm_node.units import RunId
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.limits import MAX_MANIFEST_BYTES
from lowcomm_node.wire.records import sign_member
from tests.wire.samples import KEY, MEMBER

MANIFEST = b"the manifest"
RUN = RunId(sha256(MANIFEST).hexdigest())
NOW = MEMBER.expires_at - 10.0


def answer(**changes: object) -> records_pb2.HelloResponse:
    record = sign_member(MEMBER, run_id=RUN, protocol_version=1, sign=KEY.sign)
    fields: dict[str, object] = {
        "protocol_version": 1,
        "run_id": bytes.fromhex(RUN),
        "manifest": MANIFEST,
        "member": records_pb2.SignedRecord.FromString(record),
        "now": NOW,
    }
    return records_pb2.HelloResponse(**(fields | changes))  # type: ignore[arg-type]


def test_a_true_answer_is_believed_and_the_clocks_are_compared() -> None:
    """The offset is the peer's clock minus ours, half the round trip taken off."""
    welcome = read_welcome(answer(), run_id=RUN, versions=Versions(oldest=1, newest=1), between=(NOW - 3.0, NOW - 1.0))

    assert (welcome.run_id, welcome.manifest, welcome.member) == (RUN, MANIFEST, MEMBER)
    assert welcome.clock_offset_s == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol_version": 2}, RefusalReason.WRONG_PROTOCOL),
        ({"manifest": b"another manifest"}, RefusalReason.CHECKSUM),
        ({"manifest": bytes(MAX_MANIFEST_BYTES + 1)}, RefusalReason.OVERSIZED),
        ({"run_id": b""}, RefusalReason.CHECKSUM),
        ({"manifest": b"x", "run_id": sha256(b"x").digest()}, RefusalReason.WRONG_RUN),
        ({"now": float("nan")}, RefusalReason.MALFORMED),
        ({"now": NOW + 60.0}, RefusalReason.EXPIRED),
        ({"member": records_pb2.SignedRecord(record=b"x", signature=bytes(64))}, RefusalReason.MALFORMED),
        ({"member": None}, RefusalReason.CHECKSUM),
    ],
)
def test_an_answer_that_cannot_be_true_is_refused(changes: dict[str, object], reason: RefusalReason) -> None:
    """The manifest must be that of the run, the run the one asked for, and the record signed and alive."""
    with pytest.raises(RemoteProtocolError) as caught:
        read_welcome(answer(**changes), run_id=RUN, versions=Versions(oldest=1, newest=1), between=(NOW, NOW))

    assert caught.value.reason is reason


def test_errors_say_what_happened_and_what_to_do() -> None:
    """Each address stands with its outcome; a wrong clock is told which way it is off."""
    told = str(no_peer({"/ip4/10.0.0.1": "refused", "/ip4/10.0.0.2": "no answer in 10 s"}))

    assert "/ip4/10.0.0.1: refused" in told
    assert "/ip4/10.0.0.2: no answer in 10 s" in told
    assert "4.0 s behind" in str(wrong_clock(4.0))
    assert "3.0 s ahead of" in str(wrong_clock(-3.0))


def test_who_speaks_another_version_need_not_ask_again() -> None:
    """It hears what to do; but where one of the addresses might still be of use, all are named."""
    newer = RemoteProtocolError(RefusalReason.WRONG_PROTOCOL, "the run speaks protocol 2: update lowcomm-node")
    away = DirectoryError("no answer")

    misfit = no_welcome({"a": newer, "b": newer}, 0.0)
    assert isinstance(misfit, ConfigError)
    assert str(misfit) == newer.detail
    assert isinstance(no_welcome({"a": newer, "b": away}, 0.0), NoPeerError)
    assert isinstance(no_welcome({}, 0.0), NoPeerError)
    assert "clock is 3.0 s behind" in str(no_welcome({"a": newer, "b": "its clock"}, 3.0))
