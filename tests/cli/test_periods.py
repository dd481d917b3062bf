"""What people read about streams, periods and payloads before a run starts."""

from dataclasses import replace

import pytest

from lowcomm_node.cli.periods import payload_text, period_lines, periods_text
from lowcomm_node.settings.manifest import Manifest, MeetingConfig, OptimizerConfig
from lowcomm_node.settings.presets import OPTIMIZERS


def test_each_stream_has_a_line_with_period_and_reason() -> None:
    """The columns stand under each other; a stream that is not exchanged is listed too."""
    first, second, third = period_lines(Manifest(optimizer=OPTIMIZERS["adamw"]))

    assert first == "weights (params)            every 5 steps   set in the manifest"
    assert second.startswith("first moment (exp_avg)      never           beta 0.9 forgets half in 6.6 steps")
    assert third == "second moment (exp_avg_sq)  every 69 steps  half-life of beta 0.99"


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_kind_can_be_described(kind: str) -> None:
    """No stream of any optimizer is without a name."""
    assert period_lines(Manifest(optimizer=OPTIMIZERS[kind]))[0].startswith("weights (params)")


def test_the_line_of_a_swarm_holds_only_what_is_exchanged() -> None:
    """Streams that never meet are left out; a period of one step is not in the plural."""
    slow = Manifest(optimizer=OptimizerConfig(kind="sgd", momentum=0.99), meeting=MeetingConfig(params_every_steps=1))

    assert periods_text(slow) == "params every step, momentum every 69 steps"


@pytest.mark.parametrize(
    ("meeting", "sentence"),
    [
        (
            MeetingConfig(dtype="bf16", budget_bytes=32768, dense_last_ratio=0.05),
            "at most 32 KiB each way for the weights; about 745 KiB, whole, in the last 5% of the run",
        ),
        (
            MeetingConfig(dtype="int4", dense_last_ratio=0.05),
            "at most 46.6 KiB each way for the weights; about 186 KiB, whole, in the last 5% of the run",
        ),
        (MeetingConfig(budget_bytes=32768, dense_last_ratio=0.0), "at most 32 KiB each way for the weights"),
        (MeetingConfig(codec="dense", dtype="fp32"), "about 1.46 MiB each way for the weights, whole"),
    ],
)
def test_the_bytes_of_a_meeting_follow_from_budget_codec_and_format(meeting: MeetingConfig, sentence: str) -> None:
    """381,600 parameters in 32, 16 or 4 bits, and the budget where one holds."""
    assert payload_text(replace(Manifest(), meeting=meeting)) == sentence
