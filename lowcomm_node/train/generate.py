"""What a language model goes on with, a token at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

__all__ = ["generate"]


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
