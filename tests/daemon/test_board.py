"""daemon.board: what is told of the swarm, and whom discovery names."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowcomm_node.adapters.vitals_book import VitalsBook
from lowcomm_node.algo.consensus import count_sketch, sketch_spread, spread
from lowcomm_node.core.events import Member
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
    """Loss, folded sketch, and the address only when it is published."""
    book = VitalsBook()
    status = Status(training=TrainingStatus(validation_loss=3.0, sketch=range(64), sketch_mark=7))

    Board(MetricsSettings(), book, lambda: NOW).show(status, None, 0.0)
    assert book.own == Vitals(validation_loss=3.0, sketch=fold(range(64)), sketch_mark=7)
    Board(MetricsSettings(publish="a:1"), book, lambda: NOW).show(status, None, 0.0)
    assert book.own.metrics_address == "a:1"


def test_the_swarm_in_two_numbers() -> None:
    """Median loss of the others, so that no single one decides it; nothing known is 0."""
    others = [Vitals(validation_loss=loss) for loss in (1.0, 2.0, 900.0)] + [Vitals(sketch=(1.0,) * 16)]

    assert swarm_status(Vitals(), others, 100) == SwarmStatus(members=4, validation_loss=2.0)
    assert swarm_status(Vitals(), [], 100) == SwarmStatus()


def test_the_spread_is_the_one_of_the_algorithms() -> None:
    """The same formula without tensors; and near the true spread of replicas, as a sketch can be."""
    generator = torch.Generator().manual_seed(0)
    replicas = [torch.randn(4000, generator=generator) * 0.1 + 1.0 for _ in range(12)]
    folded = [fold(count_sketch([replica]).tolist()) for replica in replicas]

    own, *others = (Vitals(sketch=sketch) for sketch in folded)
    estimate = swarm_status(own, others, 4000).spread

    assert estimate == pytest.approx(sketch_spread([torch.tensor(sketch) for sketch in folded], 4000), rel=1e-4)
    assert math.isclose(estimate, spread([{"x": replica} for replica in replicas]), rel_tol=0.35)


def test_only_sketches_of_one_mark_are_compared() -> None:
    """Those of the mark that most members have passed, of several the newest, our own or not: how far a node has come is no spread."""

    def told(value: float, mark: int) -> Vitals:
        return Vitals(sketch=(value,) + (0.0,) * 15, sketch_mark=mark)

    alike = swarm_status(told(1.0, 3), [told(2.0, 3)], 100).spread
    assert alike == pytest.approx(0.5 / 10)
    assert swarm_status(told(1000.0, 4), [told(1.0, 3), told(2.0, 3)], 100).spread == pytest.approx(
        alike * math.sqrt(2 * 2 / 3)
    )
    assert swarm_status(told(1.0, 4), [told(2.0, 4), told(7.0, 3), told(70.0, 3)], 100).spread == pytest.approx(
        alike * math.sqrt(2 * 3 / 4)
    )
    assert swarm_status(told(1.0, 4), [told(1.0, 3)], 100).spread == 0.0
    assert swarm_status(Vitals(), [told(1.0, 3)], 100).spread == 0.0


@given(
    st.lists(st.floats(-10, 10), min_size=3, max_size=6, unique=True).flatmap(
        lambda values: st.tuples(st.just(values), st.integers(2, len(values)))
    )
)
def test_the_square_is_unbiased_whoever_has_passed_the_mark(drawn: tuple[list[float], int]) -> None:
    """On average over all choices of n of N members the squared estimate is the squared spread of all N: exactly, not nearly."""
    values, at_mark = drawn
    truth = spread([{"x": torch.tensor([value], dtype=torch.float64)} for value in values]) ** 2
    squares = []
    for chosen in itertools.combinations(range(len(values)), at_mark):
        own, *others = (
            # Who has not passed the mark yet stands at one of its own, so that no two of those are alike.
            Vitals(sketch=(value,) + (0.0,) * 15, sketch_mark=1000 if index in chosen else index)
            for index, value in enumerate(values)
        )
        squares.append(swarm_status(own, others, 1).spread ** 2)

    assert sum(squares) / len(squares) == pytest.approx(truth, rel=1e-6, abs=1e-12)


def test_the_square_is_unbiased_over_the_hash() -> None:
    """From folded sketches of 300 hashes: the mean of the squares is the true one within five standard errors."""
    generator = torch.Generator().manual_seed(3)
    replicas = [torch.randn(500, generator=generator) * 0.1 + 1.0 for _ in range(5)]
    truth = spread([{"x": replica} for replica in replicas]) ** 2
    trials = 300
    squares = []
    for seed in range(trials):
        folded = [fold(count_sketch([replica], seed=seed).tolist()) for replica in replicas]
        own, *others = (Vitals(sketch=sketch, sketch_mark=1) for sketch in folded)
        squares.append(swarm_status(own, others, 500).spread ** 2)

    ratios = torch.tensor(squares, dtype=torch.float64) / truth
    assert abs(float(ratios.mean()) - 1) < 5 * float(ratios.std()) / math.sqrt(trials)
    assert float(ratios.std()) < 2 * math.sqrt(2 / 16 / 4)
