"""The card of an exported model: what it is, where it comes from, who trained it."""

from collections.abc import Sequence
from dataclasses import dataclass

from lowcomm_node import __version__
from lowcomm_node.settings.manifest import BYTES, Manifest
from lowcomm_node.units import RunId

__all__ = ["CardMember", "model_card"]

_USE_OF_TEXT = """lowcomm-node generate --model . --prompt "..."
lowcomm-node eval --model . --data TEXT"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardMember:
    """A node whose state is part of the model."""

    peer: str
    progress_steps: float
    """Swarm progress."""
    steps: int
    """Its own."""
    tokens: int


def model_card(manifest: Manifest, run: RunId, members: Sequence[CardMember], day: str, judged: str) -> str:
    """Markdown with the metadata that model hubs read. ``judged``: the loss on held-out data as a sentence, or why there is none."""
    model, data = manifest.model, manifest.data
    total = manifest.training.total_steps
    progress = sum(member.progress_steps for member in members) / len(members)
    library = "transformers" if model.kind == "transformers" else "lowcomm-node"
    rows = "\n".join(
        f"| {member.peer} | {member.progress_steps:.0f} | {member.steps:,} | {member.tokens:,} |" for member in members
    )
    is_task = model.kind == "task"
    tokens = "bytes of UTF-8" if data.tokenizer == BYTES else f"of the tokenizer {data.tokenizer}"
    of_text = f"\n| tokens | {tokens}, a vocabulary of {model.vocab_size:,} |"
    examples = "examples" if is_task else f"sequences of {model.context_length} tokens"
    return f"""---
library_name: {library}
tags: [lowcomm-node, decentralized-training]
---

# {manifest.name}

A model of {model.num_parameters:,} parameters ({f"task {model.task}" if is_task else model.kind}), trained by the nodes of a swarm over the internet with
lowcomm-node {__version__}: random pairs of nodes exchange compressed differences of
their weights, and nobody coordinates. Exported on {day}.

| | |
|---|---|
| run | `{run}` |
| swarm progress | {progress:.0f} of {total} steps of the average node |
| batch of a node's step | {manifest.training.batch_size} {examples} |{"" if is_task else of_text}
| optimizer | {manifest.optimizer.kind}, peak learning rate {manifest.optimizer.lr:g} |
| held out | {judged} |

## Whose states it is the mean of

| node | swarm progress | own steps | own tokens |
|---|---|---|---|
{rows}

Others of the swarm have shaped these states in meetings; they are not listed, because nobody keeps a list of them.

## Data

What each node trains on is its own setting; the run says only {"which task they are for" if is_task else "how it becomes tokens"}. Of their data, nodes hold out a part ({data.validation_ratio:.0%}
where it is chosen by a hash), and no node trains on what it holds out.

## Use

```
{"lowcomm-node eval --model ." if is_task else _USE_OF_TEXT}
```

`run.json` is the run's manifest: whoever has it and a member's address can train on.
"""
