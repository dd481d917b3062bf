"""Milestones of a node's start: when each was seen first."""

from lowcomm_node.bench.starts import Milestones, Moment, medians, milestones_of

_JOIN = [
    Moment(after_s=0.5, state=""),
    Moment(after_s=2.0, state="connecting"),
    Moment(after_s=3.0, state="syncing"),
    Moment(after_s=4.0, state="training", validation_loss=2.5, swarm_loss=2.0),
    Moment(after_s=5.0, state="training", steps=3, validation_loss=2.5, swarm_loss=2.1),
    Moment(after_s=7.0, state="training", steps=9, validation_loss=2.0, swarm_loss=2.1),
    Moment(after_s=8.0, state="training", steps=12, validation_loss=1.9, swarm_loss=2.0),
]


def test_the_first_sight_counts() -> None:
    """Of each, and the loss only once it is no worse than the worst of the others'."""
    assert milestones_of(_JOIN) == Milestones(
        answers_s=2.0, syncing_s=3.0, training_s=4.0, first_step_s=5.0, swarm_loss_s=7.0
    )


def test_what_has_not_come_to_pass_is_unknown() -> None:
    """A loss that nobody has measured yet is not a good one, and without others there is none to be compared with."""
    first = [
        Moment(after_s=1.0, state="training", steps=1, swarm_loss=2.0),
        Moment(after_s=2.0, state="training", steps=2, validation_loss=2.0),
    ]

    assert milestones_of(first) == Milestones(answers_s=1.0, training_s=1.0, first_step_s=1.0)
    assert milestones_of([]) == Milestones()


def test_medians_are_of_what_all_rounds_have_reached() -> None:
    """One that a round lacks would flatter the others."""
    rounds = [
        Milestones(first_step_s=3.0, swarm_loss_s=9.0),
        Milestones(first_step_s=1.0),
        Milestones(first_step_s=2.0, swarm_loss_s=8.0),
    ]

    assert medians(rounds) == {"first_step_s": 2.0}
    assert medians([]) == {}
