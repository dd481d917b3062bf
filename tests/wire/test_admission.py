"""Who may take part in a run."""

import math
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.errors import ConfigError, RefusalReason, RemoteProtocolError
from lowcomm_node.settings.manifest import SecurityConfig
from lowcomm_node.units import INVITE_PREFIX, PeerId, RunId
from lowcomm_node.wire.admission import AdmissionRule, Invitation
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from lowcomm_node.wire.peer_id import peer_id_of_key, peer_id_to_bytes
from lowcomm_node.wire.records import is_storable, read_member, sign_member
from tests.wire.samples import KEY, MEMBER, OTHER, OWN, RUN

ORGANISER_KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
ORGANISER = peer_id_of_key(ORGANISER_KEY.public_key().public_bytes_raw())
SECRET = bytes([9]) * 32
UNTIL = 10_000
NOW = 9_000.0
OTHER_RUN = RunId("ff" * 32)


def rule(
    kind: str = "invite", run_id: RunId = RUN, organiser: str = "", members: tuple[str, ...] = ()
) -> AdmissionRule:
    return AdmissionRule.of(SecurityConfig(admission=kind, organiser=organiser or ORGANISER, members=members), run_id)


def invitation(peer: PeerId | None = None, run_id: RunId = RUN, until: int = UNTIL) -> Invitation:
    return Invitation.make(run_id, until, ORGANISER_KEY.sign, peer=peer, secret=b"" if peer else SECRET)


def refused(peer: PeerId, admission: bytes, now: float = NOW, whose: AdmissionRule | None = None) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        (whose or rule()).stay_s(peer, admission, now)
    assert caught.value.reason is RefusalReason.NOT_ADMITTED
    return caught.value.detail


def test_open_runs_take_everybody() -> None:
    """With or without an admission."""
    assert rule("open").stay_s(OWN, b"", NOW) == math.inf
    assert rule("open").stay_s(OWN, b"\xff", NOW) == math.inf


def test_the_list_is_all_there_is_of_an_allow_list() -> None:
    """Those on it, and the organiser; an invitation does not help."""
    listed = rule("allow-list", members=(OWN,))

    assert listed.stay_s(OWN, b"", NOW) == math.inf
    assert listed.stay_s(ORGANISER, b"", NOW) == math.inf
    assert "not among those" in refused(OTHER, invitation().admission_of(OTHER), whose=listed)


@pytest.mark.parametrize("peer", [None, OWN])
def test_an_invited_peer_stays_until_the_invitation_ends(peer: PeerId | None) -> None:
    """Made out to it, or to whoever holds it."""
    admission = invitation(peer).admission_of(OWN)

    assert rule().stay_s(OWN, admission, NOW) == UNTIL - NOW
    assert "ended 1 s ago" in refused(OWN, admission, UNTIL + 1.0)
    assert len(admission) < 180


@pytest.mark.parametrize("peer", [None, OWN])
def test_an_admission_is_of_no_use_to_anybody_else(peer: PeerId | None) -> None:
    """Whoever reads it in a record cannot enter with it, nor change what it says, nor take it to another run."""
    admission = invitation(peer).admission_of(OWN)
    later = records_pb2.Admission.FromString(admission)
    later.expires_at += 1

    refused(OTHER, admission)
    refused(OWN, later.SerializeToString())
    refused(OWN, invitation(peer, run_id=OTHER_RUN).admission_of(OWN))
    refused(OWN, admission, whose=rule(run_id=OTHER_RUN))
    refused(OWN, admission, whose=rule(organiser=OTHER))
    refused(OWN, b"")


def test_only_the_organiser_invites() -> None:
    """An invitation that somebody has signed for himself is none."""
    own = Invitation.make(RUN, UNTIL, KEY.sign, peer=None, secret=SECRET)

    assert "not one of the run's organiser" in refused(OWN, own.admission_of(OWN))
    assert rule().stay_s(ORGANISER, b"", NOW) == math.inf


def test_an_invitation_for_one_peer_does_not_pass_for_one_for_anybody() -> None:
    """Its subject put in as if it were a key."""
    stolen = records_pb2.Admission.FromString(invitation(OWN).admission_of(OWN))

    for key in (peer_id_to_bytes(OWN), peer_id_to_bytes(OWN)[-32:]):
        stolen.invite_key, stolen.invite_signature = key, KEY.sign(b"anything")
        refused(OTHER, stolen.SerializeToString())


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    """No bytes break the reader."""
    refused(OWN, data)


@pytest.mark.parametrize("peer", [None, OWN])
def test_an_invitation_survives_being_passed_on(peer: PeerId | None) -> None:
    """As one word that a chat or a terminal leaves alone."""
    text = invitation(peer).text()

    assert Invitation.read(f"  {text}\n") == invitation(peer)
    assert text.startswith(INVITE_PREFIX)
    assert text.replace("-", "").replace("_", "").isalnum()


def test_an_invitation_of_somebody_else_says_so() -> None:
    """Before anybody is asked."""
    with pytest.raises(ConfigError, match=f"is for {OTHER}, and this node is {OWN}"):
        invitation(OTHER).admission_of(OWN)


@given(st.one_of(st.text(max_size=80), st.binary(max_size=80).map(lambda data: INVITE_PREFIX + data.hex())))
def test_half_an_invitation_is_none(text: str) -> None:
    """Whatever was pasted: an error that says what one looks like."""
    with pytest.raises(ConfigError, match="no invitation"):
        Invitation.read(text)


def test_records_without_admission_are_neither_believed_nor_kept() -> None:
    """Where the run asks for one; a record of another run is that run's business."""
    admission = invitation(until=5_000).admission_of(OWN)
    now = MEMBER.expires_at - 10
    good, bad = (
        sign_member(MEMBER, run_id=RUN, protocol_version=1, sign=KEY.sign, admission=shown)
        for shown in (admission, b"")
    )

    assert read_member(good, run_id=RUN, protocol_version=1, now=now, rule=rule()) == MEMBER
    with pytest.raises(RemoteProtocolError) as caught:
        read_member(bad, run_id=RUN, protocol_version=1, now=now, rule=rule())
    assert caught.value.reason is RefusalReason.NOT_ADMITTED

    def storable(record: bytes, whose: AdmissionRule) -> bool:
        until = MEMBER.expires_at
        return is_storable(record, subkey=peer_id_to_bytes(OWN), expires_at=until, rule=whose, now=now)

    assert storable(good, rule())
    assert not storable(bad, rule())
    assert storable(bad, replace(rule(), run_id=OTHER_RUN))
    assert len(good) < 500
