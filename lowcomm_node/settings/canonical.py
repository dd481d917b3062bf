"""One byte string per manifest: its hash is the run id, and it is what peers hand to joiners.

The form is JSON with sorted keys, no white space, ASCII only, floats in the shortest decimal
that reads back as the same double, and every key present: a default that is written down and
one that is left out are the same run. Only keys that came later (``_ADDED``) are left out where they have their default, so
that runs which do not use them keep their ids, and nodes of before can take part in them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.schema import keys_of
from lowcomm_node.units import RunId

__all__ = ["canonical_bytes", "manifest_from_canonical", "run_id", "run_id_of_bytes"]

_ADDED_TABLES = ("ab_training",)
_ADDED = frozenset({"model.config", "model.parameters", "model.task", "outer.method"}) | {
    dotted for dotted in keys_of(Manifest) if dotted.startswith(tuple(f"{table}." for table in _ADDED_TABLES))
}
"""Keys that are not in the first version of the manifest."""


def canonical_bytes(manifest: Manifest) -> bytes:
    """The canonical form. Raises ConfigError for a manifest that breaks its own rules."""
    checked = build(Manifest, asdict(manifest), "manifest")  # also turns 1 into 1.0 where a float is meant
    tree = asdict(checked)
    defaults = keys_of(Manifest)
    for dotted in _ADDED:
        section, _, name = dotted.rpartition(".")
        table = tree[section] if section else tree
        if table[name] == defaults[dotted].default:
            del table[name]
    for name in _ADDED_TABLES:
        if not tree[name]:
            del tree[name]
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def run_id(manifest: Manifest) -> RunId:
    """SHA-256 of the canonical form, 64 hexadecimal digits."""
    return run_id_of_bytes(canonical_bytes(manifest))


def run_id_of_bytes(canonical: bytes) -> RunId:
    """The run id that belongs to canonical bytes somebody sent; says nothing about their validity."""
    return RunId(hashlib.sha256(canonical).hexdigest())


def manifest_from_canonical(data: bytes, max_bytes: int, source: str = "manifest from the swarm") -> Manifest:
    """Parse canonical bytes from anywhere, a hostile peer included.

    Only the exact canonical form of an allowed manifest passes: the result's ``run_id`` is the
    SHA-256 of ``data``. ``source`` names the origin in errors. Raises ConfigError, whatever the bytes.
    """
    if len(data) > max_bytes:
        raise ConfigError(f"{source}: {len(data)} bytes are more than the {max_bytes} a manifest may have")
    try:
        parsed: object = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not canonical JSON: {type(error).__name__}") from error
    if not isinstance(parsed, dict):
        raise ConfigError(f"{source}: not a JSON object")
    manifest = build(Manifest, parsed, source)
    missing = sorted(key for key in keys_of(Manifest).keys() - _ADDED if not _has(parsed, key))
    if missing:
        raise ConfigError(
            f"{source}: lacks {', '.join(missing)}; its run was started with another version of lowcomm-node"
        )
    if canonical_bytes(manifest) != data:
        raise ConfigError(f"{source}: not in canonical form")
    return manifest


def _has(tree: Mapping[str, object], dotted: str) -> bool:
    node: object = tree
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True
