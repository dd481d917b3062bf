"""One message of each kind, and their golden vectors.

``python -m tests.wire.samples`` writes the vectors anew; do that only for a new protocol version.
"""

import json
import math
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from lowcomm_node.core.events import FrozenNote, Member
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.messages import Answer, Busy, Close, Confirm, Message, Offer, Refusal, StreamPlan, Verdict
from lowcomm_node.core.versions import Versions
from lowcomm_node.errors import RefusalReason
from lowcomm_node.units import Codec, Dtype, Factor, MeetingId, Omega, RunId, Stream
from lowcomm_node.wire.admission import Invitation
from lowcomm_node.wire.certificate import certificate_der, contents, signature_of
from lowcomm_node.wire.channel import Claim, write_proof, write_welcome
from lowcomm_node.wire.frames import to_frames
from lowcomm_node.wire.meeting import MeetingLimits
from lowcomm_node.wire.peer_id import peer_id_of_key
from lowcomm_node.wire.records import sign_member
from lowcomm_node.wire.state import Snapshot, ask_for_description, encode_fingerprint

VECTORS = Path(__file__).parent / "vectors" / "lowcomm-v1.json"

RUN = RunId("00112233445566778899aabbccddeeff" * 2)
MEETING = MeetingId("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OWN = peer_id_of_key(KEY.public_key().public_bytes_raw())
_OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
OTHER = peer_id_of_key(_OTHER_KEY.public_key().public_bytes_raw())

MEMBER = Member(peer=OWN, grpc_address="203.0.113.5:31337", progress_steps=123.25, has_state=True, expires_at=2000.5)
RECORD = sign_member(MEMBER, run_id=RUN, protocol_version=1, sign=KEY.sign)
FROZEN_MEMBER = replace(MEMBER, frozen=FrozenNote(epoch=3, digest=RUN, factor=Factor.B))
FROZEN_RECORD = sign_member(FROZEN_MEMBER, run_id=RUN, protocol_version=1, sign=KEY.sign)
_TLS_KEY = derive_private_key(int.from_bytes(bytes(range(32))), SECP256R1())
CERTIFICATE = signature_of(
    _TLS_KEY.public_key(), _TLS_KEY.sign(contents(_TLS_KEY.public_key()), ECDSA(SHA256(), deterministic_signing=True))
)
_ORGANISER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34)))
ORGANISER = peer_id_of_key(_ORGANISER_KEY.public_key().public_bytes_raw())
INVITATION = Invitation.make(RUN, 3000, _ORGANISER_KEY.sign, peer=None, secret=bytes(range(3, 35)))
ADMISSION = INVITATION.admission_of(OWN)
INVITED_RECORD = sign_member(
    replace(MEMBER, certificate=CERTIFICATE), run_id=RUN, protocol_version=1, sign=KEY.sign, admission=ADMISSION
)
CLAIM = Claim(
    versions=Versions(oldest=1, newest=3),
    run_id=RUN,
    sender=OWN,
    receiver=OTHER,
    certificate_sha256=sha256(certificate_der(CERTIFICATE)).digest(),
    nonce=bytes(range(32)),
    issued_at=1999.5,
)
TOKEN = bytes(range(4, 36))
PROOF = write_proof(CLAIM, KEY.sign, ADMISSION)
WELCOME = write_welcome(CLAIM, TOKEN, 1, _OTHER_KEY.sign)
SNAPSHOT = Snapshot(
    total_bytes=1500,
    chunk_bytes=1024,
    digests=(sha256(b"first").digest(), sha256(b"second").digest()),
    progress_steps=99.5,
)
FINGERPRINT = Fingerprint(
    progress_steps=99.5, sketch=(0.5, -2.0, 0.0), norms=(("params", 2.25), ("displacement", 0.125))
)

LIMITS = MeetingLimits(run_id=RUN, peer_id=OTHER, protocol_version=1, max_payload_bytes=1 << 20, max_tensors=8)

OFFER = Offer(
    meeting_id=MEETING,
    run_id=RUN,
    protocol_version=1,
    sender=OWN,
    receiver=OTHER,
    plans=(
        StreamPlan(stream=Stream.PARAMS, codec=Codec.AB, dtype=Dtype.BF16, ranks=(4, -1, 0, 16)),
        StreamPlan(stream=Stream.EXP_AVG, codec=Codec.DENSE, dtype=Dtype.FP32, ranks=(-1, -1, -1, -1)),
        StreamPlan(stream=Stream.EXP_AVG_SQ, codec=Codec.RANK1, dtype=Dtype.FP32, ranks=(1, -1, 1, 1)),
    ),
    parts=(b"offered parameters", b"offered first moments", b""),
    progress_steps=122.5,
    member=RECORD,
)

MESSAGES: dict[str, Message] = {
    "offer": OFFER,
    "offer_with_omega": replace(
        OFFER, plans=(replace(OFFER.plans[0], dtype=Dtype.INT4, omega=Omega.CACHED),), parts=(b"i",)
    ),
    "offer_in_coordinates": replace(
        OFFER,
        plans=(
            StreamPlan(
                stream=Stream.PARAMS, codec=Codec.DENSE, dtype=Dtype.BF16, ranks=(-1, -1), frozen=RUN, factor=Factor.B
            ),
        ),
        parts=(b"i",),
    ),
    "offer_of_a_newcomer": replace(OFFER, plans=OFFER.plans[:1], parts=(b"i",), weight=0.25),
    "answer": Answer(meeting_id=MEETING, parts=(b"answered", b"", b"moments"), progress_steps=124.0),
    "answer_with_clip_norms": Answer(
        meeting_id=MEETING, parts=(b"answered", b"m"), progress_steps=124.0, clip_norms=(0.75, math.inf)
    ),
    "answer_of_a_newcomer": Answer(meeting_id=MEETING, parts=(b"a",), progress_steps=124.0, weight=0.25),
    "close": Close(meeting_id=MEETING, parts=(b"closing",)),
    "close_with_scales": Close(meeting_id=MEETING, parts=(b"closing", b""), scales=(0.125, 1.0)),
    "close_without_payload": Close(meeting_id=MEETING, parts=(b"", b"")),
    "verdict_applied": Verdict(meeting_id=MEETING, applied=True),
    "verdict_refused": Verdict(meeting_id=MEETING, applied=False, reason=RefusalReason.EXPIRED),
    "confirm": Confirm(meeting_id=MEETING),
    "busy": Busy(meeting_id=MEETING),
    "refusal": Refusal(meeting_id=MEETING, reason=RefusalReason.WRONG_RUN),
}


def vectors() -> dict[str, list[str]]:
    """All samples in hexadecimal; a message is a list of frames."""
    frames = {
        name: [frame.SerializeToString().hex() for frame in to_frames(message)] for name, message in MESSAGES.items()
    }
    return frames | {
        "member_record": [RECORD.hex()],
        "member_record_of_the_invited": [INVITED_RECORD.hex()],
        "member_record_with_frozen_factors": [FROZEN_RECORD.hex()],
        "describe_frozen_factors": [ask_for_description(RUN, 1, frozen=RUN).hex()],
        "channel_proof": [PROOF.hex()],
        "channel_welcome": [WELCOME.hex()],
        "snapshot": [SNAPSHOT.encode(RUN).hex()],
        "fingerprint": [encode_fingerprint(FINGERPRINT, RUN).hex()],
    }


if __name__ == "__main__":
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text(json.dumps(vectors(), indent=1) + "\n")
