"""A connection in virtual time: real frames, read by the real reader, that may be damaged on their way."""

from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from random import Random

from lowcomm_node.core.messages import Message
from lowcomm_node.units import LinkKind, MeetingId, PeerId
from lowcomm_node.wire.frames import decode_frame, to_frames
from lowcomm_node.wire.gen.lowcomm.v1 import meeting_pb2
from lowcomm_node.wire.meeting import MeetingLimits, MeetingReader
from lowcomm_node.wire.peer_id import peer_id_of_key

__all__ = ["VirtualLink", "as_bytes", "damaged", "virtual_peer"]


@lru_cache(maxsize=1 << 16)
def virtual_peer(index: int) -> PeerId:
    """A peer id as the wire wants it; nobody needs the key that belongs to it."""
    return peer_id_of_key(sha256(f"virtual peer {index}".encode()).digest())


@dataclass(eq=False, slots=True)
class VirtualLink:
    """One stream of one meeting; ``dialler``, its initiator, has opened it or had it opened."""

    meeting_id: MeetingId
    dialler: PeerId
    answerer: PeerId
    kind: LinkKind = LinkKind.GRPC
    is_open: bool = True
    closed_by: set[PeerId] = field(default_factory=set)
    """Ends that have said all they will say; they still hear what is under way."""
    _readers: dict[PeerId, MeetingReader] = field(default_factory=dict)

    def ends(self) -> tuple[PeerId, PeerId]:
        return self.dialler, self.answerer

    def other(self, end: PeerId) -> PeerId:
        return self.answerer if end == self.dialler else self.dialler

    def read(self, limits: MeetingLimits, frames: list[bytes]) -> list[Message]:
        """What the frames say to the end that ``limits`` names, its reader as earlier frames have left it.

        Raises RemoteProtocolError.
        """
        reader = self._readers.get(limits.peer_id)
        if reader is None:
            reader = self._readers[limits.peer_id] = MeetingReader(limits, self.other(limits.peer_id))
        read = (reader.feed(decode_frame(frame)) for frame in frames)
        return [message for message in read if message is not None]


def as_bytes(message: Message) -> list[bytes]:
    """The frames of a message as they cross the wire."""
    return [frame.SerializeToString() for frame in to_frames(message)]


def damaged(frames: list[bytes], chance: Random) -> list[bytes]:
    """The same frames with one chunk flipped, cut short, missing or doubled; messages without payload stay whole.

    Headers are left alone: nothing but the transport's own checksum protects them.
    """
    if len(frames) == 1:
        return frames
    victim = chance.randrange(1, len(frames))
    frame = meeting_pb2.MeetingFrame.FromString(frames[victim])
    data = bytearray(frame.chunk.data)
    match chance.choice(("flipped", "flipped", "cut", "missing", "doubled")):
        case "flipped":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "cut":
            del data[chance.randrange(len(data)) :]
        case "missing":
            return frames[:victim] + frames[victim + 1 :]
        case "doubled":
            return [*frames[: victim + 1], *frames[victim:]]
    frame.chunk.data = bytes(data)
    return [*frames[:victim], frame.SerializeToString(), *frames[victim + 1 :]]
