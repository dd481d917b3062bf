"""Questions about a member's state, and the answers, where they cross a stream of frames."""

from google.protobuf.message import DecodeError

from lowcomm_node.errors import LinkError, RefusalReason, RemoteProtocolError
from lowcomm_node.wire.gen.lowcomm.v1 import state_pb2

__all__ = ["encode_message", "encode_question", "encode_refusal", "read_answer", "read_question", "refused"]

_MAX_SENTENCE = 300


def encode_question(method: str, request: bytes) -> bytes:
    """The one frame of who asks."""
    return state_pb2.StateQuestion(method=method, request=request).SerializeToString()


def read_question(data: bytes) -> tuple[str, bytes]:
    """Method and request. Raises RemoteProtocolError."""
    try:
        question = state_pb2.StateQuestion.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError(RefusalReason.MALFORMED, "a question about the state that cannot be read") from error
    return question.method, question.request


def encode_message(message: bytes) -> bytes:
    """A frame of the answer; there may be several."""
    return state_pb2.StateAnswer(message=message).SerializeToString()


def encode_refusal(error: RemoteProtocolError) -> bytes:
    """The last frame of the answer."""
    return state_pb2.StateAnswer(refusal=f"{error.reason.value}: {error.detail}").SerializeToString()


def read_answer(data: bytes) -> bytes | LinkError | RemoteProtocolError:
    """What the method gives, or why it gives nothing, which blames nobody. Raises RemoteProtocolError: it cannot be read."""
    try:
        answer = state_pb2.StateAnswer.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError(RefusalReason.MALFORMED, "an answer about the state that cannot be read") from error
    if answer.WhichOneof("body") == "message":
        return answer.message
    word, _, sentence = answer.refusal.partition(": ")
    return refused(word, sentence)


def refused(word: str, sentence: str) -> LinkError | RemoteProtocolError:
    """What a donor's refusal means to who has asked: come back later, ask somebody else, or no sense at all."""
    told = f"the donor says: {sentence[:_MAX_SENTENCE]}"
    if word == RefusalReason.TOO_MANY:
        return LinkError("busy", told)
    if word in set(RefusalReason):
        return RemoteProtocolError(RefusalReason(word), told)
    return LinkError("disconnect", told)
