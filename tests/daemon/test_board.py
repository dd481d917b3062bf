"""daemon.board: what is told of the swarm, and whom discovery names."""

import pytest

from lowcomm_node.adapters.vitals_book import VitalsBook
from lowcomm_node.core.events import Member
from lowcomm_node.core.spread import MarkedSketch
from lowcomm_node.daemon.board import Board, swarm_status
from lowcomm_node.settings.node import MetricsSettings
from lowcomm_node.units import PeerId
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import Status, SwarmStatus, TrainingStatus
from lowcomm_node.wire.records import sign_member
from lowcomm_node.wire.vitals import Vitals, fold
from tests.wire.samples import KEY, OWN, RUN

NOW = 1000.0


def _book(**addresses: str) -> VitalsBook:
    """Others that publish these addresses; who they are is not looked at here."""
    book = VitalsBook()
    for peer, address in addresses.items():
        member = Member(peer=OWN, grpc_address="192.0.2.1:1", progress_steps=0.0, has_state=True, expires_at=NOW + 60)
        vitals = Vitals(validation_loss=2.0, metrics_address=address)
        record = sign_member(member, run_id=RUN, protocol_version=1, sign=KEY.sign, vitals=vitals)
        book.learn(
            Member(peer=PeerId(peer), grpc_address="", progress_steps=0.0, has_state=True, expires_at=NOW + 60), record
        )
    return book


def _targets(settings: MetricsSettings, book: VitalsBook, local: str = "192.0.2.9:9464") -> list[object]:
    board = Board(settings, book, lambda: NOW)
    board.show(Status(peer_id="own", run_id="ab"), None, 0.0)
    return [target["targets"] for target in board.targets(local)]


def test_nobody_but_this_node_is_named_unless_wished() -> None:
    """Whoever reads discovery fetches from what stands there, and members write into their records what they like."""
    assert _targets(MetricsSettings(), _book(a="192.0.2.1:9464")) == [["192.0.2.9:9464"]]


def test_members_that_publish_are_named_by_wish() -> None:
    """The own address as published; the others' in the order of their ids; who keeps his to himself is not there."""
    settings = MetricsSettings(publish="me.example:1", discover="on")

    found = _targets(settings, _book(b="192.0.2.2:9464", a="a.example:9464", c=""))

    assert found == [["me.example:1"], ["a.example:9464"], ["192.0.2.2:9464"]]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:80", "localhost:80", "[::1]:80", "169.254.169.254:80", "0.0.0.0:80", "[fe80::1]:80", "224.0.0.1:80"],
)
def test_no_member_points_others_at_their_own_machine(address: str) -> None:
    """Loopback, link-local (clouds keep secrets there), nowhere and multicast mean something else to each reader."""
    assert _targets(MetricsSettings(discover="on"), _book(a=address)) == [["192.0.2.9:9464"]]


def test_on_one_computer_loopback_is_a_place_like_others() -> None:
    """A swarm for trying out has no other addresses; who publishes one itself is in such a swarm, and nobody else."""
    book = _book(a="127.0.0.1:2")

    found = _targets(MetricsSettings(discover="on", publish="127.0.0.1:1"), book, local="127.0.0.1:1")

    assert found == [["127.0.0.1:1"], ["127.0.0.1:2"]]
    assert _targets(MetricsSettings(discover="on"), book, local="127.0.0.1:1") == [["127.0.0.1:1"]]


@pytest.mark.parametrize(
    ("dialled", "published"),
    [
        ("192.0.2.7:4002", "192.0.2.7:9464"),
        ("[2001:db8::7]:4002", "[2001:db8::7]:9464"),
        ("0.0.0.0:4002", ""),
        ("", ""),
    ],
)
def test_a_port_alone_is_one_of_the_host_that_others_dial(dialled: str, published: str) -> None:
    """In a container that host is known to others only; as long as nobody has told, nothing is published."""
    book = VitalsBook()
    board = Board(MetricsSettings(publish=":9464"), book, lambda: NOW)

    board.show(Status(peer_id="own", grpc_address=dialled), None, 0.0)

    assert book.own.metrics_address == published
    assert board.targets("127.0.0.1:9464")[0]["targets"] == [published or "127.0.0.1:9464"]


def test_own_vitals_go_where_records_are_made() -> None:
    """Loss, folded sketches, and the address only when it is published."""
    book = VitalsBook()
    status = Status(training=TrainingStatus(validation_loss=3.0, sketch=range(64), sketch_mark=7))
    status.training.older_sketches.add(mark=0, sums=[1.0] * 64)

    Board(MetricsSettings(), book, lambda: NOW).show(status, None, 0.0)
    assert book.own == Vitals(
        validation_loss=3.0,
        sketches=(MarkedSketch(7, fold(range(64))), MarkedSketch(0, (4.0,) * 16)),
    )
    Board(MetricsSettings(publish="a:1"), book, lambda: NOW).show(status, None, 0.0)
    assert book.own.metrics_address == "a:1"


def test_the_swarm_in_two_numbers() -> None:
    """Median loss of the others, so that no single one decides it; nothing known is 0."""
    others = [Vitals(validation_loss=loss) for loss in (1.0, 2.0, 900.0)] + [
        Vitals(sketches=(MarkedSketch(1, (1.0,) * 16),))
    ]

    assert swarm_status(Vitals(), others, 100) == SwarmStatus(members=4, validation_loss=2.0)
    assert swarm_status(Vitals(), [], 100) == SwarmStatus()


def test_the_spread_is_over_this_node_and_the_others() -> None:
    """As ``core.spread`` has it, from sketches of one mark."""
    own, other = (Vitals(sketches=(MarkedSketch(3, (value,) + (0.0,) * 15),)) for value in (1.0, 2.0))

    assert swarm_status(own, [other], 100).spread == pytest.approx(0.05)
    assert swarm_status(Vitals(), [other], 100).spread == 0.0
