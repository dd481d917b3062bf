"""What a peer's bytes are read by, as targets of a coverage-guided fuzzer: each takes any bytes and raises nothing.

    python -m tests.fuzz.targets TARGET [libFuzzer options] CORPUS_FOLDER

``-atheris_runs=N -seed=S`` bounds and repeats a run. What honest nodes say is written into the folder first.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lowcomm_node.wire", "lowcomm_node.adapters.hello"]):
    from lowcomm_node.adapters import hello as hello_answers
    from lowcomm_node.wire import channel
    from lowcomm_node.wire.frames import decode_frame, to_frames
    from lowcomm_node.wire.meeting import MeetingReader
    from lowcomm_node.wire.records import read_member, sign_member
    from lowcomm_node.wire.state import Snapshot, decode_fingerprint, encode_fingerprint
    from lowcomm_node.wire.state_frames import encode_message, encode_question, read_answer, read_question

from google.protobuf.message import DecodeError

from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.errors import RemoteProtocolError
from lowcomm_node.units import RunId
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from tests.wire import samples

__all__ = ["TARGETS", "run"]

_LENGTH_BYTES = 3


def _frames(data: bytes) -> Iterator[bytes]:
    """Cut at lengths that stand before each frame, as on a stream."""
    while data:
        length = int.from_bytes(data[:_LENGTH_BYTES], "big")
        yield data[_LENGTH_BYTES : _LENGTH_BYTES + length]
        data = data[_LENGTH_BYTES + length :]


def _framed(frames: list[bytes]) -> bytes:
    return b"".join(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame for frame in frames)


def meeting(data: bytes) -> None:
    """Frames of one direction of a meeting."""
    reader = MeetingReader(samples.LIMITS, samples.OWN)
    try:
        for frame in _frames(data):
            reader.feed(decode_frame(frame))
    except RemoteProtocolError:
        return


def record(data: bytes) -> None:
    """A member record from the DHT or an offer."""
    try:
        read_member(data, run_id=samples.RUN, protocol_version=1, now=1000.0)
    except RemoteProtocolError:
        return


def snapshot(data: bytes) -> None:
    """A donor's description of its state, and chunks of it."""
    frames = list(_frames(data))
    try:
        told = Snapshot.decode(frames[0] if frames else b"", run_id=samples.RUN, max_bytes=1 << 30)
        for frame in frames[1:]:
            told.check_chunk(frame, {0, 1})
    except RemoteProtocolError:
        return


def fingerprint(data: bytes) -> None:
    """What a member says its state looks like."""
    try:
        decode_fingerprint(data, samples.RUN)
    except RemoteProtocolError:
        return


def question(data: bytes) -> None:
    """About a state, and the answer to one: a first byte says which."""
    try:
        (read_question if data[:1] == b"?" else read_answer)(data[1:])
    except RemoteProtocolError:
        return


def hello(data: bytes) -> None:
    """The answer to a joiner's first question."""
    try:
        response = records_pb2.HelloResponse.FromString(data)
    except DecodeError:
        return  # where hivemind parses it, the directory takes it for no answer
    try:
        hello_answers.read_welcome(response, run_id=None, versions=SPOKEN, between=(999.0, 1001.0))
    except RemoteProtocolError:
        return


_CLAIM = channel.Claim(
    versions=SPOKEN,
    run_id=samples.RUN,
    sender=samples.OWN,
    receiver=samples.OWN,
    certificate_sha256=channel.NO_CERTIFICATE,
    nonce=bytes(channel.NONCE_BYTES),
    issued_at=1000.0,
)


def proof(data: bytes) -> None:
    """What a caller says of itself on a new connection."""
    try:
        channel.read_proof(
            data,
            own=samples.OWN,
            run_id=samples.RUN,
            protocol_version=1,
            certificate_sha256=channel.NO_CERTIFICATE,
        )
    except RemoteProtocolError:
        return


def welcome(data: bytes) -> None:
    """What the other end answers to it."""
    try:
        channel.read_welcome(data, _CLAIM)
    except RemoteProtocolError:
        return


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (meeting, record, snapshot, fingerprint, question, hello, proof, welcome)
}


def seeds(target: str) -> list[bytes]:
    """What honest nodes say there."""
    match target:
        case "meeting":
            spoken = [
                [frame.SerializeToString() for frame in to_frames(message)] for message in samples.MESSAGES.values()
            ]
            cut_short = [frames[1:] for frames in spoken if len(frames) > 1]
            doubled = [[frame for frame in frames for _ in range(2)] for frames in spoken]
            return [
                _framed(frames)
                for frames in (*spoken, *cut_short, *doubled, [frame for frames in spoken for frame in frames])
            ]
        case "record":
            return [samples.RECORD]
        case "snapshot":
            return [_framed([samples.SNAPSHOT.encode(samples.RUN)])]
        case "fingerprint":
            return [encode_fingerprint(samples.FINGERPRINT, samples.RUN)]
        case "question":
            return [b"?" + encode_question("Fetch", b"x"), b"!" + encode_message(b"x")]
        case "proof":
            return [channel.write_proof(_CLAIM, samples.KEY.sign)]
        case "welcome":
            return [channel.write_welcome(_CLAIM, bytes(channel.TOKEN_BYTES), 1, samples.KEY.sign)]
    manifest = b"any"
    run_id = sha256(manifest).digest()
    record_of_run = sign_member(samples.MEMBER, run_id=RunId(run_id.hex()), protocol_version=1, sign=samples.KEY.sign)
    signed = records_pb2.SignedRecord.FromString(record_of_run)
    response = records_pb2.HelloResponse(
        protocol_version=1, run_id=run_id, manifest=manifest, member=signed, now=1000.0
    )
    return [response.SerializeToString()]


def run(targets: Mapping[str, Callable[[bytes], None]], first: Callable[[str], list[bytes]]) -> None:
    """Write the first corpus of the target named on the command line into the folder named last, and fuzz."""
    program, name, *options = sys.argv
    folder = Path(options[-1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(first(name)):
        (folder / f"seed-{number}").write_bytes(data)
    atheris.Setup([program, *options], targets[name])
    atheris.Fuzz()  # ends the process: with 0, or with a status of its own when a target has raised


if __name__ == "__main__":
    run(TARGETS, seeds)
