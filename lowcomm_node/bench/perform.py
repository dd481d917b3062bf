"""One trial from start to end, and many of them side by side in processes of their own."""

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import cast

import torch

from lowcomm_node.bench.ab_training import AbTrainingRun
from lowcomm_node.bench.examine import Examiner
from lowcomm_node.bench.lockstep import LockstepRun
from lowcomm_node.bench.meetings import MeetingsRun
from lowcomm_node.bench.methods import Family
from lowcomm_node.bench.texts import Texts, load_texts
from lowcomm_node.bench.trial import Result, Trial
from lowcomm_node.errors import LowcommError, TrainerError

__all__ = ["run_trial", "run_trials"]


def run_trial(trial: Trial) -> Result:
    """Train and judge. The same trial gives the same result, apart from ``seconds``. Raises ConfigError, DataError."""
    started = time.monotonic()
    # More threads than one make models of this size slower, and results depend on their number.
    torch.set_num_threads(1)
    texts = load_texts(trial)
    total_steps = trial.replicas * trial.manifest.training.total_steps
    examiner = Examiner(trial.manifest, texts, total_steps)
    run = _build(trial, texts)
    run.run(examiner)
    mean, averaged, distance = examiner.judge(run.replicas)
    result = Result(
        loss=mean.loss,
        loss_averaged=averaged.loss,
        spread=distance,
        bytes_per_node=run.bytes_per_node,
        tokens=sum(replica.tokens for replica in run.replicas),
        duration_steps=run.duration_steps,
        seconds=time.monotonic() - started,
        nonfinite_steps=sum(replica.nonfinite_steps for replica in run.replicas),
        parameters=trial.manifest.model.num_parameters,
        accuracy=mean.accuracy,
        accuracy_averaged=averaged.accuracy,
        curve=tuple(examiner.curve),
    )
    if isinstance(run, MeetingsRun):
        result = replace(
            result,
            meetings=run.num_meetings,
            failures=dict(run.failures),
            captured_ratio=run.captured_ratio,
            bytes_by_part=run.bytes_by_part,
            rank_ratio=run.rank_ratio,
        )
    elif isinstance(run, AbTrainingRun):
        result = replace(result, bytes_by_part=dict(run.bytes_by_part), rank_ratio=run.rank_ratio)
    return result


def _build(trial: Trial, texts: Texts) -> LockstepRun | AbTrainingRun | MeetingsRun:
    match trial.family:
        case Family.MEETINGS:
            return MeetingsRun(trial, texts)
        case Family.AB_TRAINING:
            return AbTrainingRun(trial, texts)
        case _:
            return LockstepRun(trial, texts)


def run_trials(trials: Sequence[Trial], jobs: int) -> Iterator[tuple[Trial, Result]]:
    """Run all, ``jobs`` at a time, each in a fresh process; yields what is finished, in any order.

    Closing the iterator, or an error of one trial, ends all processes. Raises LowcommError; TrainerError for a process that died.
    """
    if jobs == 1:
        yield from ((trial, run_trial(trial)) for trial in trials)
        return
    waiting = deque(trials)
    workers = [_Worker() for _ in range(min(jobs, len(trials)))]
    try:
        busy = {worker.connection: worker for worker in workers}
        for worker in workers:
            worker.start(waiting.popleft())
        while busy:
            for ready in wait(list(busy)):
                worker = busy[cast("Connection", ready)]
                finished = worker.trial, worker.result()
                if waiting:
                    worker.start(waiting.popleft())
                else:
                    del busy[worker.connection]
                yield finished
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process that runs one trial after another; never a fork, which torch's threads do not survive."""

    trial: Trial

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, others = context.Pipe()
        self._process = context.Process(target=_serve, args=(others,), daemon=True)
        self._process.start()
        others.close()  # so that the process's death is noticed

    def start(self, trial: Trial) -> None:
        self.trial = trial
        self.connection.send(trial)

    def result(self) -> Result:
        """Wait for the running trial's result. Raises LowcommError."""
        try:
            answer: Result | LowcommError = self.connection.recv()
        except EOFError as error:
            self._process.join()
            status = self._process.exitcode
            raise TrainerError(
                f"{self.trial.label}, seed {self.trial.seed}: its process ended with {status}"
            ) from error
        if isinstance(answer, LowcommError):
            raise answer
        return answer

    def end(self) -> None:
        """Whatever it is doing."""
        self._process.terminate()
        self._process.join()
        self._process.close()
        self.connection.close()


def _serve(connection: Connection) -> None:
    # Ctrl+C reaches the whole process group; the laboratory decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            trial = connection.recv()
        except EOFError:  # the laboratory is gone
            return
        try:
            connection.send(run_trial(trial))
        except LowcommError as error:
            connection.send(error)
