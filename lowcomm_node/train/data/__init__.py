"""From what lies on a disk to the batches of a node: text, token shards, datasets, tokenizers."""
