"""One trial from start to end, and many of them side by side in processes of their own."""

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace

import torch

from lowcomm_node.bench.examine import Examiner
from lowcomm_node.bench.lockstep import LockstepRun
from lowcomm_node.bench.meetings import MeetingsRun
from lowcomm_node.bench.texts import load_texts
from lowcomm_node.bench.trial import Result, Trial

__all__ = ["run_trial", "run_trials"]


def run_trial(trial: Trial) -> Result:
    """Train and judge. The same trial gives the same result, apart from ``seconds``. Raises ConfigError, DataError."""
    started = time.monotonic()
    # More threads than one make models of this size slower, and results depend on their number.
    torch.set_num_threads(1)
    texts = load_texts(trial)
    total_steps = trial.replicas * trial.manifest.training.total_steps
    examiner = Examiner(trial.manifest, texts, total_steps)
    run = LockstepRun(trial, texts) if trial.family.is_lockstep else MeetingsRun(trial, texts)
    run.run(examiner)
    loss, loss_averaged, distance = examiner.judge(run.replicas)
    result = Result(
        loss=loss,
        loss_averaged=loss_averaged,
        spread=distance,
        bytes_per_node=run.bytes_per_node,
        tokens=sum(replica.tokens for replica in run.replicas),
        duration_steps=run.duration_steps,
        seconds=time.monotonic() - started,
        nonfinite_steps=sum(replica.nonfinite_steps for replica in run.replicas),
        parameters=trial.manifest.model.num_parameters,
        curve=tuple(examiner.curve),
    )
    if isinstance(run, MeetingsRun):
        result = replace(
            result, meetings=run.num_meetings, failures=dict(run.failures), captured_ratio=run.captured_ratio
        )
    return result


def run_trials(trials: Sequence[Trial], jobs: int) -> Iterator[tuple[Trial, Result]]:
    """Run all, ``jobs`` at a time, each job a fresh process; yields what is finished, in any order.

    Closing the iterator, or an error of one trial, ends all processes.
    """
    if jobs == 1:
        yield from ((trial, run_trial(trial)) for trial in trials)
        return
    before = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        max_workers=jobs,
        mp_context=multiprocessing.get_context("spawn"),
        # Ctrl+C reaches the whole process group; this process decides what becomes of the others.
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        futures = {executor.submit(run_trial, trial): trial for trial in trials}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        # The executor itself would wait for what is under way, which after Ctrl+C nobody wants.
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
