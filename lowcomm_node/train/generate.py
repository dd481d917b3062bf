"""Text from a language model, a token at a time."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from lowcomm_node.errors import DataError
from lowcomm_node.settings.manifest import BYTES
from lowcomm_node.train.data.tokenizer import read_tokenizer
from lowcomm_node.train.exported import Exported

__all__ = ["Words", "generate", "words_of"]


class Words(Protocol):
    """What stands between people's text and a model's tokens."""

    def tokens(self, text: str) -> list[int]:
        """Of the text, without an end."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """What they stand for; bytes that are no text yet are left out at the end, and marked elsewhere."""
        ...


class _Bytes:
    def tokens(self, text: str) -> list[int]:
        return list(text.encode())

    def text(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode(errors="replace").removesuffix("\ufffd")


class _File:
    def __init__(self, exported: Exported) -> None:
        if exported.tokenizer is None:
            raise DataError(
                "this model's tokenizer is not beside it: put the run's tokenizer.json into its folder "
                "(export does it when it is named in data.tokenizer)"
            )
        self._tokenizer, digest = read_tokenizer(exported.tokenizer)
        wanted = exported.manifest.data.tokenizer
        if wanted.startswith("sha256:") and digest != wanted:
            raise DataError(f"{exported.tokenizer} is {digest}, but the run's tokenizer is {wanted}")

    def tokens(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text


def words_of(exported: Exported) -> Words:
    """The run's tokens. Raises DataError where they cannot be told from here."""
    if exported.manifest.model.kind == "task":
        raise DataError(f'a model of the task "{exported.manifest.model.task}" writes no text')
    return _Bytes() if exported.manifest.data.tokenizer == BYTES else _File(exported)


def generate(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    context_length: int,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[int]:
    """Tokens that follow ``prompt`` (at least one), without end; the model sees the last ``context_length`` of them.

    ``temperature`` 0 takes the likeliest each time; ``top_k`` draws from so many of the likeliest, 0 from all. The same numbers
    give the same tokens on the same machine.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    while True:
        with torch.no_grad():
            output = model(torch.tensor([tokens[-context_length:]], device=device))
        logits: Tensor = getattr(output, "logits", output)[0, -1].float().cpu()
        if top_k:
            least = logits.topk(min(top_k, len(logits))).values[-1]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if temperature == 0:
            token = int(logits.argmax())
        else:
            token = int(torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator))
        tokens.append(token)
        yield token
