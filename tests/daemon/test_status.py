"""The node's status in the wire's form."""

import math
from dataclasses import replace

from lowcomm_node.daemon.recorder import MeetingTally
from lowcomm_node.daemon.status import training_status
from lowcomm_node.train.messages import Report
from lowcomm_node.units import PeerId


def test_how_batches_are_taken_is_in_the_status() -> None:
    """What the trainer does now, however it came to it: its settings, its memory file or a lack of memory."""
    report = Report(
        steps=3, tokens=1, loss=1.0, validation_loss=math.nan, learning_rate=0.1, gradient_norm=1.0,
        progress_steps=3.0, step_seconds=0.1, tokens_per_second=1.0, micro_batches=4,
    )  # fmt: skip

    assert training_status(report, None, None, math.nan, 0).micro_batches == 4
    assert training_status(None, None, None, math.nan, 0).micro_batches == 0


def test_accuracy_is_told_where_it_has_a_meaning() -> None:
    """Right never is not the same as not known."""
    report = Report(
        steps=3, tokens=1, loss=1.0, validation_loss=2.0, learning_rate=0.1, gradient_norm=1.0,
        progress_steps=3.0, step_seconds=0.1, tokens_per_second=1.0, validation_accuracy=0.0,
    )  # fmt: skip

    status = training_status(report, None, None, math.nan, 0)
    assert (status.HasField("validation_accuracy"), status.validation_accuracy) == (True, 0.0)
    of_text = training_status(replace(report, validation_accuracy=math.nan), None, None, math.nan, 0)
    assert not of_text.HasField("validation_accuracy")


def test_whom_the_node_met_is_remembered_within_bounds() -> None:
    """Whoever had started it, and though the partner's record has run out since; identities cost nothing, so not for ever."""
    tally = MeetingTally()
    for _ in range(3):
        tally.met(PeerId("again"))
    assert tally.partners == {PeerId("again"): 3}

    for number in range(5000):
        tally.met(PeerId(f"p{number}"))
    assert len(tally.partners) == 4096
    assert PeerId("p4999") in tally.partners
