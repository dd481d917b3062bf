"""What ``plan --against`` estimates of messages, beside what replicas in a virtual swarm really send."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from lowcomm_node.cli import app
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.plan.against import estimated
from lowcomm_node.core.commands import Command, OpenLink, Send
from lowcomm_node.core.events import Event
from lowcomm_node.core.messages import Answer, Close, Offer
from lowcomm_node.settings.manifest import Manifest, MeetingConfig, ModelConfig, TrainingConfig
from lowcomm_node.sim.perform import simulate
from lowcomm_node.sim.scenario import Level, Scenario, Speeds
from lowcomm_node.telemetry.flight.recorder import Entry
from lowcomm_node.train.meeting_sizes import meeting_sizes

MOST_ERROR = 0.02


@pytest.mark.parametrize("codec", ["sparse", "dense"])
def test_the_estimate_of_what_happened_is_what_was_sent(tmp_path: Path, codec: str) -> None:
    """Within 2 %, meetings that came to nothing included; the dense last phase as well."""
    text = tmp_path / "text.txt"
    text.write_text("what one node learns, the others hear of sooner or later. " * 200)
    manifest = Manifest(
        model=ModelConfig(num_layers=1, num_heads=2, d_model=32, d_ff=32, context_length=8),
        training=TrainingConfig(batch_size=2, total_steps=300, warmup_steps=5),
        meeting=MeetingConfig(params_every_steps=3, codec=codec, exp_avg_sq_every_steps=9),
    )
    scenario = Scenario(
        level=Level.TRAINING,
        nodes=4,
        minutes=0.75,
        network="loopback",
        speeds=Speeds.EQUAL,
        manifest=manifest,
        data=(str(text),),
    )
    entries: list[Entry] = []
    sent: Counter[str] = Counter()

    def saw(now: float, event: Event, commands: Sequence[Command]) -> None:
        entries.append(Entry(number=len(entries) + 1, now=now, event=event, commands=tuple(commands)))
        for command in commands:
            if isinstance(command, OpenLink | Send) and isinstance(command.message, Offer | Answer | Close):
                sent["all"] += sum(map(len, command.message.parts))

    report = simulate(scenario, on_decision=saw)
    totals = estimated(entries, meeting_sizes(manifest))

    assert report.meetings.completed > 20
    assert totals["sent all"] == pytest.approx(sent["all"], rel=MOST_ERROR)
    assert totals["received all"] == pytest.approx(sent["all"], rel=MOST_ERROR)
    assert 0 < totals["sent completed"] <= totals["sent all"]
    assert totals["sent completed"] == totals["received completed"]


def test_a_folder_without_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Says how to make some."""
    (tmp_path / "run.toml").write_text("")

    assert app.main(["plan", "--against", str(tmp_path)]) == ExitCode.CANNOT_CREATE
    assert "swarm --recordings" in capsys.readouterr().err
