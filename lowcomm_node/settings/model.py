"""The [model] section of the run manifest: what is trained, and how large that is, without building it."""

import json
from dataclasses import dataclass
from typing import Annotated

from lowcomm_node.settings.rules import Between, JsonObject, OneOf, fail

__all__ = ["ModelConfig"]

_UNSAFE_KEYS = ("auto_map", "attn_implementation", "quantization_config", "trust_remote_code")
"""What makes transformers fetch something, or run what it has fetched; so do keys with a leading underscore."""

_SHORTEST_SEQUENCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The network every node trains."""

    kind: Annotated[str, OneOf("gpt", "transformers", "task")] = "gpt"
    """Architecture. gpt: a decoder with RMSNorm, rotary positions and SwiGLU; transformers: any causal language model of the
    package of that name, see `config`; task: one that a package installed on every node brings, see `task`. Sizes from num_layers to rope_base describe gpt alone, but for
    context_length."""
    vocab_size: Annotated[int, Between(2, 1_000_000)] = 256
    """Number of tokens; the byte tokenizer needs at least 256."""
    num_layers: Annotated[int, Between(1, 512)] = 3
    """Transformer blocks."""
    num_heads: Annotated[int, Between(1, 512)] = 4
    """Attention heads; must divide d_model, and d_model / num_heads must be even."""
    d_model: Annotated[int, Between(8, 65536)] = 96
    """Width of the residual stream."""
    d_ff: Annotated[int, Between(8, 262144)] = 256
    """Width of the SwiGLU hidden layer."""
    context_length: Annotated[int, Between(1, 1_048_576)] = 96
    """Tokens a sequence is long, at least 8; of a task, what it counts an example for, from 1 on."""
    tie_embeddings: bool = False
    """Use the token embedding as output head too."""
    qk_norm: bool = True
    """RMS-normalise queries and keys."""
    rope_base: Annotated[float, Between(10.0, 1e9)] = 10000.0
    """Base of the rotary frequencies."""
    config: Annotated[str, JsonObject(16384)] = ""
    """A table [model.config], or the same as JSON text. transformers: the model's config.json with its "model_type"; weights are drawn
    from the run's seed, nothing is downloaded. task: its options."""
    task: str = ""
    """task: name of the entry point in the group lowcomm_node.tasks. A manifest names code, it never carries any: every node
    must have the package."""
    parameters: Annotated[int, Between(0, 10**13)] = 0
    """transformers, task: number of trained values, by which budgets and limits are reckoned before the model is built; a model
    that has another is refused, with the right number. 0 for gpt, whose number is known."""

    def check(self) -> None:
        if self.kind != "task" and self.context_length < _SHORTEST_SEQUENCE:
            fail(
                "model.context_length", self.context_length, f"at least {_SHORTEST_SEQUENCE} tokens of a language model"
            )
        if self.kind == "gpt" and (self.d_model % self.num_heads or (self.d_model // self.num_heads) % 2):
            fail("model.num_heads", self.num_heads, f"an even head width that divides model.d_model = {self.d_model}")
        if self.kind == "gpt":
            for key, value in (("config", self.config), ("task", self.task), ("parameters", self.parameters)):
                if value:
                    fail(f"model.{key}", value, 'nothing with model.kind = "gpt"')
            return
        if not self.parameters:
            fail(
                "model.parameters",
                0,
                f'the number of trained values with model.kind = "{self.kind}"; "lowcomm-node init" writes it',
            )
        if self.kind == "task":
            if not self.task:
                fail("model.task", "", 'the name of an installed task with model.kind = "task"')
        elif self.task:
            fail("model.task", self.task, 'nothing but with model.kind = "task"')
        else:
            self._check_transformers()

    def _check_transformers(self) -> None:
        options = self.options
        if not isinstance(options.get("model_type"), str):
            fail("model.config", self.config[:60], 'the config of a model, with its "model_type"')
        unsafe = sorted(key for key in _keys(options) if key in _UNSAFE_KEYS or key.startswith("_"))
        if unsafe:
            fail("model.config", ", ".join(unsafe)[:200], "keys that neither fetch nor run code; leave these out")
        vocab_size = options.get("vocab_size", self.vocab_size)
        if vocab_size != self.vocab_size:
            fail("model.vocab_size", self.vocab_size, f"{str(vocab_size)[:20]}, as in model.config")

    @property
    def options(self) -> dict[str, object]:
        """``config`` as a mapping; empty for none."""
        parsed: dict[str, object] = json.loads(self.config or "{}")
        return parsed

    @property
    def num_parameters(self) -> int:
        """Number of trained values, known without building the network."""
        if self.parameters:
            return self.parameters
        embeddings = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return self.num_layers * self._block_parameters + self.d_model + embeddings

    @property
    def num_tensors(self) -> int:
        """gpt: number of parameter tensors."""
        return 9 * self.num_layers + (2 if self.tie_embeddings else 3)

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of training on one token: 6 for each weight of a matrix product, and attention.

        Counted as is usual for comparisons: attention without regard to its causal half, and neither norms nor what
        recomputing activations adds. Of kinds other than gpt only the first part is known, with all weights in it.
        """
        if self.kind != "gpt":
            return 6 * self.parameters
        head = self.vocab_size * self.d_model
        matrices = self.num_layers * (self._block_parameters - 2 * self.d_model) + head
        return 6 * matrices + 12 * self.num_layers * self.d_model * self.context_length

    @property
    def _block_parameters(self) -> int:
        return 2 * self.d_model + 4 * self.d_model**2 + 3 * self.d_model * self.d_ff


def _keys(tree: object) -> set[str]:
    """The keys of all objects in parsed JSON, however deep."""
    if isinstance(tree, dict):
        return set(tree).union(*map(_keys, tree.values()))
    return set[str]().union(*map(_keys, tree)) if isinstance(tree, list) else set()
