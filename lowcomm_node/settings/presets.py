"""Optimizer settings that go together: what ``--optimizer KIND`` of ``init`` and ``swarm`` puts into a manifest."""

from collections.abc import Mapping

from lowcomm_node.settings.manifest import OptimizerConfig

__all__ = ["OPTIMIZERS"]

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
