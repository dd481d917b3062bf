"""``export``, ``generate`` and ``eval``: from nodes' state directories to a model that writes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.adapters.run_memory import RunMemory
from lowcomm_node.cli.app import main
from lowcomm_node.settings.canonical import canonical_bytes, run_id
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.batches import Batch
from lowcomm_node.train.checkpoint import MeetingMemory, write_checkpoint
from lowcomm_node.train.data.tokenizer import digest_of, train_tokenizer
from lowcomm_node.train.replica import Replica
from tests.train.pairs import tiny_manifest
from tests.train.vision.manifests import picture_manifest

_TOKENS = torch.arange(2 * 17).reshape(2, 17)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    return path


def _node(folder: Path, manifest: Manifest, steps: int, batch: Batch = _TOKENS) -> str:
    """A state directory as a node leaves it."""
    peer = load_or_create(folder / "identity.key").peer_id
    replica = Replica(manifest, torch.device("cpu"))
    for _ in range(steps):
        replica.train_step(batch)
    RunMemory(folder).save(canonical_bytes(manifest), [])
    (folder / "checkpoints").mkdir()
    write_checkpoint(folder / "checkpoints" / "00000007", replica.state(), run_id(manifest), MeetingMemory())
    return peer


def test_from_two_nodes_to_text(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    """The card names the run, both nodes and the loss that eval measures; the same seed writes the same text."""
    manifest = tiny_manifest()
    peers = [_node(tmp_path / name, manifest, steps) for name, steps in (("a", 1), ("b", 3))]
    model, data = str(tmp_path / "model"), f'data.paths=["{text}"]'

    assert main(["export", model, "--from", str(tmp_path / "a"), "--from", str(tmp_path / "b"), "--set", data]) == 0
    assert "the mean of 2 nodes" in capsys.readouterr().out
    assert main(["eval", "--model", model, "--data", str(text), "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    card = (tmp_path / "model" / "README.md").read_text()
    assert all(peer in card for peer in peers)
    assert run_id(manifest) in card
    assert f"loss {judged['loss']:.4f}" in card
    assert judged["bits_per_byte"] == pytest.approx(judged["loss"] / 0.6931, rel=1e-3)

    written = []
    for seed in ("1", "1", "2"):
        assert main(["generate", "--model", model, "--prompt", "the ", "--tokens", "40", "--seed", seed]) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1] != written[2]
    assert written[0].startswith("the ")
    assert len(written[0]) > 20


def test_a_model_of_pictures_says_how_often_it_is_right(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Accuracy in the card, in words and as JSON; of text, tokens and generating nothing is said."""
    manifest = picture_manifest("vgg")
    _node(tmp_path / "a", manifest, 1, (torch.rand(4, 1, 8, 8), torch.arange(4)))
    model = str(tmp_path / "model")

    assert main(["export", model, "--from", str(tmp_path / "a")]) == 0
    assert f"try it: lowcomm-node eval --model {model}\n" in capsys.readouterr().out
    assert main(["eval", "--model", model, "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert main(["eval", "--model", model]) == 0
    words = capsys.readouterr().out
    card = (tmp_path / "model" / "README.md").read_text()

    assert 0 <= judged["accuracy"] <= 1
    assert judged["bits_per_byte"] is None
    assert judged["examples"] == 376
    assert f"accuracy       {judged['accuracy']:.2%}\nexamples       376\n" in words
    assert f"accuracy {judged['accuracy']:.2%}, over 376 examples" in card
    assert "(task vgg)" in card
    assert not any(word in card for word in ("generate", "UTF-8", "--data TEXT", "| tokens |"))
    assert main(["generate", "--model", model, "--prompt", "x"]) != 0
    assert 'a model of the task "vgg" writes no text' in capsys.readouterr().err


def test_what_makes_no_sense_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nodes of two runs, a directory of no node, a folder that is there, a prompt without a letter."""
    one, other = tiny_manifest(), dataclasses.replace(tiny_manifest(), seed=9)
    _node(tmp_path / "a", one, 1)
    _node(tmp_path / "b", other, 1)
    a, b, model = (str(tmp_path / name) for name in ("a", "b", "model"))

    assert main(["export", model, "--from", a, "--from", b]) != 0
    assert "these nodes were in different runs" in capsys.readouterr().err
    assert main(["export", model, "--from", str(tmp_path)]) != 0
    assert "no node has left a checkpoint there" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    assert main(["export", a, "--from", a, "--no-eval"]) != 0
    assert "is there already" in capsys.readouterr().err
    assert main(["export", model, "--from", a, "--no-eval"]) == 0
    assert "not measured" in capsys.readouterr().out
    for words, reason in (
        (["--from", a, "--members", "2"], "give only one of the two"),
        (["--members", "0"], "at least one"),
        (["--run", "abcd"], "go with --peers or --members"),
        (["--members", "2", "--state-dir", a], "knows no member of a run"),
        (["--peers", "NONSENSE"], "one looks like /ip4/"),
    ):
        assert main(["export", str(tmp_path / "other"), *words]) != 0
        assert reason in capsys.readouterr().err
    assert not list(tmp_path.glob(".other*"))
    assert main(["generate", "--model", model, "--prompt", ""]) != 0
    assert "--prompt is empty" in capsys.readouterr().err
    assert main(["generate", "--model", a, "--prompt", "x"]) != 0
    assert "not a model that lowcomm-node export has written" in capsys.readouterr().err


def test_a_nodes_own_tokens_are_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    """The incident: judging with a tokenizer made tokens in the state directory, which keeps one set, and removed the node's."""
    content = train_tokenizer([text.read_text()], 256 + 1)
    (tmp_path / "tokenizer.json").write_bytes(content)
    tiny = tiny_manifest()
    manifest = dataclasses.replace(
        tiny,
        data=dataclasses.replace(tiny.data, tokenizer=digest_of(content)),
        model=dataclasses.replace(tiny.model, vocab_size=300),
    )
    _node(tmp_path / "a", manifest, 1)
    own = tmp_path / "a" / "tokens" / "pool" / "0.bin"
    own.parent.mkdir(parents=True)
    own.write_text("of the node")
    words = ["--set", f'data.paths=["{text}"]', "--set", f"data.tokenizer={tmp_path / 'tokenizer.json'}"]

    assert main(["export", str(tmp_path / "model"), "--state-dir", str(tmp_path / "a"), *words]) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert (
        main(["eval", "--model", str(tmp_path / "model"), "--data", str(text), "--state-dir", str(tmp_path / "a")]) == 0
    )
    assert "bits per byte" in capsys.readouterr().out
    assert main(["generate", "--model", str(tmp_path / "model"), "--prompt", "the", "--tokens", "5"]) == 0
    assert own.read_text() == "of the node"
    assert [path.name for path in (tmp_path / "a" / "tokens").iterdir()] == ["pool"]


def test_a_dataset_is_judged_by_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Where the settings name one: the card tells which, at which revision; --data goes before it."""
    rows = tmp_path / "rows"
    rows.mkdir()
    for name in ("train", "validation"):
        (rows / f"{name}.jsonl").write_text("".join(json.dumps({"text": f"{name} {n}"}) + "\n" for n in range(300)))
    _node(tmp_path / "a", tiny_manifest(), 1)
    model = str(tmp_path / "model")
    words = ["--set", f"data.dataset={rows}", "--set", "data.dataset_revision=v2"]

    assert main(["export", model, "--from", str(tmp_path / "a"), *words]) == 0
    assert "bits per byte" in capsys.readouterr().out
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"reads the dataset `{rows}` (split `train`, revision `v2`)" in card
    assert main(["eval", "--model", model, "--json", *words]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert f"loss {judged['loss']:.4f}" in card
    (tmp_path / "text.txt").write_text("something else entirely, " * 100)
    assert main(["eval", "--model", model, "--json", "--data", str(tmp_path / "text.txt"), *words[:2]]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] != judged["loss"]
