"""What a peer that averages is told, and what it says. Lines of JSON, orders in and words out, a process each."""

import json
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from lowcomm_node.bench.link_load import Whereabouts
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.presets import MODELS
from lowcomm_node.train.model import build_model

__all__ = ["Order", "PeerLoad", "PeerState", "Word"]

_DRIFT = 1e-3
"""Standard deviation of what each peer's weights move by between two rounds; initial weights have about 0.02."""
_SAMPLES = 4096
"""Numbers of all by which it is seen how far peers are apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLoad:
    """One peer, for as long as it lives."""

    model: str
    """Size in ``settings.presets.MODELS``."""
    index: int
    folder: str
    """Where it may keep its key and sockets."""
    initial_peers: tuple[str, ...] = ()
    """Of the directory, where there is one."""
    threads: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "PeerLoad":
        """Raises TypeError and ValueError."""
        plain = json.loads(text)
        return PeerLoad(**plain | {"initial_peers": tuple(plain["initial_peers"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a peer is to do next."""

    what: str
    """know: learn the partner's whereabouts; drift: move the own weights; round: exchange, once."""
    partner: Whereabouts | None = None
    """Of the pair's other end, which answers; None at that end."""
    seed: int = 0
    """Of a drift."""
    coding: str = ""
    """Of a round: codec and format of our meetings, or hivemind's compression."""
    group: int = 2
    """Peers that average together."""
    patience_s: float = 120.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Order":
        """Raises TypeError and ValueError."""
        plain = json.loads(text)
        partner = plain.pop("partner")
        return Order(**plain, partner=None if partner is None else Whereabouts(**partner))


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What a peer answers to an order, and once when it is ready for any."""

    where: Whereabouts | None = None
    """How others find it; of the first word."""
    seconds: float = 0.0
    """That a round took here."""
    failure: str = ""
    """Why a round did not come to its end; empty when it did."""
    group: int = 0
    """Peers that averaged together, this one included."""
    payload_bytes: int = 0
    """Sent in the round, where this side counts it."""
    sample: tuple[float, ...] = ()
    """Some weights, always the same ones."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Word":
        """Raises TypeError and ValueError."""
        plain = json.loads(text)
        where = plain.pop("where")
        return Word(**plain | {"sample": tuple(plain["sample"])}, where=None if where is None else Whereabouts(**where))


class PeerState:
    """The weights that are averaged: those that every peer begins with, and own drift."""

    def __init__(self, load: PeerLoad) -> None:
        """Sets torch's number of threads."""
        torch.set_num_threads(load.threads)
        self._index = load.index
        model = build_model(Manifest(name="averaged", model=MODELS[load.model]))
        self.tensors: list[Tensor] = [parameter.detach() for parameter in model.parameters()]

    def drift(self, seed: int) -> None:
        """Move, differently from all others."""
        generator = torch.Generator().manual_seed(seed * 1000 + self._index)
        for tensor in self.tensors:
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=_DRIFT)

    def sample(self) -> tuple[float, ...]:
        """For ``Word.sample``."""
        every = max(1, sum(tensor.numel() for tensor in self.tensors) // _SAMPLES)
        return tuple(number for tensor in self.tensors for number in tensor.flatten()[::every].tolist())
