"""Settings that go together: what ``--optimizer KIND`` of ``init`` and ``swarm``, and ``init --model SIZE`` put into a manifest."""

from collections.abc import Mapping
from dataclasses import replace

from lowcomm_node.settings.manifest import Manifest, OptimizerConfig
from lowcomm_node.settings.model import ModelConfig

__all__ = ["MODELS", "OPTIMIZERS", "model_table", "with_model"]

OPTIMIZERS: Mapping[str, OptimizerConfig] = {
    "adamw": OptimizerConfig(kind="adamw", lr=6e-3),
    # The root of the second moment is floored at eps instead of added to it, so eps is larger.
    "adopt": OptimizerConfig(kind="adopt", lr=6e-3, beta2=0.999, eps=1e-6),
    # The slow momentum outlives many meetings; the raw gradient in the update keeps it responsive.
    "mtdao": OptimizerConfig(kind="mtdao", lr=6e-3, beta1=0.999, momentum_share=0.9),
    # Weights shrink by lr * weight_decay a step: a large learning rate wants a small decay.
    "sgd": OptimizerConfig(kind="sgd", lr=0.3, momentum=0.9, weight_decay=1e-3),
    # Its updates are scaled to the root mean square of AdamW's, so that one learning rate fits `scalar` too; it takes twice AdamW's.
    "muon": OptimizerConfig(kind="muon", lr=0.012, momentum=0.95),
    # lr is for orthonormal updates; `scalar` is AdamW with lr * scalar_lr_ratio.
    "dion": OptimizerConfig(kind="dion", lr=0.03, momentum=0.95, scalar_lr_ratio=0.2),
}
"""Starting values for the default model and run length, by kind; "muon" is the manifest's own default."""

MODELS: Mapping[str, ModelConfig] = {
    name: ModelConfig(num_layers=layers, num_heads=heads, d_model=width, d_ff=hidden, context_length=context)
    for name, layers, heads, width, hidden, context in (
        ("1m", 5, 4, 128, 352, 256),
        ("10m", 8, 5, 320, 832, 512),
        ("30m", 9, 8, 512, 1408, 512),
        ("125m", 18, 12, 768, 2048, 1024),
        ("350m", 27, 16, 1024, 2816, 1024),
        ("760m", 27, 12, 1536, 4096, 2048),
        ("1.3b", 25, 16, 2048, 5632, 2048),
    )
}
"""GPTs by their size with the byte vocabulary; a larger vocabulary adds to it. Hidden layers are 8/3 of the width, rounded up."""

_SCALED = ("adamw", "adopt", "mtdao", "muon")
"""Whose updates have the size of Adam's for every weight: a wider layer sums more of them."""


def with_model(manifest: Manifest, model: ModelConfig) -> Manifest:
    """The manifest with another gpt, and a learning rate for its width.

    The presets' rates are for the default width. Of optimizers whose updates have Adam's size it falls with the width, as in
    maximal update parametrisation (2203.03466); that brings it near those of the GPT-3 paper (2005.14165) at their sizes.
    """
    optimizer = manifest.optimizer
    if optimizer.kind in _SCALED:
        scaled = optimizer.lr * ModelConfig().d_model / model.d_model
        optimizer = replace(optimizer, lr=float(f"{scaled:.2g}"))
    return replace(manifest, model=model, optimizer=optimizer)


def model_table() -> str:
    """The sizes of ``MODELS``, a line each."""
    head = ("size", "parameters", "layers", "width", "heads", "context", "GFLOP a token")
    rows = [
        (
            name,
            f"{model.num_parameters:,}",
            f"{model.num_layers}",
            f"{model.d_model}",
            f"{model.num_heads}",
            f"{model.context_length}",
            f"{model.flops_per_token / 1e9:.3g}",
        )
        for name, model in MODELS.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)
    )
