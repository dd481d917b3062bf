"""One node's copy of everything that is trained: weights, optimizer state, outer state; and the inner and outer step.

Symbols as in ALGORITHMS: theta fast weights (what the model trains on), phi slow weights (anchor of the last outer
step), delta outer momentum, t optimizer steps.
"""

import dataclasses
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcomm_node.algo.group import ALONE, mean_all_
from lowcomm_node.algo.log_moments import log_view
from lowcomm_node.algo.moments import bias_correction
from lowcomm_node.algo.noloco import outer_step_
from lowcomm_node.core.ab_stages import ramp_of
from lowcomm_node.core.micro_batches import MicroBatches
from lowcomm_node.core.progress import learning_rate_at
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.batches import Batch, num_rows, parts_of, to_device
from lowcomm_node.train.data.stream import first_batch_at
from lowcomm_node.train.device_group import DeviceGroup
from lowcomm_node.train.directions import Directions
from lowcomm_node.train.evaluate import loss_of
from lowcomm_node.train.execution import PLAIN, Execution
from lowcomm_node.train.faults import is_out_of_memory
from lowcomm_node.train.frozen import AbTraining, Frozen
from lowcomm_node.train.model import build_model, parameter_shapes, recompute
from lowcomm_node.train.optimizers.build import build_optimizer
from lowcomm_node.train.state_file import Counters, TensorSpec, TrainingState
from lowcomm_node.units import Omega, Stream, StreamKind

__all__ = ["Replica", "StepResult"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one inner step did."""

    loss: float
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    is_finite: bool
    """False: loss or gradient was not finite, and the update was skipped."""
    tokens: int
    """Trained on, by all devices of the node."""


class Replica:
    """Weights, optimizer state and outer state of one node, with the steps that change them.

    Everything lies on ``device`` and is float32, except what optimizer.state_dtype says. Meetings change it between two
    steps (payloads.apply_correction). Raises ConfigError for a model or optimizer that cannot be had here. ``execution`` says how
    steps are computed.

    On a node with several devices each has a replica, and all of them make the same calls with batches of their own: ``group``
    brings them together. They hold the same bits but for the optimizer's ``local_streams``, and count for all devices. When one is
    gone or hangs, ``train_step``, ``gather`` and ``share`` raise TrainerError.
    """

    def __init__(
        self,
        manifest: Manifest,
        device: torch.device,
        group: DeviceGroup | None = None,
        execution: Execution = PLAIN,
    ) -> None:
        self._manifest = manifest
        self.eps = manifest.optimizer.eps
        self.device = device
        self.model = build_model(manifest).to(device)
        self.loss = loss_of(manifest, is_autocast=execution.is_autocast)
        self.names = [name for name, _ in self.model.named_parameters()]
        self.shapes = parameter_shapes(self.model)
        self._parameters = list(self.model.parameters())
        self.theta = [parameter.data for parameter in self._parameters]
        self.phi = [theta.clone() for theta in self.theta]
        self.delta = [torch.zeros_like(theta) for theta in self.theta]
        self.has_mixed = manifest.outer.mixing == "momentum"
        self.mixed = [torch.zeros_like(theta) for theta in self.theta] if self.has_mixed else []
        self.ab = AbTraining(self.model, manifest) if manifest.outer.method == "ab" else None
        """Stages and frozen factors, with that method."""
        self._group = group
        self.num_devices = 1 if group is None else group.size
        self.optimizer = build_optimizer(self.model, manifest, group or ALONE)
        self.directions = Directions(Omega(manifest.meeting.omega), self.views)
        self._declared = {stream.name: stream for stream in self.optimizer.streams}
        self.progress_steps = 0.0
        self.steps = 0
        self.tokens = 0
        self.data_cursor = 0
        self.outer_steps = 0
        self.nonfinite_steps = 0
        self.micro_batches = 1
        self._may_recompute = execution.recompute == "when_short"
        if execution.recompute == "always" and not recompute(self.model):
            raise ConfigError('device.recompute = "on", but the run\'s model cannot do that; use "auto" or "off"')
        if execution.compile != "never":
            torch._dynamo.config.suppress_errors = execution.compile == "if_it_works"  # noqa: SLF001 - torch documents it so
            self.model.compile()  # in place: parameters keep their names

    @property
    def micro_batches(self) -> int:
        """Parts that a batch is taken in, at most one per example; more when the memory does not suffice."""
        return self._parts.parts

    @micro_batches.setter
    def micro_batches(self, parts: int) -> None:
        self._parts = MicroBatches(parts, may_shrink=self.device.type == "cuda")

    @property
    def optimizer_steps(self) -> int:
        """t: updates behind the optimizer's state; steps that were not finite do not count, a donor's do."""
        return self.optimizer.optimizer_steps

    def train_step(self, batch: Batch) -> StepResult:
        """One inner step on ``batch``, and the outer step when it is due.

        A loss or gradient that is not finite is counted and skipped: weights and optimizer state stay, the step and
        its data count as taken. Where the memory does not suffice for the gradients, the same batch is taken again in
        more parts (``micro_batches``), and if need be with activations recomputed; only when nothing is left to try, torch's own error comes out.
        """
        training = self._manifest.training
        learning_rate = learning_rate_at(self.progress_steps, training, self._manifest.optimizer.lr)
        learning_rate *= ramp_of(self.progress_steps, self._manifest)
        loss = self._gradients(batch)
        if self._group is None:
            norm = torch.nn.utils.clip_grad_norm_(self._parameters, training.grad_clip)
        else:
            loss, norm = self._mean_over_devices(self._group, loss)
        loss_value, norm_value = torch.stack((loss, norm)).tolist()
        is_finite = math.isfinite(loss_value) and math.isfinite(norm_value)
        if is_finite:
            with self._confined():
                self.optimizer.step(learning_rate)
        else:
            self.nonfinite_steps += 1
        self.steps += 1
        self.data_cursor += self.num_devices
        self.progress_steps += 1.0
        tokens = num_rows(batch) * self._manifest.model.context_length * self.num_devices
        self.tokens += tokens
        every_steps = self._manifest.outer.every_steps
        if every_steps and self.steps % every_steps == 0:
            self._outer_step()
        return StepResult(loss_value, norm_value, learning_rate, is_finite, tokens)

    def gather(self) -> None:
        """Bring the optimizer's local streams to their mean over the node's devices, which does not change what steps do."""
        for stream in self.optimizer.local_streams:
            tensors = self.optimizer.tensors(stream)
            means = [tensor.float() for tensor in tensors]  # a narrower sum would round twice
            mean_all_(self._group or ALONE, means)
            for tensor, mean in zip(tensors, means, strict=True):
                tensor.copy_(mean)

    def share(self, *, with_optimizer: bool) -> None:
        """After a change to one replica of the node: take over the first device's weights, outer state and, if asked, streams."""
        if self._group is not None:
            streams = self._declared if with_optimizer else ()
            tensors = [tensor for stream in streams for tensor in self.tensors(stream)]
            for tensor in (*self.theta, *self.phi, *self.delta, *self.mixed, *tensors):
                self._group.share_(tensor)

    def take_frozen(self, frozen: Frozen) -> None:
        """From the next step on train by these, in their epoch; all devices of the node take over the first one's numbers."""
        if self._group is not None:
            for tensor in frozen.tensors.values():
                self._group.share_(tensor)
        assert self.ab is not None, "the caller has asked"
        self.ab.take(frozen, self.theta)

    def is_ready(self, stream: Stream) -> bool:
        """Is there something to exchange? Optimizer state means nothing before the first optimizer step."""
        return stream is Stream.PARAMS or self.optimizer_steps > 0

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All that a meeting could be about: the parameters and what the optimizer keeps."""
        return (Stream.PARAMS, *self._declared)

    def kind(self, stream: Stream) -> StreamKind:
        """What the stream's numbers are, and with it how corrections are applied."""
        return StreamKind.SIGNED if stream is Stream.PARAMS else self._declared[stream].kind

    def tensors(self, stream: Stream) -> list[Tensor]:
        """The live tensors of a stream; params are theta."""
        return self.theta if stream is Stream.PARAMS else self.optimizer.tensors(stream)

    def shapes_of(self, stream: Stream) -> tuple[tuple[int, ...], ...]:
        """Shape of each tensor of a stream, in the order that its plans refer to."""
        return tuple(tuple(tensor.shape) for tensor in self.tensors(stream))

    def views(self, stream: Stream) -> list[Tensor]:
        """The stream in the coordinates that meetings average, float32; read-only.

        params: theta. What the optimizer declares so is bias-corrected, value / (1 - beta^t), so that nodes of different
        age compare (DES-LOC 2505.22549); the counts t themselves are not averaged. Second moments are taken in
        their logarithm where the manifest says so.
        """
        if stream is Stream.PARAMS:
            return self.theta
        correction = self.bias_correction(stream)
        if self.is_logarithmic(stream):
            return [log_view(tensor, bias_correction=correction, eps=self.eps) for tensor in self.tensors(stream)]
        return [tensor.float() / correction for tensor in self.tensors(stream)]

    def bias_correction(self, stream: Stream) -> float:
        """1 - beta^t of what starts at zero, 1 of everything else. Only for streams that are ready."""
        declared = self._declared.get(stream)
        if declared is None or not declared.is_bias_corrected:
            return 1.0
        return bias_correction(declared.decay, self.optimizer_steps)

    def is_logarithmic(self, stream: Stream) -> bool:
        """Do meetings add to the logarithm of this stream?"""
        is_second_moment = self.kind(stream) is StreamKind.NON_NEGATIVE
        return is_second_moment and self._manifest.meeting.exp_avg_sq_codec == "ab"

    def state(self) -> TrainingState:
        """Everything that ``load`` needs; shares memory with the replica, so write it out before the next step."""
        tensors = {key: tensor.contiguous() for key, tensor in self._live().items()}
        return TrainingState(tensors=tensors, counters=self.counters)

    @property
    def counters(self) -> Counters:
        """Where training stands."""
        return Counters(
            progress_steps=self.progress_steps,
            steps=self.steps,
            optimizer_steps=self.optimizer_steps,
            tokens=self.tokens,
            data_cursor=self.data_cursor,
        )

    @counters.setter
    def counters(self, counters: Counters) -> None:
        self.progress_steps = counters.progress_steps
        self.optimizer.optimizer_steps = counters.optimizer_steps
        self.steps, self.tokens, self.data_cursor = counters.steps, counters.tokens, counters.data_cursor

    def layout(self) -> dict[str, TensorSpec]:
        """What a state file of this replica holds."""
        non_negative = {stream.name for stream in self.optimizer.streams if stream.kind is StreamKind.NON_NEGATIVE}
        return {
            key: TensorSpec(tuple(tensor.shape), tensor.dtype, key.partition("/")[0] in non_negative)
            for key, tensor in self._live().items()
        }

    def load(self, state: TrainingState, *, is_own: bool) -> None:
        """Take over a verified state. A donor's brings weights, optimizer and outer state, and progress; own counts stay 0.

        Its data are none that this node has had before (``data.first_batch_at``).
        """
        live = self._live()
        for key, tensor in state.tensors.items():
            live[key].copy_(tensor)
        data_cursor = first_batch_at(state.counters.progress_steps)
        own_counts = {} if is_own else {"steps": 0, "tokens": 0, "data_cursor": data_cursor}
        self.counters = dataclasses.replace(state.counters, **own_counts)
        self.directions.forget()

    def _live(self) -> dict[str, Tensor]:
        """All state by its key in state files, "<group>/<parameter name>"."""
        everything = tuple(range(len(self.names)))
        groups = [("params", everything, self.theta), ("slow", everything, self.phi)]
        groups.append(("outer_momentum", everything, self.delta))
        groups += [(name.value, self.optimizer.members[name], self.tensors(name)) for name in self._declared]
        if self.has_mixed:
            groups.append(("mixed", everything, self.mixed))
        return {
            f"{group}/{self.names[position]}": tensor
            for group, positions, tensors in groups
            for position, tensor in zip(positions, tensors, strict=True)
        }

    def _confined(self) -> AbstractContextManager[None]:
        """For the optimizer's step: what else it may change of the weights than what the frozen factors span is nothing, while one is trained."""
        frozen = None if self.ab is None else self.ab.in_use(self.progress_steps)
        return nullcontext() if frozen is None else frozen.confining(self.theta)

    def _gradients(self, batch: Batch) -> Tensor:
        """Leave the gradient of the batch's mean loss in the parameters; returns that loss, 0-d.

        Devices of one node wait for one another only afterwards, so each may find its own number of parts.
        """
        while True:
            self.model.zero_grad(set_to_none=True)
            try:
                loss = self._accumulated(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._can_do_with_less(num_rows(batch)):
                    raise
            else:
                self._parts.fitted()
                return loss
            # Out of the handler: the traceback kept alive what the failed attempt had allocated.
            if self.device.type == "cuda":
                self.model.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()

    def _can_do_with_less(self, batch_size: int) -> bool:
        if self._parts.fell_short(batch_size):
            return True
        if not self._may_recompute:
            return False
        self._may_recompute = False
        return recompute(self.model)

    def _accumulated(self, batch: Batch) -> Tensor:
        """Sum of the parts' losses and gradients, each weighted with its share of the examples."""
        parts, batch_size = parts_of(batch, self.micro_batches), num_rows(batch)
        total: Tensor | None = None
        for part in parts:
            loss = self.loss(self.model, to_device(part, self.device))
            if len(parts) > 1:
                loss = loss * (num_rows(part) / batch_size)
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None, "a batch has examples"
        for parameter in self._parameters:
            if parameter.grad is None:  # an expert that no example was sent to
                parameter.grad = torch.zeros_like(parameter)
        return total

    def _mean_over_devices(self, group: DeviceGroup, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and norm of the mean gradient, 0-d; gradients become their clipped mean over the node's devices.

        Those that the optimizer wants as they are (``local_streams``) are clipped by the same factor but not averaged; the
        root mean square of their norms stands for the norm of their mean, which is never larger.
        """
        local = {position for stream in self.optimizer.local_streams for position in self.optimizer.members[stream]}
        own = [p.grad for position, p in enumerate(self._parameters) if p.grad is not None and position in local]
        common = [p.grad for position, p in enumerate(self._parameters) if p.grad is not None and position not in local]
        own_norm = torch.nn.utils.get_total_norm(own).to(loss.device)
        facts = torch.stack((loss, own_norm.square()))
        mean_all_(group, [facts, *common])
        norm = torch.hypot(torch.nn.utils.get_total_norm(common), facts[1].sqrt())
        torch.nn.utils.clip_grads_with_norm_(self._parameters, self._manifest.training.grad_clip, norm)
        return facts[0], norm

    def _outer_step(self) -> None:
        outer = self._manifest.outer
        for index, theta in enumerate(self.theta):
            mixed = self.mixed[index] if self.has_mixed else None
            outer_step_(theta, self.phi[index], self.delta[index], mixed, momentum=outer.momentum, lr=outer.lr)
        self.outer_steps += 1
