"""What meetings ask of a trainer, told apart by what there is to do: which request, and about what."""

from collections.abc import Iterable
from enum import StrEnum

from lowcomm_node.core.commands import ApplyClose, Command, EncodeAnswer, EncodeClose, EncodeOffer, SettleMeeting
from lowcomm_node.core.messages import StreamPlan
from lowcomm_node.units import MeetingId

__all__ = ["Request", "RequestKey", "Requests", "meeting_kind"]


class Request(StrEnum):
    """In the order of a meeting; the values are the words of tables."""

    OFFER = "offer"
    ANSWER = "answer"
    CLOSE = "close"
    APPLY = "apply"
    SETTLE = "settle"


RequestKey = tuple[Request, str]
"""The request and its kind: that of the meeting (``meeting_kind``), but of an offer, which has no plan yet, its streams."""


def meeting_kind(plans: Iterable[StreamPlan]) -> str:
    """Stream, codec and format of all that a meeting exchanges, e.g. ``params/sparse/int4 + exp_avg_sq/rank1/fp32``."""
    return " + ".join(f"{plan.stream}/{plan.codec}/{plan.dtype}" for plan in plans)


class Requests:
    """Names the requests of a swarm's meetings. The plans of a meeting are known from the command to answer its offer on."""

    def __init__(self) -> None:
        self._kinds: dict[MeetingId, str] = {}

    def saw(self, command: Command) -> None:
        """Learn a meeting's plans."""
        if isinstance(command, EncodeAnswer):
            self._kinds[command.offer.meeting_id] = meeting_kind(command.offer.plans)

    def named(self, command: Command) -> tuple[MeetingId, RequestKey] | None:
        """The meeting and what is asked for; None of a command that asks for no work, or of a meeting with unknown plans."""
        match command:
            case EncodeOffer(meeting_id=meeting_id, streams=streams, is_dense=is_dense):
                return meeting_id, (Request.OFFER, " + ".join(streams) + (" dense" if is_dense else ""))
            case EncodeAnswer(offer=offer):
                return self._of(offer.meeting_id, Request.ANSWER)
            case EncodeClose(answer=answer):
                return self._of(answer.meeting_id, Request.CLOSE)
            case ApplyClose(close=close):
                return self._of(close.meeting_id, Request.APPLY)
            case SettleMeeting(meeting_id=meeting_id):
                return self._of(meeting_id, Request.SETTLE)
            case _:
                return None

    def _of(self, meeting_id: MeetingId, request: Request) -> tuple[MeetingId, RequestKey] | None:
        kind = self._kinds.get(meeting_id)
        return (meeting_id, (request, kind)) if kind is not None else None
