"""Can others dial this node? They try, at no other address than the asker's own, and believe only the asker's proof."""

import pytest

from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.dial_back import DialBack, ask_to_dial
from lowcomm_node.core.reach import DialledBack
from lowcomm_node.errors import DirectoryError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2
from tests.adapters.nodes import RUN, Port, channels_of, run, some_peer, somebody


def question(port: int, certificate: bytes = b"", run_id: bytes = bytes.fromhex(RUN)) -> records_pb2.DialBackRequest:
    return records_pb2.DialBackRequest(run_id=run_id, port=port, certificate=certificate)


def test_an_open_port_is_reached_and_a_closed_one_is_not() -> None:
    """And a port where somebody else answers counts as closed: two nodes may sit behind one router."""

    async def scenario() -> None:
        channels = channels_of(somebody(9), Contacts())
        ann, eve = Port(somebody(1)), Port(somebody(2))
        ports = {}
        for node in (ann, eve):
            member = await node.start()
            ports[member.peer] = int(member.grpc_address.rpartition(":")[2])
        own = ann.member.certificate
        try:
            answers = []
            for port in (ports[ann.member.peer], ports[eve.member.peer], 9):
                service = DialBack(RUN, channels)
                answers.append(await service.serve(ann.member.peer, "127.0.0.1", question(port, own)))
            assert [answer.is_reachable for answer in answers] == [True, False, False]
            assert {answer.host for answer in answers} == {"127.0.0.1"}

            garbled = DialBack(RUN, channels).serve(ann.member.peer, "127.0.0.1", question(1, b"x" * len(own)))
            assert not (await garbled).is_reachable
        finally:
            await ann.server.stop(0)
            await eve.server.stop(0)
            await channels.close()

    run(scenario())


@pytest.mark.parametrize(
    "request_", [question(0), question(70_000), question(80, b"short"), question(80, run_id=b"\xcd" * 32)]
)
def test_what_is_no_question_is_not_tried(request_: records_pb2.DialBackRequest) -> None:
    """No port, no certificate, another run."""

    async def scenario() -> None:
        service = DialBack(RUN, channels_of(somebody(9), Contacts()))
        with pytest.raises(DirectoryError):
            await service.serve(some_peer(1), "127.0.0.1", request_)

    run(scenario())


def test_who_asks_again_at_once_is_told_to_wait() -> None:
    """A node is no port scanner for hire; another asker is served."""

    async def scenario() -> None:
        service = DialBack(RUN, channels_of(somebody(9), Contacts(), allow_plaintext=True))
        await service.serve(some_peer(1), "127.0.0.1", question(9))
        with pytest.raises(DirectoryError, match="in a moment"):
            await service.serve(some_peer(1), "127.0.0.1", question(10))
        await service.serve(some_peer(2), "127.0.0.1", question(9))

    run(scenario())


class Scripted:
    """A session whose peer answers what it is told to."""

    def __init__(self, host: str) -> None:
        self.host = host

    async def dial_back(self, peer: PeerId, request: object) -> records_pb2.DialBackResponse:
        if not self.host:
            raise DirectoryError("no answer in 15 s")
        return records_pb2.DialBackResponse(is_reachable=True, host=self.host)


@pytest.mark.parametrize(
    ("host", "is_global"), [("8.8.8.8", True), ("192.168.1.4", False), ("2001:4860:4860::8888", True), ("::1", False)]
)
def test_an_answer_says_from_where_it_was_tried(host: str, is_global: bool) -> None:
    """Who sees us by a home network's address cannot tell how the internet sees us."""

    async def scenario() -> None:
        answer = await ask_to_dial(Scripted(host), some_peer(1), question(1))  # type: ignore[arg-type]
        assert answer == DialledBack(host=host, is_global=is_global, is_reachable=True)

    run(scenario())


@pytest.mark.parametrize("host", ["", "nonsense", "x" * 5000, "1.2.3.4.5"])
def test_no_answer_and_nonsense_are_none(host: str) -> None:
    """Somebody else may know better."""

    async def scenario() -> None:
        assert await ask_to_dial(Scripted(host), some_peer(1), question(1)) is None  # type: ignore[arg-type]

    run(scenario())
