"""Exported models: the mean of nodes, read back as it was written, by transformers too."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lowcomm_node.algo.consensus import mean_state, spread
from lowcomm_node.errors import StoreError
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.exported import Consensus, read_exported, read_parameters, write_exported
from lowcomm_node.train.state_file import write_state
from lowcomm_node.units import PeerId, RunId
from tests.train.pairs import tiny_manifest, tiny_session, train
from tests.train.test_foreign import KINDS, manifest_of


def _consensus(manifest: Manifest, folder: Path) -> Consensus:
    """Of two nodes that have trained for some steps."""
    run = run_id(manifest)
    found = Consensus(manifest, run, lambda parameters: float(parameters[min(parameters)].sum()))
    for steps, peer in ((2, "a"), (5, "b")):
        session = tiny_session(manifest, peer)
        train(session, steps)
        write_state(folder / peer, session.replica.state(), run)
        found.take(folder / peer, PeerId(peer))
    return found


def test_the_model_is_the_mean_of_the_nodes(tmp_path: Path) -> None:
    """Every parameter, by name; with the manifest that it was trained by, and what a person reads."""
    manifest = tiny_manifest()
    consensus = _consensus(manifest, tmp_path)

    write_exported(tmp_path / "model", manifest, consensus.parameters(), "a card")
    exported = read_exported(tmp_path / "model")

    members = [read_parameters(tmp_path / peer, manifest, run_id(manifest))[0] for peer in ("a", "b")]
    mean = mean_state(members)
    parameters = dict(exported.model.named_parameters())
    assert parameters.keys() == mean.keys()
    assert all(torch.equal(parameters[name], mean[name]) for name in mean)
    assert not torch.equal(mean["embedding"], members[0]["embedding"])
    assert (exported.manifest, exported.run_id, exported.tokenizer) == (manifest, run_id(manifest), None)
    assert (tmp_path / "model" / "README.md").read_text() == "a card"
    assert [(taken.peer, taken.counters.steps) for taken in consensus.taken] == [("a", 2), ("b", 5)]
    assert [taken.judged for taken in consensus.taken] == [float(member[min(member)].sum()) for member in members]
    assert consensus.spread == pytest.approx(spread(members), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_its_models(kind: str, tmp_path: Path) -> None:
    """From the folder alone, with the logits of the model that was exported."""
    transformers = pytest.importorskip("transformers")
    manifest = manifest_of(KINDS[kind])
    write_exported(tmp_path / "model", manifest, _consensus(manifest, tmp_path).parameters(), "")

    ours = read_exported(tmp_path / "model").model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()

    tokens = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        assert torch.allclose(ours(tokens).logits, theirs(tokens).logits, atol=1e-5)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """A name that is taken, or a place that takes no folders."""
    manifest = tiny_manifest()
    parameters = _consensus(manifest, tmp_path).parameters()
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("kept")
    before = sorted(tmp_path.iterdir())

    for folder in (tmp_path / "file" / "model", tmp_path / "taken"):
        with pytest.raises(StoreError, match="cannot be written"):
            write_exported(folder, manifest, parameters, "")

    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "taken" / "mine").read_text() == "kept"


def test_damage_is_named(tmp_path: Path) -> None:
    """Weights of another shape, weights missing, bytes that are no weights, a folder that is none."""
    manifest = tiny_manifest()
    write_exported(tmp_path / "model", manifest, _consensus(manifest, tmp_path).parameters(), "")
    weights = tmp_path / "model" / "model.safetensors"
    good = load_file(weights)

    for bad in ({**good, "embedding": torch.zeros(2, 2)}, {k: v for k, v in good.items() if k != "embedding"}):
        save_file(bad, weights)
        with pytest.raises(StoreError, match="not the weights of its"):
            read_exported(tmp_path / "model")
    weights.write_bytes(b"no weights")
    with pytest.raises(StoreError, match="not a model that lowcomm-node export has written"):
        read_exported(tmp_path / "model")
    with pytest.raises(StoreError, match="not a model that lowcomm-node export has written"):
        read_exported(tmp_path)


def test_a_state_that_is_refused_leaves_the_mean_as_it_was(tmp_path: Path) -> None:
    """Another run's, one with a value that is no number, one that is gone; and looking at a state takes nothing in."""
    manifest = tiny_manifest()
    consensus = _consensus(manifest, tmp_path)
    before = consensus.parameters()
    state = tiny_session(manifest, "c").replica.state()
    write_state(tmp_path / "other", state, RunId("ab" * 32))
    state.tensors["params/embedding"][0, 0] = torch.nan
    write_state(tmp_path / "nan", state, run_id(manifest))

    for name in ("other", "nan", "gone"):
        with pytest.raises(StoreError):
            consensus.look(tmp_path / name)
        with pytest.raises(StoreError):
            consensus.take(tmp_path / name, PeerId("c"))
    looked_at = consensus.look(tmp_path / "a")

    assert looked_at.sketch != consensus.initial_sketch
    assert len(consensus.taken) == 2
    assert all(torch.equal(consensus.parameters()[name], before[name]) for name in before)
