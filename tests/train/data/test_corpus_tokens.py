"""Token shards, and text in the tokens of a tokenizer.json."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lowcomm_node.errors import DataError, StoreError
from lowcomm_node.settings.manifest import DataConfig, Manifest, ModelConfig
from lowcomm_node.settings.node import DataSettings
from lowcomm_node.train.data.corpus import Corpus, check_data, load_corpus, open_corpus
from lowcomm_node.train.data.shards import write_shard
from lowcomm_node.train.data.tokenizer import digest_of, read_tokenizer, train_tokenizer
from lowcomm_node.train.data.tokens import Tokens


def _manifest(tokenizer: str, vocab_size: int = 300) -> Manifest:
    model = ModelConfig(vocab_size=vocab_size, context_length=16)
    return dataclasses.replace(Manifest(), model=model, data=DataConfig(tokenizer=tokenizer, validation_ratio=0.25))


SHARDS = _manifest("none")


def _shard(folder: Path, name: str, first: int, count: int = 40) -> Path:
    path = folder / name
    write_shard(path, [np.arange(first, first + count, dtype=np.uint16)], 300)
    return path


def _open(folder: Path, *names: str, manifest: Manifest = SHARDS) -> Corpus:
    return open_corpus(manifest, DataSettings(paths=tuple(str(folder / name) for name in names)), folder / "state")


def _ids(tokens: Tokens) -> list[int]:
    return torch.cat([part.long() for part in tokens.parts]).tolist()


def test_shards_that_say_so_are_held_out(tmp_path: Path) -> None:
    """Names as nanoGPT and modded-nanogpt have them; everything else is trained on, whatever its hash."""
    for number in range(6):
        _shard(tmp_path, f"fineweb_train_{number:06d}.bin", 40 * number)
    _shard(tmp_path, "fineweb_val_000000.bin", 250)

    corpus = _open(tmp_path, "*.bin")

    assert _ids(corpus.validation) == list(range(250, 290))
    assert _ids(corpus.train) == list(range(240))


def test_shards_are_held_out_by_name_or_by_their_ends(tmp_path: Path) -> None:
    """Where no name says anything: whole files by a hash, and the last tokens of a single one."""
    for number in range(6):
        _shard(tmp_path, f"part{number}.bin", 40 * number)
    one = _shard(tmp_path, "one.bin", 0, 100)

    corpus = _open(tmp_path, "part*.bin")
    single = _open(tmp_path, one.name)

    assert sorted(_ids(corpus.train) + _ids(corpus.validation)) == list(range(240))
    assert len(corpus.validation) % 40 == 0
    assert len(corpus.validation) > 0
    assert (_ids(single.train), _ids(single.validation)) == (list(range(75)), list(range(75, 100)))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("none.bin",), "no such file"),
        (("no*.bin",), "no file of this name"),
        (("a.bin", "text.txt"), "token shards .* and text; name only one"),
        (("short.bin",), "15 tokens to train on and 5 held out, but one window of model.context_length = 16 needs 17"),
        (("large.bin",), r"large\.bin: holds token 314, but model\.vocab_size = 300"),
    ],
)
def test_shards_that_cannot_be_used_are_refused(tmp_path: Path, names: tuple[str, ...], reason: str) -> None:
    """Before anything is trained."""
    _shard(tmp_path, "a.bin", 0)
    _shard(tmp_path, "short.bin", 0, 20)
    write_shard(tmp_path / "large.bin", [np.arange(240, 340, dtype=np.uint16)], 1000)
    (tmp_path / "text.txt").write_text("text")

    with pytest.raises(DataError, match=reason):
        _open(tmp_path, *names)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Ten files and a tokenizer that was trained on them."""
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.txt").write_text(f"file {number}: naïve words, and the words of file {number}\n" * 20)
    texts = [path.read_text() for path in sorted(folder.iterdir())]
    (tmp_path / "tokenizer.json").write_bytes(train_tokenizer(texts, 300))
    return folder


def _of_text(text: Path) -> tuple[Manifest, DataSettings]:
    file = text.parent / "tokenizer.json"
    settings = DataSettings(paths=(str(text),), tokenizer=str(file))
    return _manifest(digest_of(file.read_bytes())), settings


def test_text_is_split_by_file_and_encoded(text: Path) -> None:
    """The tokens of both sides decode to the files that a byte corpus has there, each ended."""
    manifest, settings = _of_text(text)
    tokenizer, _ = read_tokenizer(Path(settings.tokenizer))

    corpus = open_corpus(manifest, settings, text.parent)
    in_bytes = load_corpus(settings.paths, DataConfig(validation_ratio=0.25), 16)

    for side, expected in ((corpus.train, in_bytes.train), (corpus.validation, in_bytes.validation)):
        decoded = tokenizer.decode(_ids(side), skip_special_tokens=False)
        assert decoded.replace("<|endoftext|>", "\0").encode() == bytes(_ids(expected))
    assert len(corpus.train) < len(in_bytes.train) / 3


def test_text_is_encoded_once(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another start takes what is on disk; when the text has changed, it alone is there afterwards."""
    manifest, settings = _of_text(text)
    state_dir = text.parent / "state"
    open_corpus(manifest, settings, state_dir)
    files = {path: path.stat().st_mtime_ns for path in (state_dir / "tokens").rglob("*.bin")}

    open_corpus(manifest, settings, state_dir)
    assert {path: path.stat().st_mtime_ns for path in (state_dir / "tokens").rglob("*.bin")} == files

    (text / "3.txt").write_text("changed " * 100)
    open_corpus(manifest, settings, state_dir)
    assert len(list((state_dir / "tokens").rglob("*.bin"))) == len(files) == 2
    assert not any(path.exists() for path in files)


def test_a_single_text_holds_out_its_end(text: Path) -> None:
    """As with bytes, and no sign is cut in two."""
    manifest, settings = _of_text(text)
    whole = (text / "4.txt").read_text()
    tokenizer, _ = read_tokenizer(Path(settings.tokenizer))

    corpus = open_corpus(manifest, dataclasses.replace(settings, paths=(str(text / "4.txt"),)), text.parent)

    sides = [tokenizer.decode(_ids(side)) for side in (corpus.train, corpus.validation)]
    assert whole.startswith(sides[0])
    assert whole.endswith(sides[1])
    assert len("".join(sides)) >= len(whole) - 1


def test_a_look_finds_what_training_would(text: Path, tmp_path: Path) -> None:
    """The doctor's check refuses the same, without encoding anything."""
    manifest, settings = _of_text(text)
    (tmp_path / "bad.bin").write_bytes(b"abc")

    check_data(manifest, settings)
    with pytest.raises(DataError, match=r"get that tokenizer\.json"):
        check_data(manifest, dataclasses.replace(settings, tokenizer=""))
    with pytest.raises(DataError, match="no such file or folder"):
        check_data(manifest, dataclasses.replace(settings, paths=(str(tmp_path / "absent"),)))
    with pytest.raises(DataError, match="3 bytes are neither"):
        check_data(SHARDS, DataSettings(paths=(str(tmp_path / "bad.bin"),)))
    assert not (tmp_path / "tokens").exists()


def test_tokens_that_cannot_be_kept_are_the_disks_fault(text: Path) -> None:
    """Not the text's: the error names the folder."""
    manifest, settings = _of_text(text)
    (text.parent / "file").write_text("")

    with pytest.raises(StoreError, match="tokens cannot be kept"):
        open_corpus(manifest, settings, text.parent / "file")


def test_laboratories_read_bytes_alone(text: Path) -> None:
    """What takes text as bytes refuses a run with other tokens instead of training on nonsense."""
    manifest, settings = _of_text(text)

    with pytest.raises(DataError, match="only text in bytes"):
        load_corpus(settings.paths, manifest.data, 16)
