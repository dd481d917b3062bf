"""Text into tokens."""

from pathlib import Path

import pytest
import torch

from lowcomm_node.errors import DataError
from lowcomm_node.settings.manifest import DataConfig
from lowcomm_node.train.data.corpus import Corpus, load_corpus
from lowcomm_node.train.data.stream import Stream, validation_batches
from lowcomm_node.train.data.tokens import Tokens
from lowcomm_node.units import PeerId, RunId

_DATA = DataConfig(validation_ratio=0.3)
_GOLDEN_STARTS = [164, 155, 99, 8]


def _write_texts(folder: Path, count: int = 20) -> None:
    for number in range(count):
        (folder / f"text{number}.md").write_text(f"<{number}> " + f"words of text {number} " * 20)


def _tensor(tokens: Tokens) -> torch.Tensor:
    (part,) = tokens.parts
    return part


def _decode(tokens: Tokens) -> bytes:
    return bytes(_tensor(tokens).tolist())


def _load(*paths: Path, context_length: int = 16) -> Corpus:
    return load_corpus(tuple(map(str, paths)), _DATA, context_length)


def test_no_document_is_on_both_sides(tmp_path: Path) -> None:
    """Each file lies whole in the training part or whole in the held-out part."""
    _write_texts(tmp_path)

    corpus = _load(tmp_path)

    in_train = [f"<{n}>".encode() in _decode(corpus.train) for n in range(20)]
    in_validation = [f"<{n}>".encode() in _decode(corpus.validation) for n in range(20)]
    assert all(a != b for a, b in zip(in_train, in_validation, strict=True))
    assert any(in_validation)


def test_split_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    """Two nodes with the same text in different places hold out the same files, in the same order."""
    for name in ("here", "there"):
        (tmp_path / name / "sub").mkdir(parents=True)
        _write_texts(tmp_path / name / "sub")

    here, there = _load(tmp_path / "here"), _load(tmp_path / "there")

    assert torch.equal(_tensor(here.train), _tensor(there.train))
    assert torch.equal(_tensor(here.validation), _tensor(there.validation))


def test_folder_glob_and_files_find_the_same_text(tmp_path: Path) -> None:
    """The three ways of naming text agree, and text named twice is read once."""
    _write_texts(tmp_path)
    (tmp_path / "image.md").write_bytes(b"\x89PNG\xff\xfe")
    (tmp_path / "zeros.md").write_bytes(b"a\0b")

    folder = _load(tmp_path)
    pattern = _load(tmp_path / "*.md")
    twice = _load(tmp_path, tmp_path / "text3.md", tmp_path / "*.md")

    assert torch.equal(_tensor(folder.train), _tensor(pattern.train))
    assert len(twice.train) + len(twice.validation) == len(folder.train) + len(folder.validation)


def test_single_file_holds_out_its_end(tmp_path: Path) -> None:
    """One file cannot be split by file; its last part is held out."""
    path = tmp_path / "book.txt"
    path.write_text("".join(f"{line:4d}\n" for line in range(200)))

    corpus = _load(path)

    assert _decode(corpus.train).startswith(b"   0\n")
    assert _decode(corpus.validation).endswith(b" 199\n\0")
    assert len(corpus.train) + len(corpus.validation) == 200 * 5 + 2


def test_default_corpus_is_there() -> None:
    """Without any path, the standard library's sources make a corpus of some megabytes, the same at each load."""
    corpus = load_corpus((), DataConfig(), 96)

    assert len(corpus.train) > 1_000_000
    assert 0.01 < len(corpus.validation) / len(corpus.train) < 0.2
    assert b"import" in _decode(corpus.train)


@pytest.mark.parametrize(
    ("name", "reason"), [("nothing", "no such file"), ("empty", "no text file"), ("*.none", "no text file")]
)
def test_missing_text_names_path_and_cure(tmp_path: Path, name: str, reason: str) -> None:
    """A path that is not there, an empty folder, a glob without matches: one clear error."""
    (tmp_path / "empty").mkdir()

    with pytest.raises(DataError, match=reason) as caught:
        _load(tmp_path / name)

    assert str(tmp_path / name) in str(caught.value)
    assert "data.paths" in str(caught.value)


def test_named_binary_file_is_an_error(tmp_path: Path) -> None:
    """What is passed over in a folder is refused when it is named."""
    path = tmp_path / "photo"
    path.write_bytes(b"\xff\xd8\xff")

    with pytest.raises(DataError, match="not UTF-8"):
        _load(path)


def test_short_text_names_what_is_needed(tmp_path: Path) -> None:
    """Less text than one window on either side cannot train."""
    path = tmp_path / "haiku.txt"
    path.write_text("an old silent pond\n")

    with pytest.raises(DataError, match=r"haiku\.txt.*context_length = 16 needs 17"):
        _load(path)


def test_stream_is_a_function_of_run_peer_and_index() -> None:
    """A node that resumes at batch k draws what it would have drawn; another peer or run draws something else."""
    tokens = Tokens(torch.arange(200, dtype=torch.uint8))

    def batch(run: str, peer: str, index: int) -> torch.Tensor:
        return Stream(tokens, 4, 10, RunId(run), PeerId(peer)).batch(index)

    assert torch.equal(batch("r", "p", 5), batch("r", "p", 5))
    assert not torch.equal(batch("r", "p", 5), batch("r", "p", 6))
    assert not torch.equal(batch("r", "p", 5), batch("r", "q", 5))
    assert not torch.equal(batch("r", "p", 5), batch("s", "p", 5))


def test_stream_golden_vector() -> None:
    """The draw is part of reproducibility: it must not change between versions or machines."""
    stream = Stream(Tokens(torch.arange(250, dtype=torch.uint8)), 4, 10, RunId("run"), PeerId("peer"))

    assert stream.batch(3)[:, 0].tolist() == _GOLDEN_STARTS


def test_stream_reaches_both_ends_of_the_text() -> None:
    """Windows are consecutive tokens, and the first and the last token are drawn too."""
    stream = Stream(Tokens(torch.arange(13, dtype=torch.uint8)), 8, 10, RunId("r"), PeerId("p"))
    batches = torch.cat([stream.batch(k) for k in range(10)])

    assert torch.equal(batches, batches[:, :1] + torch.arange(11))
    assert set(batches[:, 0].tolist()) == {0, 1, 2}


def test_validation_windows_are_fixed_and_counted_once() -> None:
    """Evenly spaced from the first to the last token; short text gives fewer windows, not the same ones twice."""
    tokens = torch.arange(250, dtype=torch.uint8)

    many = torch.cat(validation_batches(Tokens(tokens), 4, 10, 3))
    few = torch.cat(validation_batches(Tokens(tokens[:24]), 4, 10, 3))

    assert many.shape == (12, 11)
    assert many[0, 0] == 0
    assert many[-1, -1] == 249
    assert few[:, 0].tolist() == [0, 13]
