"""The run's tokenizer."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lowcomm_node.errors import DataError
from lowcomm_node.settings.manifest import DataConfig, Manifest, ModelConfig
from lowcomm_node.train.data import tokenizer as tokenizer_module
from lowcomm_node.train.data.tokenizer import (
    ByteEncoder,
    FileEncoder,
    choose_encoder,
    digest_of,
    read_tokenizer,
    train_tokenizer,
)

TEXTS = [f"the number {k} follows the number {k - 1}, naïve as that is\n" * 5 for k in range(40)]


@pytest.fixture(scope="module")
def content() -> bytes:
    """A tokenizer of 320 tokens."""
    return train_tokenizer(TEXTS, 320)


@pytest.fixture
def path(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    return path


def _manifest(tokenizer: str, vocab_size: int = 320) -> Manifest:
    return dataclasses.replace(
        Manifest(), model=ModelConfig(vocab_size=vocab_size), data=DataConfig(tokenizer=tokenizer)
    )


def test_training_is_reproducible(content: bytes) -> None:
    """The same texts give the same file, whatever number of threads there is and whatever order a process hashes in."""
    code = (
        "import sys; from lowcomm_node.train.data.tokenizer import *;"
        f"sys.stdout.buffer.write(train_tokenizer({TEXTS!r}, 320))"
    )
    for threads in ("false", "true"):
        made = subprocess.run(
            [sys.executable, "-c", code],
            env={"TOKENIZERS_PARALLELISM": threads, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        )
        assert made.stdout == content


def test_any_text_comes_back(path: Path) -> None:
    """Ids decode to the text, script and signs that the tokenizer has never seen included; the document's end follows."""
    tokenizer, _ = read_tokenizer(path)
    texts = ["the number", "日本語 \x01 🙂", ""]

    encoded = list(FileEncoder(tokenizer).encode(texts))

    assert [tokenizer.decode(ids[:-1].tolist()) for ids in encoded] == texts
    assert {int(ids[-1]) for ids in encoded} == {tokenizer.token_to_id("<|endoftext|>")}
    assert len(encoded[0]) < len("the number")


def test_long_texts_are_encoded_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a text is cut, and how many are taken at a time, loses and doubles nothing."""
    tokenizer, _ = read_tokenizer(path)
    monkeypatch.setattr(tokenizer_module, "_PIECE_CHARACTERS", 50)
    monkeypatch.setattr(tokenizer_module, "_BATCH_CHARACTERS", 700)

    encoded = list(FileEncoder(tokenizer).encode(iter([*TEXTS, "x" * 333])))

    assert [tokenizer.decode(ids[:-1].tolist()) for ids in encoded] == [*TEXTS, "x" * 333]


def test_bytes_end_with_zero() -> None:
    """The byte tokenizer is what it always was."""
    assert [ids.tolist() for ids in ByteEncoder().encode(["ab", "ü"])] == [[97, 98, 0], [0xC3, 0xBC, 0]]


def test_settings_of_others_do_not_matter(tmp_path: Path, content: bytes) -> None:
    """A file that asks for truncation and padding is the same tokenizer."""
    tokenizer, _ = read_tokenizer(_written(tmp_path / "a.json", content))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    other, _ = read_tokenizer(_written(tmp_path / "b.json", tokenizer.to_str().encode()))

    one, same = (list(FileEncoder(found).encode(TEXTS)) for found in (tokenizer, other))

    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert len(one[0]) > 9


def test_the_run_gets_its_own_tokenizer(path: Path, content: bytes) -> None:
    """The digest is that of the file as it is; a vocabulary may be smaller than the model's."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"

    assert digest_of(content) == digest
    assert choose_encoder(_manifest(digest), str(path)).vocab_size == 320
    assert choose_encoder(_manifest(digest, 512), str(path)).vocab_size == 320
    assert isinstance(choose_encoder(Manifest(), ""), ByteEncoder)


def test_wrong_tokenizers_are_refused(path: Path, content: bytes, tmp_path: Path) -> None:
    """Each with the setting that is wrong, and what to do."""
    digest = digest_of(content)
    other = f"sha256:{0:064x}"
    broken = _written(tmp_path / "broken.json", b"{}")

    for manifest, file, reason in (
        (_manifest(digest), "", "get that tokenizer.json from who started the run"),
        (_manifest(digest), str(tmp_path / "absent.json"), "absent.json: cannot be read"),
        (_manifest(digest), str(broken), "is another tokenizer than the run's"),
        (_manifest(digest_of(b"{}")), str(broken), "not a tokenizer.json"),
        (_manifest(other), str(path), f"it is {digest}, the manifest has {other}"),
        (_manifest(digest, 319), str(path), "has 320 tokens, but the manifest's model.vocab_size is 319"),
        (_manifest("none"), str(path), "trains on token shards alone"),
    ):
        with pytest.raises(DataError) as caught:
            choose_encoder(manifest, file)
        assert reason in str(caught.value)


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
