"""The card of an exported model: what it is, where it comes from, who trained it."""

from collections.abc import Sequence
from dataclasses import dataclass

from lowcomm_node import __version__
from lowcomm_node.settings.manifest import BYTES, Manifest
from lowcomm_node.settings.node import DataSettings
from lowcomm_node.units import RunId

__all__ = ["Card", "CardMember", "model_card"]

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
    """As it says itself."""
    loss: float | None
    """On held-out data; None where it was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a card tells besides what stands in the manifest."""

    day: str
    """On which it was made."""
    members: Sequence[CardMember]
    num_wanted: int
    """Nodes that were to be averaged; there may be fewer."""
    spread: float
    """Root mean square distance of the members' parameters from their mean."""
    judged: str
    """The mean's loss on held-out data as a sentence, or why there is none."""
    data: DataSettings
    """Of the machine that exports."""


def model_card(manifest: Manifest, run: RunId, card: Card) -> str:
    """Markdown with the metadata that model hubs read."""
    model, data = manifest.model, manifest.data
    total = manifest.training.total_steps
    progress = sum(member.progress_steps for member in card.members) / len(card.members)
    library = "transformers" if model.kind == "transformers" else "lowcomm-node"
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
their weights, and nobody coordinates. Exported on {card.day}.

| | |
|---|---|
| run | `{run}` |
| swarm progress | {progress:.0f} of {total} steps of the average node |
| batch of a node's step | {manifest.training.batch_size} {examples} |{"" if is_task else of_text}
| optimizer | {manifest.optimizer.kind}, peak learning rate {manifest.optimizer.lr:g} |
| held out | {card.judged} |

## Whose states it is the mean of

{_members(card)}

Others of the swarm have shaped these states in meetings; they are not listed, because nobody keeps a list of them.

## Data

What each node trains on is its own setting; the run says only {"which task they are for" if is_task else "how it becomes tokens"}. Of their data, nodes hold out a part ({data.validation_ratio:.0%}
where it is chosen by a hash), and no node trains on what it holds out.{_data(card.data)}

## Use

```
{"lowcomm-node eval --model ." if is_task else _USE_OF_TEXT}
```

`run.json` is the run's manifest: whoever has it and a member's address can train on.
"""


def _members(card: Card) -> str:
    is_judged = any(member.loss is not None for member in card.members)
    lines = [
        "| node | swarm progress | own steps | own tokens |" + (" held-out loss |" if is_judged else ""),
        "|---|---|---|---|" + ("---|" if is_judged else ""),
    ]
    for member in card.members:
        loss = "" if not is_judged else " |" if member.loss is None else f" {member.loss:.4f} |"
        lines.append(f"| {member.peer} | {member.progress_steps:.0f} | {member.steps:,} | {member.tokens:,} |{loss}")
    total = sum(member.tokens for member in card.members)
    told = [f"Together they have trained on {total:,} tokens, as they say themselves."]
    if len(card.members) > 1:
        told.append(f"A weight of theirs lies {card.spread:.3g} from the mean (root mean square).")
    if len(card.members) < card.num_wanted:
        told.append(f"{card.num_wanted} were asked for; no others could be had.")
    return "\n".join([*lines, "", " ".join(told)])


def _data(data: DataSettings) -> str:
    """What the settings of the machine that exports name, where others can get it too."""
    if not data.dataset:
        return ""
    words = [f"configuration `{data.dataset_config}`"] if data.dataset_config else []
    words += [f"split `{data.dataset_split}`"]
    words += [f"revision `{data.dataset_revision}`" if data.dataset_revision else "no revision pinned"]
    return f" The machine that exported it reads the dataset `{data.dataset}` ({', '.join(words)})."
