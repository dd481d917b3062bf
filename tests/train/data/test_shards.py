"""Files of token ids."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from lowcomm_node.errors import DataError
from lowcomm_node.train.data.shards import map_shard, write_shard


def _header(*words: int) -> bytes:
    return struct.pack("<256i", *words, *[0] * (256 - len(words)))


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(50_257, torch.uint16), (1 << 16, torch.uint16), (65_537, torch.uint32)]
)
def test_what_is_written_is_read(tmp_path: Path, vocab_size: int, dtype: torch.dtype) -> None:
    """The largest id of a vocabulary and everything else come back, in the narrowest type."""
    path = tmp_path / "a.bin"
    ids = np.array([0, 1, 2, vocab_size - 1], dtype=np.uint32)

    assert write_shard(path, iter([ids[:1], ids[1:]]), vocab_size) == 4

    tokens = map_shard(path)
    assert tokens.dtype == dtype
    assert tokens.long().tolist() == ids.tolist()
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_layouts_of_others_are_read(tmp_path: Path) -> None:
    """nanoGPT's bare numbers and modded-nanogpt's header, byte by byte as those projects write them."""
    ids = struct.pack("<3H", 50_256, 7, 65_535)
    (tmp_path / "bare.bin").write_bytes(ids)
    (tmp_path / "headed.bin").write_bytes(_header(20240520, 1, 3) + ids)

    assert map_shard(tmp_path / "bare.bin").tolist() == [50_256, 7, 65_535]
    assert map_shard(tmp_path / "headed.bin").tolist() == [50_256, 7, 65_535]


def test_a_file_stays_as_it_is(tmp_path: Path) -> None:
    """Whatever is done to the tensor."""
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(8))

    map_shard(path)[0] = 5

    assert path.read_bytes() == bytes(8)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no tokens"),
        (b"abc", "3 bytes are neither"),
        (_header(20240520, 1, 0), "holds no tokens"),
        (_header(20240520, 1, 3) + bytes(4), "tells of 3 tokens, but it holds 2"),
        (_header(20240520, 1, 1) + bytes(4), "tells of 1 tokens, but it holds 2"),
        (_header(20240520, 1, -1) + bytes(4), "tells of -1 tokens"),
        (_header(20240520, 2, 2) + bytes(4), "version 2 of magic number 20240520, not the known 1"),
        (_header(20240801, 7, 2) + bytes(4), "tells of 2 tokens, but it holds 1"),
        (_header(20250101, 1, 2) + bytes(4), "magic number 20250101, which is not known here"),
        (_header(20240520, 1, 3)[:12], "cut off within its header"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """With a sentence that names the file and what is wrong with it."""
    path = tmp_path / "bad.bin"
    path.write_bytes(content)

    with pytest.raises(DataError, match=reason) as caught:
        map_shard(path)

    assert str(path) in str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """By name, with the setting to correct."""
    with pytest.raises(DataError, match=r"none\.bin: cannot be read .*data\.paths"):
        map_shard(tmp_path / "none.bin")
