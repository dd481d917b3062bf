"""How good models of a run are on the held-out data of this machine: each on the same windows."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.train.batches import num_rows
from lowcomm_node.train.data.words import bytes_per_token
from lowcomm_node.train.evaluate import look_at, loss_of
from lowcomm_node.train.held_out import held_out_batches
from lowcomm_node.train.model import build_model, load_parameters
from lowcomm_node.train.session import choose_device
from lowcomm_node.units import RunId

__all__ = ["Judge", "Judgement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Of one model on one machine's held-out data."""

    loss: float
    """Nats per token, or what the task measures."""
    perplexity: float
    bits_per_byte: float | None
    """Null where tokens stand for no text."""
    accuracy: float | None
    """Share of the examples that are answered right; null of language models, and of tasks that do not say."""
    examples: int

    def sentence(self) -> str:
        """For people."""
        more = "" if self.bits_per_byte is None else f", {self.bits_per_byte:.3f} bits per byte"
        more += "" if self.accuracy is None else f", accuracy {self.accuracy:.2%}"
        what = "windows" if self.accuracy is None else "examples"
        return (
            f"loss {self.loss:.4f}{more}, over {self.examples} {what} of held-out data of the machine that exported it"
        )


class Judge:
    """Judges by the held-out part of what the settings name in ``data``.

    ``tokenizer``: the run's, where it has one and the settings do not name it. Raises ConfigError, DataError and StoreError.
    """

    def __init__(self, manifest: Manifest, run: RunId, settings: NodeSettings, tokenizer: Path | None = None) -> None:
        if settings.data.tokenizer:
            tokenizer = Path(settings.data.tokenizer).expanduser()
        data = dataclasses.replace(settings.data, tokenizer="" if tokenizer is None else str(tokenizer))
        # Not in the state directory: that keeps one set of tokens, the one that a node trains on.
        with TemporaryDirectory(prefix="lowcomm-eval-") as scratch:
            self._batches = held_out_batches(manifest, data, Path(scratch), run)
        self._manifest = manifest
        self._device = choose_device(settings.device)
        self._loss = loss_of(manifest)
        self._bytes_per_token = bytes_per_token(manifest, self._batches, tokenizer)
        self._model: nn.Module | None = None

    def judge(self, model: nn.Module) -> Judgement:
        """A model of the run; it is moved to the device that the settings name."""
        look = look_at(model.to(self._device), self._batches, self._loss)
        return Judgement(
            loss=look.loss,
            perplexity=math.exp(min(look.loss, 700.0)),
            bits_per_byte=look.loss / math.log(2) / self._bytes_per_token if self._bytes_per_token else None,
            accuracy=look.accuracy if math.isfinite(look.accuracy) else None,
            examples=sum(map(num_rows, self._batches)),
        )

    def judge_parameters(self, parameters: Mapping[str, Tensor]) -> Judgement:
        """Of a model that is nothing but these. Memory: one model, for all that are judged."""
        if self._model is None:
            self._model = build_model(self._manifest)
        load_parameters(self._model, parameters)
        return self.judge(self._model)
