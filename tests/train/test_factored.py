"""Which tensors AB-training splits."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import nn

from lowcomm_node.settings.manifest import Manifest, ModelConfig
from lowcomm_node.train.factored import factored_positions
from lowcomm_node.train.gpt import build_gpt
from tests.train.pairs import tiny_manifest


class Kernels:
    """A task whose model has one of everything; only its tensors are looked at."""

    def build(self, options: Mapping[str, object]) -> nn.Module:
        """A network that nobody calls."""
        del options
        model = nn.Module()
        model.positions = nn.Parameter(nn.init.zeros_(nn.Linear(16, 16).weight)[None])
        model.token = nn.Parameter(nn.Linear(16, 1).weight[None].detach())
        model.first = nn.Conv2d(1, 16, 3)
        model.second = nn.Conv2d(16, 32, 3)
        model.pointwise = nn.Conv1d(32, 32, 1)
        model.narrow = nn.Conv2d(32, 4, 3)
        model.depthwise = nn.Conv2d(32, 32, 3, groups=32)
        model.norm = nn.GroupNorm(1, 32)
        model.hidden = nn.Linear(32, 32)
        model.head = nn.Linear(32, 10)
        return model

    def matrices(self, model: nn.Module) -> list[str]:
        """Of the hidden layer."""
        del model
        return ["hidden.weight"]

    loss = load = batch = matrices


KERNELS = Kernels()


def _names(model: nn.Module, manifest: Manifest, least_side: int) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    return [names[position] for position in factored_positions(model, manifest, least_side)]


def test_hidden_matrices_and_kernels_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the layer that reads the input, not the head, not positions and tokens, nothing narrow, no vector."""
    metadata = tmp_path / "kernels-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[lowcomm_node.tasks]\nkernels = tests.train.test_factored:KERNELS\n")
    monkeypatch.syspath_prepend(tmp_path)
    manifest = Manifest(model=ModelConfig(kind="task", task="kernels", parameters=1))

    model = KERNELS.build({})

    wide = ["second.weight", "pointwise.weight"]
    assert _names(model, manifest, 10) == [*wide, "hidden.weight"]
    assert _names(model, manifest, 8) == [*wide, "depthwise.weight", "hidden.weight"]
    assert _names(model, manifest, 4) == [*wide, "narrow.weight", "depthwise.weight", "hidden.weight"]


def test_a_language_model_splits_its_blocks() -> None:
    """Embedding and head stay whole, and so does everything when nothing is wide enough."""
    manifest = tiny_manifest()
    model = build_gpt(manifest.model, 0)

    names = _names(model, manifest, 16)

    assert len(names) == 7
    assert all(name.startswith("blocks.0.") for name in names)
    assert _names(model, manifest, 17) == []
