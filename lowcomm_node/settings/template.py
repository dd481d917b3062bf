"""A commented TOML document made from a settings dataclass, so that comments and schema cannot part ways."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lowcomm_node.settings.load import toml_value
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.schema import Key, Section, section_of

__all__ = ["field_docs", "manifest_template", "settings_template"]

_WIDTH = 110


def manifest_template(manifest: Manifest) -> str:
    """A run manifest to edit: every key written out with the value it has in ``manifest``."""
    head = (
        f"Run manifest of {manifest.name}: what must be equal on all nodes. Its hash is the run id, so any change makes "
        "another run; a key that is left out has its default, and writing the default down changes nothing."
    )
    return _document(Manifest, head, asdict(manifest), key_prefix="")


def settings_template(settings: NodeSettings) -> str:
    """Node settings to edit: every key as a comment, so that only what is uncommented differs from the defaults."""
    head = (
        "Settings of this node (config.toml). Remove the # before a key to set it. "
        "A variable such as LOWCOMM_NETWORK__GRPC_PORT beats this file, and --set network.grpc_port=7001 beats both."
    )
    return _document(NodeSettings, head, asdict(settings), key_prefix="# ")


def field_docs(cls: type[Any]) -> dict[str, str]:
    """The docstrings under the fields of a class, on one line each, by field name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    docs: dict[str, str] = {}
    if not isinstance(body, ast.ClassDef):
        return docs
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            value = text.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                docs[field.target.id] = " ".join(value.value.split())
    return docs


def _document(cls: type[Any], head: str, values: Mapping[str, object], key_prefix: str) -> str:
    lines = [*_comment(head), ""]
    _write(section_of(cls), values, key_prefix, lines)
    return "\n".join(lines).rstrip() + "\n"


def _write(section: Section, values: Mapping[str, object], key_prefix: str, lines: list[str]) -> None:
    docs = field_docs(section.cls)
    keys = [entry for entry in section.entries.values() if isinstance(entry, Key)]
    sections = [entry for entry in section.entries.values() if isinstance(entry, Section)]
    for key in keys:  # TOML: keys of a table stand before the tables inside it
        limits = f"Allowed: {key.allowed}. Default: {toml_value(key.default)}."
        lines += [*_comment(docs.get(key.name, "")), *_comment(limits)]
        lines += [f"{key_prefix}{key.name} = {toml_value(values[key.name])}", ""]
    for inner in sections:
        below = values[inner.dotted.rpartition(".")[2]]
        lines += [*_comment(inspect.getdoc(inner.cls) or ""), f"[{inner.dotted}]", ""]
        _write(inner, below if isinstance(below, Mapping) else {}, key_prefix, lines)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH)]
