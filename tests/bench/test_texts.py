"""Who trains on what."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lowcomm_node.bench.perform import run_trial
from lowcomm_node.bench.plan import Request, plan_trials
from lowcomm_node.bench.summary import markdown, summarise
from lowcomm_node.bench.texts import load_texts
from lowcomm_node.bench.trial import Shards
from lowcomm_node.errors import ConfigError, DataError
from lowcomm_node.train.batches import num_rows
from tests.bench.tiny import text_in, tiny_trial


def _files(folder: Path, count: int = 40) -> tuple[str, ...]:
    for number in range(count):
        (folder / f"text{number:02d}.txt").write_text(chr(ord("A") + number % 26) * 400)
    return (str(folder),)


def test_all_methods_draw_the_same_batches(tmp_path: Path) -> None:
    """Batches depend on the seed and the replica alone, so methods are compared on equal data."""
    paths = text_in(tmp_path)
    trials = [tiny_trial(paths, "ddp"), tiny_trial(paths, "meet"), tiny_trial(paths, "meet", seed=1)]

    ddp, meet, other = ([stream.batch(3) for stream in load_texts(trial).streams] for trial in trials)

    assert all(map(torch.equal, ddp, meet))
    assert not any(map(torch.equal, ddp, other))
    assert not torch.equal(ddp[0], ddp[1])


def test_shards_by_file_share_nothing(tmp_path: Path) -> None:
    """Each replica sees its own stretch of the files in the order of their names."""
    trial = tiny_trial(_files(tmp_path, 24), shards=Shards.BY_FILE)

    seen = [
        set(torch.cat([stream.batch(k) for k in range(40)]).unique().tolist()) - {0}
        for stream in load_texts(trial).streams
    ]

    assert all(max(one) <= min(other) for one, other in itertools.pairwise(seen))
    assert sum(map(len, seen)) <= 24 + 3  # a file may be cut between two


def test_everybody_is_judged_on_the_same_text(tmp_path: Path) -> None:
    """Held-out windows do not depend on shards or seed."""
    paths = _files(tmp_path)

    iid = load_texts(tiny_trial(paths)).validation
    by_file = load_texts(tiny_trial(paths, shards=Shards.BY_FILE, seed=4)).validation

    for a, b in zip(iid, by_file, strict=True):
        assert isinstance(a, torch.Tensor)
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b)


def test_a_task_brings_its_own_examples() -> None:
    """Each replica draws batches of its own from the same pictures; all that is held out is looked at."""
    (trial,) = plan_trials(Request(only=["ddp"], task="vgg", options=["width=8", "depth=1"], replicas=3))

    texts = load_texts(trial)

    first, second, _ = (stream.batch(2)[0] for stream in texts.streams)
    assert first.shape == (32, 1, 8, 8)
    assert not torch.equal(first, second)
    assert sum(map(num_rows, texts.validation)) == 376
    with pytest.raises(ConfigError, match="--shards by-file is for text"):
        load_texts(replace(trial, shards=Shards.BY_FILE))


@pytest.mark.parametrize("method", ["ddp", "dion-sync", "local", "meet"])
def test_methods_are_compared_on_a_task(method: str) -> None:
    """Loss and accuracy, of the replicas and of their average."""
    (trial,) = plan_trials(Request(only=[method], task="vgg", options=["width=8", "depth=1"], replicas=2, steps=8))

    result = run_trial(trial)

    assert 0 < result.loss < 4
    assert 0 <= result.accuracy <= 1
    assert 0 <= result.accuracy_averaged <= 1
    assert result.tokens == 2 * 8 * 32
    assert f"| {result.accuracy:.2%} |" in markdown(summarise([(trial, result)]))


def test_too_little_text_for_so_many_shards(tmp_path: Path) -> None:
    """Said in words, before anything is trained."""
    paths = _files(tmp_path, 24)

    with pytest.raises(DataError, match="too few for 600 shards"):
        load_texts(tiny_trial(paths, replicas=600, shards=Shards.BY_FILE))


def test_nobody_trains_on_the_text_that_all_are_judged_by(tmp_path: Path) -> None:
    """Where no file is held out, validation is the end of each file, which shards by file would train on."""
    file = tmp_path / "only.txt"
    file.write_text("some words " * 400)
    iid, by_file = (tiny_trial((str(file),), shards=shards) for shards in (Shards.IID, Shards.BY_FILE))
    load_texts(iid)

    with pytest.raises(DataError, match="held-out files"):
        load_texts(by_file)
