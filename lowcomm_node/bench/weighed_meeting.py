"""One meeting of real replicas, weighed: bytes of its messages, seconds of its codecs, and seconds of a training step beside it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from lowcomm_node.algo import exchange
from lowcomm_node.bench.utilisation import Meeting
from lowcomm_node.settings.manifest import Manifest, MeetingConfig
from lowcomm_node.train.plans import Planner
from lowcomm_node.train.replica import Replica
from lowcomm_node.units import Stream

__all__ = ["WeighedModel"]

_CPU = torch.device("cpu")
_DRIFT_STEPS = 2
_Result = TypeVar("_Result")


class WeighedModel:
    """Two replicas of a model on the processor, a few steps apart, on random tokens: sizes do not depend on what is learnt."""

    def __init__(self, manifest: Manifest, threads: int) -> None:
        """Sets torch's number of threads. A step is one of the manifest's own batch size."""
        torch.set_num_threads(threads)
        self._manifest = manifest
        self._generator = torch.Generator().manual_seed(manifest.seed)
        self._replicas = [Replica(manifest, _CPU) for _ in range(2)]
        steps = [replica for _ in range(_DRIFT_STEPS) for replica in self._replicas]
        self.step_s = min(_timed(partial(replica.train_step, self._batch()))[1] for replica in steps)
        """Of the quickest of a few."""

    def weigh(self, coding: str, meeting: MeetingConfig) -> Meeting:
        """Two meetings about the parameters, of which the first teaches how large differences are; nothing is applied to the replicas."""
        shapes = {stream: self._replicas[0].shapes_of(stream) for stream in self._replicas[0].streams}
        planner = Planner(replace(self._manifest, meeting=meeting), shapes)
        taken = [tensor.clone() for tensor in self._replicas[0].theta]
        self._meet(coding, planner, taken, b"first")
        return self._meet(coding, planner, taken, b"second")

    def _meet(self, coding: str, planner: Planner, taken: Sequence[Tensor], seed: bytes) -> Meeting:
        i, j = (replica.theta for replica in self._replicas)
        plan = planner.plan(Stream.PARAMS, is_dense=False)
        ranges = planner.ranges(plan)
        offer, offer_s = _timed(lambda: exchange.encode_offer(i, plan, seed, ranges=ranges))
        (answer, half), answer_s = _timed(lambda: exchange.encode_answer(j, plan, seed, offer))
        (close, found), close_s = _timed(lambda: exchange.encode_close(i, plan, seed, offer, answer))
        _, finish_s = _timed(lambda: exchange.finish(half, close))
        _, apply_s = _timed(lambda: found.add_to_(taken, -0.5))
        planner.observe(plan, found, is_own=True)
        return Meeting(
            coding=coding,
            offer_bytes=len(offer),
            answer_bytes=len(answer),
            close_bytes=len(close),
            initiator_s=offer_s + close_s + apply_s,
            answerer_s=answer_s + finish_s + apply_s,
        )

    def _batch(self) -> Tensor:
        shape = self._manifest.training.batch_size, self._manifest.model.context_length + 1
        return torch.randint(self._manifest.model.vocab_size, shape, generator=self._generator)


def _timed(work: Callable[[], _Result]) -> tuple[_Result, float]:
    begun_s = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun_s
