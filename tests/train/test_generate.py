"""Tokens drawn from a model, and text made of them."""

import math
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from lowcomm_node.train.exported import Exported
from lowcomm_node.train.generate import generate, words_of
from lowcomm_node.train.held_out import bits_per_byte
from lowcomm_node.train.model import build_model
from lowcomm_node.units import RunId
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
    words = words_of(Exported(manifest=manifest, run_id=RunId("0" * 64), model=build_model(manifest), tokenizer=None))

    snow = "a\N{SNOWMAN}"
    assert words.text(words.tokens(snow)) == snow
    assert words.text(words.tokens(snow)[:-1]) == "a"
    assert words.text([97, 0xFF, 98]) == "a\N{REPLACEMENT CHARACTER}b"


def test_bits_per_byte_does_not_depend_on_the_tokens() -> None:
    """A loss of ln 256 for each token is eight bits for each byte of tokens that are bytes, and four where a token is two."""
    batches = [torch.arange(34).reshape(2, 17)]

    assert bits_per_byte(math.log(256), batches, lambda tokens: "x" * len(tokens)) == pytest.approx(8.0)
    assert bits_per_byte(math.log(256), batches, lambda tokens: "xy" * len(tokens)) == pytest.approx(4.0)
