"""The run manifest: everything that must be equal on all nodes of a run, and nothing else.

A manifest is immutable; the SHA-256 of its canonical form is the run id. ``check`` in each
section only refuses values, it never changes them; derived numbers are properties.
The docstring under a field is its documentation in ``lowcomm-node init`` and in the error texts.
"""

import re
from dataclasses import dataclass, field, fields
from typing import Annotated

from lowcomm_node.settings.ab_training import AbTrainingConfig
from lowcomm_node.settings.model import ModelConfig
from lowcomm_node.settings.rules import Between, Length, OneOf, fail

__all__ = [
    "BYTES",
    "UNKNOWN_TOKENIZER",
    "AbTrainingConfig",
    "DataConfig",
    "Manifest",
    "MeetingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "OuterConfig",
    "SecurityConfig",
    "TrainingConfig",
]

BYTES = "byte"
UNKNOWN_TOKENIZER = "none"
_TOKENIZER = re.compile(rf"{BYTES}|{UNKNOWN_TOKENIZER}|sha256:[0-9a-f]{{64}}")

_PEER_ID = re.compile(r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}")
"""Of an Ed25519 key."""

_LEAST_BUDGET_BYTES = 1 << 16
"""For models whose tensors are not known here: enough for every tensor of a small one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """How text becomes tokens. Where the text lies is each node's own setting (data.paths, data.dataset)."""

    kind: Annotated[str, OneOf("text")] = "text"
    """Data kind: text is language, from text files, token shards or datasets."""
    tokenizer: str = BYTES
    """byte: each UTF-8 byte is a token, vocabulary 256; sha256:HEX: the tokenizer.json with this digest, as 'tokenizer show' prints
    it, which every node that reads text has a copy of (its setting data.tokenizer); none: token shards alone, whatever made them."""
    validation_ratio: Annotated[float, Between(0.001, 0.5)] = 0.05
    """Share held out for validation, of files by a hash of their relative name, of a dataset's rows by one of their text; no node
    trains on it. Shards with val in their names are held out in their stead."""

    def check(self) -> None:
        if not _TOKENIZER.fullmatch(self.tokenizer):
            fail(
                "data.tokenizer",
                self.tokenizer,
                f'"{BYTES}", "{UNKNOWN_TOKENIZER}", or "sha256:" and the 64 hexadecimal digits that \'lowcomm-node tokenizer show\' '
                "prints",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """The inner loop."""

    batch_size: Annotated[int, Between(1, 65536)] = 8
    """Sequences per inner step and node."""
    total_steps: Annotated[int, Between(1, 1_000_000_000)] = 2000
    """Length of the run, counted in inner steps of the average node (swarm progress)."""
    warmup_steps: Annotated[int, Between(0, 1_000_000_000)] = 50
    """Steps of linear learning-rate warm-up."""
    min_lr_ratio: Annotated[float, Between(0.0, 1.0)] = 0.1
    """Learning rate at the end of the cosine, as a share of optimizer.lr."""
    grad_clip: Annotated[float, Between(1e-6, 1e6)] = 1.0
    """Global gradient norm above which gradients are scaled down."""

    def check(self) -> None:
        if self.warmup_steps >= self.total_steps:
            fail("training.warmup_steps", self.warmup_steps, f"less than training.total_steps = {self.total_steps}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """The inner optimizer."""

    kind: Annotated[str, OneOf("adamw", "adopt", "mtdao", "sgd", "muon", "dion")] = "muon"
    """adamw; adopt (2411.02853); mtdao: Adam with a slow momentum beside the raw gradient (2510.05361); sgd with momentum; muon
    and dion (2504.05295): orthonormalised updates of hidden matrices, everything else by `scalar`. Learning rates differ between
    kinds: `lowcomm-node init --optimizer KIND` writes fitting ones."""
    lr: Annotated[float, Between(1e-8, 10.0)] = 0.012
    """Peak learning rate."""
    beta1: Annotated[float, Between(0.0, 0.99999)] = 0.9
    """Decay of the first moment (adamw, adopt, mtdao, and the scalar optimizer of muon and dion)."""
    beta2: Annotated[float, Between(0.0, 0.999999)] = 0.99
    """Decay of the second moment (as beta1); of lion's momentum."""
    eps: Annotated[float, Between(1e-12, 1e-2)] = 1e-8
    """Added to the root of the second moment; for adopt the least value of that root."""
    weight_decay: Annotated[float, Between(0.0, 10.0)] = 0.1
    """Decoupled weight decay of matrices; vectors have none."""
    momentum: Annotated[float, Between(0.0, 0.99999)] = 0.95
    """Momentum of sgd and muon; mu of dion."""
    momentum_share: Annotated[float, Between(0.0, 1.0)] = 0.9
    """mtdao: weight of the slow momentum in the update; the raw gradient has the rest."""
    rank_fraction: Annotated[float, Between(1e-6, 1.0)] = 0.25
    """dion: rank of the update as a share of the smaller side of a matrix."""
    rank_multiple: Annotated[int, Between(1, 65536)] = 1
    """dion: the rank is rounded up to a multiple of this."""
    scalar: Annotated[str, OneOf("adamw", "lion")] = "adamw"
    """muon, dion: what trains vectors, embeddings and the output head."""
    scalar_lr_ratio: Annotated[float, Between(1e-6, 1e6)] = 1.0
    """muon, dion: learning rate of the scalar optimizer, as a multiple of lr."""
    state_dtype: Annotated[str, OneOf("fp32", "bf16")] = "fp32"
    """dion: number format in which momentum and basis are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterConfig:
    """What nodes do beyond inner steps: the method, and the local outer step (NoLoCo's heavy ball), every H own inner steps."""

    method: Annotated[str, OneOf("average", "ab")] = "average"
    """average: everybody trains everything, and meetings average it; ab: AB-training (see ab_training): in stretches of the run
    each node trains one factor of each hidden matrix, and meets only those that train the same one. No local outer step with it."""
    every_steps: Annotated[int, Between(0, 1_000_000)] = 0
    """H, own inner steps per outer step; 0 switches it off: with frequent small meetings it cost loss where we measured."""
    momentum: Annotated[float, Between(0.0, 0.9999)] = 0.5
    """a, outer momentum (paper alpha)."""
    lr: Annotated[float, Between(1e-6, 10.0)] = 0.7
    """b, outer learning rate (paper beta)."""
    mixing_gain: Annotated[float, Between(1e-6, 1.999)] = 1.0
    """g, mixing strength (paper gamma): a meeting moves each end by g/2 of the difference; 1 is the pair average."""
    mixing: Annotated[str, OneOf("direct", "momentum")] = "direct"
    """direct: corrections stay outside the outer momentum; momentum: they also enter it, as in the paper."""

    def check(self) -> None:
        bound = 2 * (1 - self.momentum**2)
        if self.mixing == "momentum" and self.mixing_gain >= bound:
            fail(
                "outer.mixing_gain",
                self.mixing_gain,
                f"g < 2 (1 - a^2) = {bound:.4g} with a = outer.momentum = {self.momentum:g}: mixing through the momentum "
                'lets replicas drift apart beyond it; lower it, lower the momentum, or use mixing = "direct"',
            )
        if self.mixing == "momentum" and not self.every_steps:
            fail(
                "outer.mixing",
                self.mixing,
                '"direct" with outer.every_steps = 0: without outer steps there is no momentum',
            )
        if self.method == "ab" and self.every_steps:
            fail(
                "outer.every_steps",
                self.every_steps,
                '0 with outer.method = "ab": its momentum would leave the factors',
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetingConfig:
    """What two nodes exchange, and how often (DES-LOC: each stream has its own period)."""

    codec: Annotated[str, OneOf("ab", "dense", "sparse")] = "sparse"
    """ab: low-rank factors of the pair's difference; dense: the whole tensors; sparse: a random subset of coordinates, another in
    each meeting."""
    dtype: Annotated[str, OneOf("fp32", "bf16", "int8", "int4")] = "int4"
    """Number format of payloads on the wire. The integers resolve the difference of two nodes, not the weights, so they are
    finer than they look; a node that does not know the size of differences yet sends bf16."""
    omega: Annotated[str, OneOf("seeded", "cached", "displacement")] = "seeded"
    """Test matrix of codec ab. seeded: drawn by both ends; cached: from the initiator's last correction; displacement: from
    its own movement since its last meeting (one more copy of the weights). The latter two travel with the offer."""
    budget_bytes: Annotated[int, Between(0, 1 << 40)] = 0
    """Most payload bytes a node sends for one stream coded ab or sparse in one meeting; ranks per tensor are chosen to fit. 0 is
    one bit for each parameter of the model. Whole tensors (codec dense, the last phase) and rank1 take what they take."""
    params_every_steps: Annotated[int, Between(1, 1_000_000)] = 5
    """K of the parameters, in own steps; due times are drawn around it so that nodes do not fall into step."""
    exp_avg_every_steps: Annotated[int, Between(-1, 1_000_000)] = -1
    """K of the first moment; 0 is never, -1 is what follows from its half-life: never at beta1 <= 0.95, where it is forgotten
    before the next meeting, else the half-life."""
    exp_avg_sq_every_steps: Annotated[int, Between(-1, 1_000_000)] = -1
    """K of the second moment; 0 is never, -1 is its half-life, but not below params_every_steps."""
    momentum_every_steps: Annotated[int, Between(-1, 1_000_000)] = -1
    """K of the momentum of sgd, muon and dion; 0 is never, -1 follows from its half-life as for the first moment."""
    exp_avg_sq_codec: Annotated[str, OneOf("rank1", "ab", "dense")] = "rank1"
    """rank1: row and column means, a multiplicative correction; ab: low-rank difference of the logarithms; dense: the whole
    second moment."""
    timing: Annotated[str, OneOf("uniform", "bernoulli")] = "uniform"
    """Gaps between meetings. uniform: K/2 to 3K/2; bernoulli: each step with probability 1/K, as in DES-LOC's proofs."""
    clip_ratio: Annotated[float, Between(0.0, 1e6)] = 4.0
    """Clipped gossip: a correction is scaled down to this many times the median size of a node's recent ones; 0 switches it off."""
    dense_last_ratio: Annotated[float, Between(0.0, 1.0)] = 0.02
    """Share of the run, at its end, in which the parameters meet densely so that replicas agree closely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """Who may take part."""

    admission: Annotated[str, OneOf("open", "invite", "allow-list")] = "open"
    """open: anybody who knows an address; invite: those to whom the organiser has given an invitation (see 'invite create'), for
    as long as it lasts; allow-list: the members named here, and nobody later."""
    organiser: str = ""
    """Peer id of who signs invitations (see 'identity show'), and who may always take part; needed for invite."""
    members: tuple[str, ...] = ()
    """Peer ids that may take part, for allow-list."""

    def check(self) -> None:
        for key, peers in (("organiser", (self.organiser,) if self.organiser else ()), ("members", self.members)):
            for peer in peers:
                if not _PEER_ID.fullmatch(peer):
                    fail(f"security.{key}", peer, "peer ids as 'lowcomm-node identity show' prints them")
        if self.admission == "invite" and not self.organiser:
            fail(
                "security.organiser",
                "",
                "the peer id of who invites ('lowcomm-node identity show'), with admission = \"invite\"",
            )
        if self.admission == "allow-list" and not self.members:
            fail("security.members", [], 'the peer ids that may take part, with admission = "allow-list"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One run."""

    name: Annotated[str, Length(1, 100)] = "my-run"
    """What people call the run; part of the run id."""
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0
    """Seed of the initial weights and of everything else that is drawn in common."""
    protocol_version: Annotated[int, Between(1, 1_000_000)] = 1
    """Version of the wire contract the run was started with."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)
    meeting: MeetingConfig = field(default_factory=MeetingConfig)
    ab_training: AbTrainingConfig = field(default_factory=AbTrainingConfig)
    security: SecurityConfig = field(default_factory=SecurityConfig)

    def check(self) -> None:
        if self.model.kind != "task" and self.data.tokenizer == BYTES and self.model.vocab_size < 256:
            fail("model.vocab_size", self.model.vocab_size, 'at least 256 with data.tokenizer = "byte"')
        if self.outer.method != "ab":
            _refuse_idle(self.ab_training)
        meeting = self.meeting
        if self.model.kind != "gpt":
            return  # its tensors are not known here
        if "ab" in (meeting.codec, meeting.exp_avg_sq_codec) and 0 < meeting.budget_bytes < self._rank_one_bytes:
            fail(
                "meeting.budget_bytes",
                meeting.budget_bytes,
                f"0 (one bit a parameter), or at least {self._rank_one_bytes}, rank 1 of this model's largest matrix, which would "
                "never be exchanged with less",
            )
        if meeting.codec == "sparse" and 0 < meeting.budget_bytes < self._sparsest_bytes:
            fail(
                "meeting.budget_bytes",
                meeting.budget_bytes,
                f"0 (one bit a parameter), or at least {self._sparsest_bytes}, one number of each of this model's "
                f"{self.model.num_tensors} tensors",
            )

    @property
    def budget_bytes(self) -> int:
        """meeting.budget_bytes, or what its 0 stands for: a bit a parameter, but enough to exchange every tensor."""
        if self.meeting.budget_bytes:
            return self.meeting.budget_bytes
        if self.model.kind != "gpt":
            return max(self.model.num_parameters // 8, _LEAST_BUDGET_BYTES)
        return max(self.model.num_parameters // 8, self._rank_one_bytes, self._sparsest_bytes)

    @property
    def _sparsest_bytes(self) -> int:
        """One number of each tensor; of integers, that takes a range, a checksum and a byte."""
        return self.model.num_tensors * (9 if self.meeting.dtype in ("int8", "int4") else 4)

    @property
    def _rank_one_bytes(self) -> int:
        """What the busier end sends for one direction of the largest matrix; integers begin with a meeting in bf16."""
        model, meeting = self.model, self.meeting
        matrices = ((model.vocab_size, model.d_model), (model.d_ff, model.d_model), (model.d_model, model.d_ff))
        itemsize, check_bytes = (4, 0) if meeting.dtype == "fp32" else (2, 4)
        sent = 1 if meeting.omega == "seeded" else 2
        return max((m + sent * n) * itemsize for m, n in matrices) + check_bytes

    @property
    def tokens_per_step(self) -> int:
        """Tokens one node trains on in one inner step."""
        return self.training.batch_size * self.model.context_length


def _refuse_idle(config: AbTrainingConfig) -> None:
    """Who writes a value there means it to do something."""
    for key in fields(config):
        if getattr(config, key.name) != key.default:
            fail(
                f"ab_training.{key.name}",
                getattr(config, key.name),
                f'{key.default}, its default, unless outer.method = "ab"',
            )
