"""A compact modern GPT: RMSNorm before each half block, rotary positions, SwiGLU, no bias anywhere.

Shapes in comments: B batch, T time, D model width, H heads, K head width, V vocabulary.
The order of ``named_parameters()`` is the order that meeting plans and state files refer to.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lowcomm_node.settings.model import ModelConfig

__all__ = ["GPT", "build_gpt", "hidden_matrices"]

_RMS_EPS = 1e-6
_SMALL_STD = 0.02
_EMBEDDING_STD = 0.5
"""By trial (0.02, 0.1, 0.5, 1.0 at the default shape: loss 2.26, 2.20, 2.12, 2.12 after 300 steps)."""


class RMSNorm(nn.Module):
    """``x / rms(x) * weight`` over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, _RMS_EPS)


class Projection(nn.Module):
    """``x W^T`` with weight ``(out_features, in_features)``; unlike nn.Linear it draws nothing at construction."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


class Attention(nn.Module):
    """Causal self-attention with rotary positions and, if asked, RMS-normalised queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qk_norm = config.qk_norm
        self.query = Projection(config.d_model, config.d_model)
        self.key = Projection(config.d_model, config.d_model)
        self.value = Projection(config.d_model, config.d_model)
        self.out = Projection(config.d_model, config.d_model)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        # (B, T, D) -> (B, H, T, K)
        q, k, v = (self._split(project(x)) for project in (self.query, self.key, self.value))
        if self.qk_norm:
            q, k = (functional.rms_norm(t, (t.shape[-1],), eps=_RMS_EPS) for t in (q, k))
        # Under autocast the norm may have widened q and k; attention takes one dtype.
        q, k = (_rotate(t, cos, sin).to(v.dtype) for t in (q, k))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return cast("Tensor", self.out(y.transpose(1, 2).reshape(x.shape)))

    def _split(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        return x.view(batch, time, self.num_heads, width // self.num_heads).transpose(1, 2)


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Projection(config.d_model, config.d_ff)
        self.up = Projection(config.d_model, config.d_ff)
        self.down = Projection(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.down(functional.silu(self.gate(x)) * self.up(x)))


class Block(nn.Module):
    """One transformer block on the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.d_model)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return cast("Tensor", x + self.mlp(self.mlp_norm(x)))


class GPT(nn.Module):
    """Decoder-only language model. Parameters are uninitialised until ``build_gpt`` fills them."""

    rope_cos: Tensor
    rope_sin: Tensor
    is_recomputing = False
    """Keep only what enters each block, and compute the rest again for the backward pass."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = RMSNorm(config.d_model)
        self.head = None if config.tie_embeddings else Projection(config.d_model, config.vocab_size)
        cos, sin = _rope_tables(config)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(B, T, V)`` for int64 tokens ``(B, T)`` with T at most the context length."""
        time = tokens.shape[1]
        cos, sin = self.rope_cos[:time], self.rope_sin[:time]
        x = functional.embedding(tokens, self.embedding)
        for block in self.blocks:
            if self.is_recomputing and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, use_reentrant=False, preserve_rng_state=False)  # nothing is random
            else:
                x = block(x, cos, sin)
        head = self.embedding if self.head is None else self.head.weight
        return functional.linear(self.final_norm(x), head)


def build_gpt(config: ModelConfig, seed: int) -> GPT:
    """The network with its initial weights, on the CPU, in float32.

    Every node draws the same weights from ``seed``; torch's global generator is not touched.
    Matrices are normal with standard deviation ``1 / sqrt(fan_in)``; those that write to the residual stream are
    divided by ``sqrt(2 * num_layers)`` so that depth does not raise its variance (GPT-2); the output head is small so
    that the first loss is near ``log V``; a tied embedding therefore starts small too.
    """
    model = GPT(config)
    generator = torch.Generator().manual_seed(seed)
    residual_scale = (2 * config.num_layers) ** -0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
                continue
            std = float(parameter.shape[1] ** -0.5)
            if name == "embedding":
                std = _SMALL_STD if config.tie_embeddings else _EMBEDDING_STD
            elif name == "head.weight":
                std = _SMALL_STD
            elif name.endswith(("out.weight", "down.weight")):
                std *= residual_scale
            parameter.normal_(0.0, std, generator=generator)
    return model


def hidden_matrices(model: GPT) -> tuple[int, ...]:
    """Positions, in the order of ``parameters()``, of the blocks' matrices: what Muon and Dion train.

    By name and not by shape: embedding and output head are matrices too, but their rows are tokens, and both methods
    do poorly on them.
    """
    named = enumerate(model.named_parameters())
    return tuple(index for index, (name, p) in named if name.startswith("blocks.") and p.ndim == 2)


def _rope_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    head_width = config.d_model // config.num_heads
    # float64 so that the tables are the same on every machine after rounding.
    frequencies = config.rope_base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angles = torch.outer(torch.arange(config.context_length, dtype=torch.float64), frequencies)
    return angles.cos().float(), angles.sin().float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of each head as the real and imaginary part (RoFormer, 2104.09864, in GPT-NeoX layout)."""
    real, imaginary = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)
