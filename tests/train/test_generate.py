"""Tokens drawn from a model, and text made of them."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lowcomm_node.errors import DataError
from lowcomm_node.train.data.tokenizer import digest_of, train_tokenizer
from lowcomm_node.train.data.words import bytes_per_token, words_of
from lowcomm_node.train.generate import generate
from tests.train.pairs import tiny_manifest


class Next(nn.Module):
    """Likes the token after the last one best, and the one after that a little less; remembers how much it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.longest = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.longest = max(self.longest, tokens.shape[1])
        logits = torch.full((*tokens.shape, 10), -2.0)
        logits.scatter_(2, (tokens.unsqueeze(2) + 1) % 10, 2.0)
        return logits.scatter_(2, (tokens.unsqueeze(2) + 2) % 10, 1.0)


def test_the_likeliest_without_temperature() -> None:
    """Whatever the seed; the model is never shown more than its context."""
    model = Next()
    assert list(islice(generate(model, [7], context_length=4, temperature=0, seed=3), 6)) == [8, 9, 0, 1, 2, 3]
    assert model.longest == 4


def test_draws_are_those_of_the_model() -> None:
    """At temperature 1 as often as the softmax says, of the two likeliest with top_k 2, the same again with the same seed."""
    first = [next(generate(Next(), [0], context_length=4, seed=seed)) for seed in range(600)]
    share = math.exp(2) / (math.exp(2) + math.exp(1) + 8 * math.exp(-2))
    assert abs(first.count(1) / 600 - share) < 5 * math.sqrt(share * (1 - share) / 600)
    assert set(first) - {1, 2}

    top = list(islice(generate(Next(), [0], context_length=4, temperature=3.0, top_k=2, seed=1), 200))
    assert {(b - a) % 10 for a, b in zip([0, *top], top, strict=False)} == {1, 2}
    assert top == list(islice(generate(Next(), [0], context_length=4, temperature=3.0, top_k=2, seed=1), 200))


def test_bytes_become_text_when_they_are_whole() -> None:
    """A character of several bytes is not shown half; what is no text at all is marked."""
    manifest = tiny_manifest()
    words = words_of(manifest, None)

    snow = "a\N{SNOWMAN}"
    assert words.text(words.tokens(snow)) == snow
    assert words.text(words.tokens(snow)[:-1]) == "a"
    assert words.text([97, 0xFF, 98]) == "a\N{REPLACEMENT CHARACTER}b"


def test_bytes_per_token_are_those_of_the_text(tmp_path: Path) -> None:
    """One where tokens are bytes; of a tokenizer what its tokens stand for; unknown where it is not here."""
    text = "the quick brown fox jumps over the lazy dog\n" * 50
    content = train_tokenizer([text], 300)
    (tmp_path / "tokenizer.json").write_bytes(content)
    manifest = tiny_manifest()
    of_file = replace(manifest, data=replace(manifest.data, tokenizer=digest_of(content)))
    words = words_of(of_file, tmp_path / "tokenizer.json")
    tokens = words.tokens(text)
    batches = [torch.tensor([tokens])]

    assert words.text(tokens) == text
    assert bytes_per_token(manifest, batches, None) == 1.0
    expected = len(words.text(tokens[1:])) / (len(tokens) - 1)
    assert bytes_per_token(of_file, batches, tmp_path / "tokenizer.json") == pytest.approx(expected)
    assert expected > 2
    assert bytes_per_token(of_file, batches, None) == 0.0
    with pytest.raises(DataError, match="but the run's tokenizer is"):
        words_of(
            replace(manifest, data=replace(manifest.data, tokenizer=f"sha256:{'0' * 64}")), tmp_path / "tokenizer.json"
        )
