"""Whom a node asks for a state, and what it makes of what they say."""

from dataclasses import replace

from lowcomm_node.core.chance import Chance
from lowcomm_node.core.donors import DonorChoice
from lowcomm_node.core.events import Member
from lowcomm_node.core.fingerprint import Fingerprint, StateFault
from lowcomm_node.units import PeerId

_INITIAL = (1.0, 0.0, 0.0)
_HONEST = Fingerprint(progress_steps=500.0, sketch=(1.0, 1.0, 0.0), norms=(("params", 1.4),))
_FLIPPED = replace(_HONEST, sketch=(-1.0, -1.0, 0.0))


def choice(seed: bytes = b"s", *begun: str) -> DonorChoice:
    return DonorChoice(initial_sketch=_INITIAL, total_steps=1000, chance=Chance(seed), begun=list(map(PeerId, begun)))


def member(name: str, progress_steps: float = 500.0, *, is_public: bool = True, has_state: bool = True) -> Member:
    return Member(
        peer=PeerId(name),
        grpc_address=f"{name}:7" if is_public else "",
        progress_steps=progress_steps,
        has_state=has_state,
        expires_at=1e9,
    )


def test_the_furthest_that_can_be_dialled_are_asked_first() -> None:
    """Four in a round; who has failed comes after all others, however far it says it is; who has no state is not asked."""
    chosen = choice()
    near, far, hidden, none = (
        member("near"),
        member("far", 900.0),
        member("hidden", 950.0, is_public=False),
        member("none", has_state=False),
    )
    crowd = [member(f"m{number}", 100.0 + number) for number in range(4)]

    assert chosen.look([near, hidden, far, none]) == (far, near, hidden)
    chosen.failed(far)
    assert chosen.look([near, hidden, far]) == (near, hidden, far)
    assert chosen.has_failed(far)
    assert chosen.look([*crowd, near, far]) == (near, crowd[3], crowd[2], crowd[1])
    assert chosen.look([]) == ()


def test_who_wants_several_states_asks_each_member_once() -> None:
    """Whose state was taken is asked for none, but still compared with, and may hold another's snapshot."""
    chosen = choice()
    members = [member(name) for name in ("a", "b", "c")]
    chosen.took(chosen.look(members)[0])

    donors = chosen.look(members)

    assert donors == (members[1], members[2])
    assert chosen.references(donors) == [*donors, members[0]]
    assert chosen.holders(donors[0]) == ["b", "a", "c"]


def test_what_was_begun_is_gone_on_with() -> None:
    """Before members that are further on, and those that can be dialled; not before it has failed."""
    chosen = choice(b"s", "hidden")
    near, far, hidden = member("near"), member("far", 900.0), member("hidden", is_public=False)

    assert chosen.look([near, far, hidden]) == (hidden, far, near)
    chosen.failed(hidden)
    assert chosen.look([near, far, hidden]) == (far, near, hidden)


def test_a_donor_is_compared_with_others_and_not_with_itself() -> None:
    """What it claims may be enough to refuse it; with a single other nothing is."""
    chosen = choice()
    donor, *others = (member(name) for name in ("donor", "a", "b"))
    chosen.look([donor, *others])
    chosen.told(donor.peer, _FLIPPED)
    chosen.told(others[0].peer, _HONEST)
    assert chosen.misfit_as_claimed(donor) is None
    assert chosen.num_compared(donor) == 0

    chosen.told(others[1].peer, _HONEST)
    misfit = chosen.misfit_as_claimed(donor)
    assert misfit is not None
    assert misfit.fault is StateFault.DISTANCE
    assert chosen.num_compared(donor) == 2
    assert chosen.misfit(donor, _HONEST) is None
    assert chosen.misfit_as_claimed(others[0]) is None  # one flipped of two others makes the limits wide

    chosen.look([donor, *others])
    assert chosen.num_compared(donor) == 0  # what was said in another round is old


def test_whom_a_donor_is_compared_with_is_drawn_and_bounded() -> None:
    """Six of however many, the donors among them; another seed draws others."""
    crowd = [member(f"m{number}", float(number)) for number in range(40)]
    drawn = []
    for seed in (b"1", b"1", b"2"):
        chosen = choice(seed)
        donors = chosen.look(crowd)
        references = chosen.references(donors)
        assert len(references) == len({reference.peer for reference in references}) == 6
        assert references[:4] == list(donors)
        assert chosen.holders(donors[1])[0] == donors[1].peer
        assert len(chosen.holders(donors[1])) == 40
        drawn.append(references)
    assert drawn[0] == drawn[1] != drawn[2]
