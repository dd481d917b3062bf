"""What a node trains with, from each kind of data."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch

from lowcomm_node.settings.manifest import DataConfig, Manifest
from lowcomm_node.settings.node import DataSettings, NodeSettings
from lowcomm_node.train.data.shards import write_shard
from lowcomm_node.train.data.tokenizer import FileEncoder, digest_of, read_tokenizer, train_tokenizer
from lowcomm_node.train.session import Session, build_session
from lowcomm_node.units import PeerId
from tests.train.batches import one_tensor
from tests.train.pairs import RUN, tiny_manifest, tiny_settings, train

TEXTS = [f"the number {k} follows the number {k - 1}, and the number {k + 1} follows it\n" * 6 for k in range(80)]


class Node:
    """A tokenizer and the same text in every form, and sessions on one of them."""

    def __init__(self, folder: Path, kind: str) -> None:
        content = train_tokenizer(TEXTS, 300)
        tokenizer = folder / "tokenizer.json"
        tokenizer.write_bytes(content)
        tiny = tiny_manifest()
        self.manifest: Manifest = dataclasses.replace(
            tiny,
            model=dataclasses.replace(tiny.model, vocab_size=304),
            data=DataConfig(tokenizer=digest_of(content)),
        )
        (folder / "text").mkdir()
        for number, text in enumerate(TEXTS):
            (folder / "text" / f"{number}.txt").write_text(text)
        encoder = FileEncoder(read_tokenizer(tokenizer)[0])
        write_shard(folder / "train.bin", encoder.encode(TEXTS), encoder.vocab_size)
        (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        data = {
            "text": DataSettings(paths=(str(folder / "text"),), tokenizer=str(tokenizer)),
            "shard": DataSettings(paths=(str(folder / "train.bin"),)),
            "dataset": DataSettings(dataset=str(folder / "rows.jsonl"), tokenizer=str(tokenizer)),
        }[kind]
        settings = dataclasses.replace(tiny_settings(folder), data=data)
        self.settings: NodeSettings = dataclasses.replace(settings, state_dir=str(folder / "state"))

    @contextmanager
    def session(self) -> Iterator[Session]:
        with closing(build_session(self.manifest, self.settings, RUN, PeerId("peer"))) as session:
            yield session


@pytest.mark.parametrize("kind", ["text", "shard", "dataset"])
def test_training_resumes_to_the_bit(tmp_path: Path, kind: str) -> None:
    """Text in tokens, shards and rows of a dataset: loss falls, and another life goes on as if there had been one."""
    node = Node(tmp_path, kind)

    with node.session() as one:
        losses = train(one, 40)
        state = one.replica.state()
        saved = dataclasses.replace(state, tensors={name: tensor.clone() for name, tensor in state.tensors.items()})
        train(one, 5)
    with node.session() as other:
        other.replica.load(saved, is_own=True)
        train(other, 5)

    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(one.replica.theta, other.replica.theta, strict=True))
    assert all(torch.equal(one_tensor(a), one_tensor(b)) for a, b in zip(one.validation, other.validation, strict=True))
    assert max(int(one_tensor(window).max()) for window in one.validation) > 256
