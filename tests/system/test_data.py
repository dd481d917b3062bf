"""Real nodes that train on tokens: text with a tokenizer.json, shards of the same tokens, and a dataset."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowcomm_node.train.data.shards import write_shard
from lowcomm_node.train.data.tokenizer import FileEncoder, digest_of, read_tokenizer, train_tokenizer
from tests.system.real_nodes import TINY_MANIFEST, RealNode

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, a manifest that names it, and the same text as files, as a shard and as rows."""
    folder = tmp_path_factory.mktemp("n")
    texts = [f"the quick brown fox {index} jumps over the lazy dog\n" * 60 for index in range(40)]
    content = train_tokenizer(texts, 400)
    (folder / "tokenizer.json").write_bytes(content)
    (folder / "other.json").write_bytes(train_tokenizer(texts, 300))
    manifest = TINY_MANIFEST.replace("[model]", "[model]\nvocab_size = 512")
    (folder / "run.toml").write_text(f'{manifest}[data]\ntokenizer = "{digest_of(content)}"\n')
    (folder / "text").mkdir()
    for index, text in enumerate(texts):
        (folder / "text" / f"{index}.txt").write_text(text)
    encoder = FileEncoder(read_tokenizer(folder / "tokenizer.json")[0])
    write_shard(folder / "train.bin", encoder.encode(texts), encoder.vocab_size)
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture(scope="module")
def first(workshop: Path) -> Iterator[RealNode]:
    """The node that started the run, training on text."""
    tokenizer = f"data.tokenizer={workshop / 'tokenizer.json'}"
    manifest = str(workshop / "run.toml")
    node = RealNode(workshop / "first", "--manifest", manifest, "--set", tokenizer, text=workshop / "text")
    try:
        node.wait_for(lambda status: status["state"] == "training", 60, "the first node trains")
        yield node
    finally:
        node.clean_up()


def test_nodes_meet_whatever_their_tokens_come_from(workshop: Path, first: RealNode) -> None:
    """A joiner with a shard of the run's tokens, and one with rows of a dataset, which reads them in a process of its own."""
    address = first.status()["join_address"]
    tokenizer = f"data.tokenizer={workshop / 'tokenizer.json'}"
    rows = f"data.dataset={workshop / 'rows.jsonl'}"
    joiners = [
        RealNode(workshop / "shard", "--peers", address, text=workshop / "train.bin"),
        RealNode(
            workshop / "rows",
            "--peers",
            address,
            "--set",
            tokenizer,
            "--set",
            rows,
            "--set",
            "data.paths=",
            text=Path(),
        ),
    ]
    try:
        for joiner in joiners:
            joiner.wait_for(lambda s: s["meetings"]["completed"] >= 3, 90, "the joiner meets")
        for joiner in joiners:
            assert joiner.end() == 0
            assert joiner.survivors() == []
    finally:
        for joiner in joiners:
            joiner.clean_up()


def test_a_joiner_is_told_which_tokenizer_it_needs(workshop: Path, first: RealNode) -> None:
    """Without one, and with another: it ends at once with the digest and the cure."""
    address = first.status()["join_address"]
    for number, (options, reason) in enumerate(
        (
            ([], "get that tokenizer.json from who started the run"),
            (["--set", f"data.tokenizer={workshop / 'other.json'}"], "is another tokenizer than the run's"),
        )
    ):
        node = RealNode(workshop / f"wrong{number}", "--peers", address, *options, text=workshop / "text")
        try:
            assert node.process.wait(60) != 0
            assert reason in node.tail()
        finally:
            node.clean_up()
