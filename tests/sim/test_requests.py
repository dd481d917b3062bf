"""Requests by name and kind."""

from lowcomm_node.core.commands import CloseLink, DropMeeting, EncodeAnswer, EncodeClose, EncodeOffer, SettleMeeting
from lowcomm_node.core.messages import Answer, Offer, StreamPlan
from lowcomm_node.sim.requests import Request, Requests
from lowcomm_node.sim.swarm import VIRTUAL_RUN
from lowcomm_node.units import Codec, Dtype, MeetingId, PeerId, Stream

_ID = MeetingId("m")
_PLAN = StreamPlan(stream=Stream.PARAMS, codec=Codec.SPARSE, dtype=Dtype.INT4, ranks=(1,))
_KIND = "params/sparse/int4"


def test_requests_are_told_apart_by_what_is_to_be_done() -> None:
    """An offer by its streams, everything after it by the plan that the offer has brought."""
    requests = Requests()
    offer = Offer(
        meeting_id=_ID, run_id=VIRTUAL_RUN, protocol_version=1, sender=PeerId("a"), receiver=PeerId("b"),
        plans=(_PLAN,), parts=(b"",), progress_steps=0.0,
    )  # fmt: skip
    answer = EncodeClose(answer=Answer(meeting_id=_ID, parts=(b"",), progress_steps=0.0))
    ask = EncodeOffer(meeting_id=_ID, streams=(Stream.PARAMS, Stream.EXP_AVG_SQ))

    assert requests.named(ask) == (_ID, (Request.OFFER, "params + exp_avg_sq"))
    assert requests.named(answer) is None
    requests.saw(EncodeAnswer(offer=offer))
    assert requests.named(EncodeAnswer(offer=offer)) == (_ID, (Request.ANSWER, _KIND))
    assert requests.named(answer) == (_ID, (Request.CLOSE, _KIND))
    assert requests.named(SettleMeeting(meeting_id=_ID)) == (_ID, (Request.SETTLE, _KIND))


def test_a_dense_offer_is_another_request() -> None:
    """Whole tensors are another work than a few coordinates."""
    dense = EncodeOffer(meeting_id=_ID, streams=(Stream.PARAMS,), is_dense=True)

    assert Requests().named(dense) == (_ID, (Request.OFFER, "params dense"))


def test_what_is_no_work_has_no_name() -> None:
    """Forgetting a meeting, and what is not for the trainer at all."""
    assert Requests().named(DropMeeting(meeting_id=_ID)) is None
    assert Requests().named(CloseLink(meeting_id=_ID)) is None
