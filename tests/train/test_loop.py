"""The loop between mailbox and replica, without process and pipe."""

import itertools
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from lowcomm_node.algo.consensus import count_sketch
from lowcomm_node.core.commands import ApplyClose, EncodeAnswer, EncodeClose, EncodeOffer, SettleMeeting
from lowcomm_node.core.events import AnswerEncoded, CloseEncoded, CorrectionApplied, EncodingRefused, OfferEncoded
from lowcomm_node.core.messages import Answer, Offer
from lowcomm_node.core.progress import mark_of
from lowcomm_node.errors import RefusalReason, StoreError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.desk import MeetingDesk
from lowcomm_node.train.loop import Trainer
from lowcomm_node.train.messages import (
    CheckpointWritten,
    Failed,
    FingerprintTaken,
    FromTrainer,
    LoadState,
    Report,
    Run,
    SnapshotWritten,
    StateLoaded,
    Stop,
    Stopped,
    TakeFingerprint,
    ToTrainer,
    WriteCheckpoint,
    WriteSnapshot,
)
from lowcomm_node.units import MeetingId, PeerId, Stream
from tests.train.pairs import RUN, Pair, tiny_manifest, tiny_meeting, tiny_session, train

_ID = MeetingId("5" * 32)


class ScriptedMailbox:
    """Gives out requests when the script says so: after so many looks, or when the trainer has nothing to do.

    A script entry is (steps to let the trainer take first, request); ``react`` may add requests to what is posted.
    """

    def __init__(self, *script: tuple[int, ToTrainer]) -> None:
        self.script = deque(script)
        self.posted: list[FromTrainer] = []
        self.react: Callable[[FromTrainer], list[ToTrainer]] = lambda _: []
        self.is_jammed = False
        self._looks = 0

    def take(self) -> ToTrainer | None:
        if self.script and self._looks >= self.script[0][0]:
            self._looks = 0
            return self.script.popleft()[1]
        self._looks += 1
        return None

    def wait(self) -> ToTrainer:
        assert self.script, "the trainer waits for ever"
        self._looks = 0
        return self.script.popleft()[1]

    def post(self, message: FromTrainer) -> None:
        self.posted.append(message)
        for request in self.react(message):
            self.script.appendleft((0, request))

    def has_unsent(self) -> bool:
        return self.is_jammed

    def reports(self) -> list[Report]:
        return [message for message in self.posted if isinstance(message, Report)]


class Clock:
    """Advances by a fixed amount at each look."""

    def __init__(self, tick_s: float = 0.01) -> None:
        self.now, self.tick_s = 0.0, tick_s

    def __call__(self) -> float:
        self.now += self.tick_s
        return self.now


def _run(
    mailbox: ScriptedMailbox,
    manifest: Manifest | None = None,
    clock: Callable[[], float] | None = None,
    num_waits: Callable[[], int] | None = None,
) -> Trainer:
    trainer = Trainer(tiny_session(manifest or tiny_manifest()), mailbox, clock or Clock(1e-4), num_waits)
    trainer.run()
    return trainer


def test_trains_until_stopped_and_reports() -> None:
    """Validation before the first step, then reports whose steps and progress grow, then Stopped as the last word."""
    mailbox = ScriptedMailbox((0, Run()), (30, Stop(path="")))

    trainer = _run(mailbox, clock=Clock(0.02))

    reports = mailbox.reports()
    assert reports[0].steps == 0
    assert reports[0].validation_loss > 4
    assert math.isnan(reports[0].loss)
    assert reports[-1].steps > 20
    assert reports[-1].tokens == reports[-1].steps * 64
    assert reports[-1].validation_loss < reports[0].validation_loss
    assert reports[-1].tokens_per_second > 0
    assert len(reports[-1].sketches[0].sums) > 0
    assert mailbox.posted[-1] == Stopped(path="")
    assert trainer._replica.steps == 30


def test_sketches_are_made_when_progress_passes_a_mark() -> None:
    """Never between two marks, whatever the node validates; the number of the mark goes with each."""
    mailbox = ScriptedMailbox((0, Run()), (30, Stop(path="")))

    trainer = _run(mailbox, clock=Clock(0.02))

    reports = mailbox.reports()
    training = trainer._session.manifest.training
    assert reports[0].sketches == ()
    by_mark: dict[int, set[tuple[float, ...]]] = {}
    for report in reports:
        if report.sketches:
            assert report.sketches[0].mark == mark_of(report.progress_steps, training)
        for mark, sums in report.sketches:
            by_mark.setdefault(mark, set()).add(sums)
    assert len(by_mark) > 1
    assert all(len(sketches) == 1 for sketches in by_mark.values())


def test_a_machine_that_slept_knows_what_it_has_missed() -> None:
    """The others have gone on by about as many steps as fit into the time; after a step of usual length nothing was missed."""
    clock = Clock(0.01)
    mailbox = ScriptedMailbox((0, Run()), (20, TakeFingerprint()), (20, Stop(path="")))
    told: list[int] = []

    def sleep(message: FromTrainer) -> list[ToTrainer]:
        if isinstance(message, FingerprintTaken):
            clock.now += 100.0
        return []

    mailbox.react = sleep
    trainer = Trainer(tiny_session(tiny_manifest()), mailbox, clock)
    with patch.object(trainer._desk, "stood_still", told.append):
        trainer.run()

    (missed,) = told
    assert missed == pytest.approx(100.0 / trainer._step_s, rel=0.3)


def test_a_node_that_was_paused_knows_what_it_has_missed(tmp_path: Path) -> None:
    """Told with its own state, as it was not there to measure it; without a pause nothing was missed."""
    kept = str(tmp_path / "kept")
    _run(ScriptedMailbox((0, Run()), (3, Stop(path=kept))))
    told: list[int] = []
    for away_steps in (0, 5000):
        mailbox = ScriptedMailbox((0, LoadState(path=kept, is_own=True, away_steps=away_steps)), (0, Stop(path="")))
        trainer = Trainer(tiny_session(tiny_manifest()), mailbox, Clock(0.01))
        with patch.object(trainer._desk, "stood_still", told.append):
            trainer.run()

    assert told == [5000]


def test_reports_are_rare_and_never_pile_up() -> None:
    """At most one per tenth of a second, and none while an older message waits to be sent."""
    often, jammed = (ScriptedMailbox((0, Run()), (40, Stop(path=""))) for _ in range(2))
    jammed.is_jammed = True

    _run(often, clock=Clock(0.01))  # about six looks at the clock per step
    _run(jammed, clock=Clock(0.01))

    assert 5 < len(often.reports()) <= 40 * 0.08 / 0.1 + 2
    assert len(jammed.reports()) == 1  # the one before the first step


def test_waiting_is_measured_by_cause() -> None:
    """Time before Run is sync; a look into the mailbox that waits is counted as waiting for meetings.

    One that is quick is not, and neither is one in which the system took the processor away.
    """
    slow, quick, preempted = (ScriptedMailbox((0, Run()), (40, Stop(path=""))) for _ in range(3))

    _run(slow, clock=Clock(0.06), num_waits=itertools.count().__next__)
    _run(quick, clock=Clock(1e-6), num_waits=itertools.count().__next__)
    _run(preempted, clock=Clock(0.06), num_waits=lambda: 7)

    blocked = slow.reports()[-1].blocked_seconds
    assert blocked["sync"] == pytest.approx(0.06)
    assert blocked["meeting"] > 0.1
    assert blocked["data"] > 0.1
    assert quick.reports()[-1].blocked_seconds["meeting"] == 0.0
    assert preempted.reports()[-1].blocked_seconds["meeting"] == 0.0


def test_finished_run_reports_once_and_serves_on() -> None:
    """At total_steps training ends with a report; meetings are still answered."""
    manifest = tiny_manifest(total_steps=12)
    offer = EncodeOffer(meeting_id=_ID, streams=(Stream.PARAMS,))
    mailbox = ScriptedMailbox((0, Run()), (100, offer), (100, Stop(path="")))

    trainer = _run(mailbox, manifest)

    assert trainer._replica.steps == 12
    assert [report.is_finished for report in mailbox.reports()] == [False, True]
    assert [type(message) for message in mailbox.posted[-2:]] == [OfferEncoded, Stopped]


def test_meeting_with_a_node_behind_resumes_training() -> None:
    """Progress is the swarm's: a finished node that averages with a slower one trains on, and says so."""
    manifest = tiny_manifest(total_steps=12)
    partner = tiny_session(manifest, "partner")
    partner.replica.progress_steps = 6.0
    desk = MeetingDesk(partner.replica, manifest, RUN)
    mailbox = ScriptedMailbox((0, Run()), (100, EncodeOffer(meeting_id=_ID, streams=(Stream.PARAMS,))))

    def react(message: FromTrainer) -> list[ToTrainer]:
        match message:
            case OfferEncoded():
                offer = Offer(
                    meeting_id=_ID, run_id=RUN, protocol_version=1, sender=PeerId("a"), receiver=PeerId("b"),
                    plans=message.plans, parts=message.parts, progress_steps=message.progress_steps,
                )  # fmt: skip
                event = desk.handle(EncodeAnswer(offer=offer))
                assert isinstance(event, AnswerEncoded)
                answer = Answer(meeting_id=_ID, parts=event.parts, progress_steps=event.progress_steps)
                return [SettleMeeting(meeting_id=_ID), EncodeClose(answer=answer)]
            case Report(is_finished=True, steps=15):
                return [Stop(path="")]
        return []

    mailbox.react = react

    trainer = _run(mailbox, manifest)

    assert any(isinstance(message, CorrectionApplied) for message in mailbox.posted)
    assert (trainer._replica.steps, trainer._replica.progress_steps) == (15, 12.0)
    assert mailbox.reports()[-1].exchange_seconds > 0
    works = [m.work_s for m in mailbox.posted if isinstance(m, OfferEncoded | CloseEncoded | CorrectionApplied)]
    assert mailbox.reports()[-1].exchange_seconds == pytest.approx(sum(work_s or 0.0 for work_s in works))
    assert all(work_s is not None and work_s > 0 for work_s in works)


def test_state_round_trip_through_files(tmp_path: Path) -> None:
    """A snapshot and a checkpoint in mid-training and a last one on Stop can all be loaded by the next life."""
    snapshot, kept, last = (str(tmp_path / name) for name in ("snapshot", "kept", "last"))
    due = {Stream.PARAMS: 44}
    first = ScriptedMailbox(
        (0, Run()), (5, WriteSnapshot(path=snapshot)), (0, WriteCheckpoint(path=kept)), (4, Stop(path=last, due=due))
    )
    trainer = _run(first)
    second = ScriptedMailbox((0, LoadState(path=last, is_own=True)), (0, Run()), (3, Stop(path="")))
    joiner = ScriptedMailbox((0, LoadState(path=snapshot, is_own=False)), (0, Stop(path="")))
    third = ScriptedMailbox((0, LoadState(path=kept, is_own=True)), (0, Stop(path="")))

    resumed = _run(second)
    _run(joiner)
    _run(third)

    written = [message for message in first.posted if isinstance(message, SnapshotWritten | CheckpointWritten)]
    assert [message.path for message in written] == [snapshot, kept]
    assert all(5 <= message.steps == message.progress_steps <= 9 for message in written)
    assert second.posted[0] == StateLoaded(progress_steps=9.0, steps=9, tokens=9 * 64, due=due)
    assert joiner.posted[0] == StateLoaded(progress_steps=written[0].steps, steps=0, tokens=0)
    steps = written[1].steps
    assert third.posted[0] == StateLoaded(progress_steps=steps, steps=steps, tokens=steps * 64)
    uninterrupted = tiny_session(tiny_manifest())
    train(uninterrupted, 12)
    assert trainer._replica.steps == 9
    assert uninterrupted.replica.state().counters == resumed._replica.state().counters
    assert all((a == b).all() for a, b in zip(uninterrupted.replica.theta, resumed._replica.theta, strict=True))


def test_copying_the_state_is_all_that_training_waits_for(tmp_path: Path) -> None:
    """It is counted, under its own cause; and a trainer that has ended its run still writes what it is asked for."""
    manifest = tiny_manifest(total_steps=12)
    mailbox = ScriptedMailbox(
        (0, Run()),
        *((1, WriteCheckpoint(path=str(tmp_path / f"{number}"))) for number in range(4)),
        (100, WriteCheckpoint(path=str(tmp_path / "end"))),
        (0, Stop(path="")),
    )

    _run(mailbox, manifest, clock=Clock(0.06))

    written = [message for message in mailbox.posted if isinstance(message, CheckpointWritten)]
    assert {Path(message.path).name for message in written} == {"0", "1", "2", "3", "end"}
    assert written[-1].steps == 12
    num_copied_in_training = sum(message.steps < 12 for message in written)
    blocked = mailbox.reports()[-1].blocked_seconds["checkpoint"]
    assert blocked == pytest.approx(0.06 * num_copied_in_training)


def test_meetings_that_were_answered_are_known_in_the_next_life(tmp_path: Path) -> None:
    """A verdict must survive a restart: what a checkpoint has applied, it names; a donor's state knows nothing of ours."""
    kept, snapshot = str(tmp_path / "kept"), str(tmp_path / "snapshot")
    manifest = tiny_manifest()
    pair = Pair(manifest)
    offer = pair.offer(Stream.PARAMS)
    mailbox = ScriptedMailbox((0, EncodeAnswer(offer=offer)))

    def react(message: FromTrainer) -> list[ToTrainer]:
        match message:
            case AnswerEncoded():
                answer = Answer(meeting_id=message.meeting_id, parts=message.parts, progress_steps=0.0)
                return [ApplyClose(close=pair.close(answer))]
            case CorrectionApplied():
                return [Stop(path=kept), WriteSnapshot(path=snapshot)]
        return []

    mailbox.react = react
    _run(mailbox, manifest)
    second = ScriptedMailbox((0, LoadState(path=kept, is_own=True)), (0, Stop(path=str(tmp_path / "again"))))
    third = ScriptedMailbox(
        (0, LoadState(path=str(tmp_path / "again"), is_own=True)),
        (0, LoadState(path=snapshot, is_own=False)),
        (0, Stop(path=str(tmp_path / "of a donor"))),
    )
    fourth = ScriptedMailbox((0, LoadState(path=str(tmp_path / "of a donor"), is_own=True)), (0, Stop(path="")))
    for life in (second, third, fourth):
        _run(life, manifest)

    applied = [
        message.applied_meetings
        for life in (second, third, fourth)
        for message in life.posted
        if isinstance(message, StateLoaded)
    ]
    assert applied == [(offer.meeting_id,), (offer.meeting_id,), (), ()]


def test_a_state_is_looked_at_without_being_loaded(tmp_path: Path) -> None:
    """The live state and its snapshot have one fingerprint, whoever looks; who only looks keeps its own weights."""
    snapshot = str(tmp_path / "snapshot")
    donor = ScriptedMailbox((0, Run()), (9, WriteSnapshot(path=snapshot)), (0, TakeFingerprint()), (0, Stop(path="")))
    joiner = ScriptedMailbox((0, TakeFingerprint(path=snapshot)), (0, TakeFingerprint()), (0, Stop(path="")))

    _run(donor)
    trainer = _run(joiner)

    (live,) = [message.fingerprint for message in donor.posted if isinstance(message, FingerprintTaken)]
    file, own = [message.fingerprint for message in joiner.posted if isinstance(message, FingerprintTaken)]
    assert live == file
    assert (live.progress_steps, own.progress_steps) == (9.0, 0.0)
    assert live.sketch != own.sketch == tuple(count_sketch(trainer._replica.theta).tolist())
    assert dict(live.norms)["displacement"] > 0.0 == dict(own.norms)["displacement"]
    assert set(dict(live.norms)) == {"params", "slow", "displacement", "outer_momentum", "exp_avg", "exp_avg_sq"}


def test_bad_state_is_one_failure_and_training_goes_on(tmp_path: Path) -> None:
    """A file that cannot be trusted or written is reported as not fatal, and leaves weights and loop alone."""
    bad = tmp_path / "bad"
    bad.write_bytes(b"nonsense")
    nowhere = str(tmp_path / "absent" / "state")
    mailbox = ScriptedMailbox(
        (0, LoadState(path=str(bad), is_own=False)),
        (0, TakeFingerprint(path=str(bad))),
        (0, WriteSnapshot(path=nowhere)),
        (0, Run()),
        (3, Stop(path="")),
    )

    _run(mailbox)

    failures = [message for message in mailbox.posted if isinstance(message, Failed)]
    assert [(failure.code, failure.is_fatal) for failure in failures] == [("store", False)] * 3
    assert str(bad) in failures[0].detail
    assert mailbox.posted[-1] == Stopped(path="")


def test_last_state_that_cannot_be_written_ends_the_trainer_with_the_error(tmp_path: Path) -> None:
    """Stop must not claim a file that is not there."""
    mailbox = ScriptedMailbox((0, Stop(path=str(tmp_path / "absent" / "state"))))

    with pytest.raises(StoreError, match="cannot be written"):
        _run(mailbox)

    assert not mailbox.posted


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_node_whose_weights_are_not_finite_offers_nothing(dtype: str) -> None:
    """Its partner would take it for a hostile one; a sound node's offer goes out, in any format."""

    def offered(*, is_sound: bool) -> list[FromTrainer]:
        mailbox = ScriptedMailbox()
        trainer = Trainer(tiny_session(tiny_manifest(tiny_meeting(dtype=dtype))), mailbox, Clock())
        trainer._replica.train_step(trainer._session.stream.batch(trainer._replica.data_cursor))
        if not is_sound:
            trainer._replica.theta[0].reshape(-1)[0] = math.nan
        for is_dense in (False, True):
            meeting_id = MeetingId(f"{is_dense:032x}")
            trainer._meet(EncodeOffer(meeting_id=meeting_id, streams=tuple(Stream)[:3], is_dense=is_dense))
        return mailbox.posted

    assert [type(message) for message in offered(is_sound=True)] == [OfferEncoded] * 2
    refused = offered(is_sound=False)
    assert [type(message) for message in refused] == [EncodingRefused] * 2
    assert {message.reason for message in refused if isinstance(message, EncodingRefused)} == {RefusalReason.NONFINITE}
