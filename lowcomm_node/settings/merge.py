"""Node settings from their four sources, each value with its origin; pure.

Order, weakest first: defaults, config file, ``LOWCOMM_SECTION__KEY`` variables, flags
(``--set section.key=value`` and the commands' own).
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.load import assemble, collect, raise_problems
from lowcomm_node.settings.node import NodeSettings
from lowcomm_node.settings.schema import Key, keys_of, nearest

__all__ = ["ENV_PREFIX", "OTHER_VARIABLES", "Override", "TomlDocument", "merge", "parse_set", "values_of"]

ENV_PREFIX = "LOWCOMM_"

OTHER_VARIABLES: Mapping[str, str] = {
    "LOWCOMM_DEBUG": "1: errors come with their traceback, like --debug",
    "LOWCOMM_INVITE": "an invitation for join, or the file it is in, like --invite",
    "LOWCOMM_PEERS": "addresses for join, separated by spaces or commas, like --peers",
}
"""Variables with the prefix that are not settings, and what they do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TomlDocument:
    """A parsed config file."""

    path: str
    table: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One value given on the command line."""

    dotted: str
    value: object
    """Text is read as the key's type asks; anything else is taken as it is."""
    origin: str
    """The flag as the user knows it, e.g. ``flag --state-dir``."""


def parse_set(text: str) -> Override:
    """Split the ``section.key=value`` of ``--set``. Raises ConfigError when there is no equals sign."""
    dotted, equals, value = text.partition("=")
    dotted = dotted.strip()
    if not equals or not dotted:
        raise ConfigError(f"--set {text}: write it as --set section.key=value, e.g. --set network.grpc_port=7001")
    return Override(dotted=dotted, value=value.strip(), origin=f"flag --set {dotted}")


def values_of(settings: NodeSettings) -> dict[str, object]:
    """Every value by dotted key, in the order of the schema."""
    values: dict[str, object] = {}
    for dotted in keys_of(NodeSettings):
        node: object = settings
        for part in dotted.split("."):
            node = getattr(node, part)
        values[dotted] = node
    return values


def merge(
    defaults: NodeSettings, toml: TomlDocument | None, environ: Mapping[str, str], overrides: Sequence[Override]
) -> tuple[NodeSettings, dict[str, str]]:
    """The settings that hold, and for each dotted key where its value came from.

    Every source is checked whole, values that a stronger source replaces included. Raises
    ConfigError that lists all problems of all sources.
    """
    problems: list[str] = []
    values = values_of(defaults)
    origins = dict.fromkeys(values, "default")
    if toml is not None:
        for dotted, value in collect(NodeSettings, toml.table, toml.path, problems).items():
            values[dotted], origins[dotted] = value, f"file {toml.path}"
    for override in (*_from_environ(environ, problems), *overrides):
        value = _value_of(override, problems)
        if value is not None:
            values[override.dotted], origins[override.dotted] = value, override.origin
    raise_problems(problems)
    return assemble(NodeSettings, values, lambda key: origins.get(key, "settings")), origins


def _from_environ(environ: Mapping[str, str], problems: list[str]) -> list[Override]:
    variables = {f"{ENV_PREFIX}{dotted.replace('.', '__').upper()}": dotted for dotted in keys_of(NodeSettings)}
    found = []
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name in OTHER_VARIABLES:
            continue
        if name in variables:
            found.append(Override(dotted=variables[name], value=environ[name], origin=f"environment {name}"))
        else:
            close = nearest(name, (*variables, *OTHER_VARIABLES))
            hint = f"did you mean {close}?" if close else "variables are named LOWCOMM_SECTION__KEY"
            problems.append(f"environment: unknown variable {name}; {hint}")
    return found


def _value_of(override: Override, problems: list[str]) -> object | None:
    """The checked value, or None after a problem was noted."""
    key = keys_of(NodeSettings).get(override.dotted)
    value = override.value
    if key is not None and isinstance(value, str):
        value = _read_text(key, value)
    *sections, last = override.dotted.split(".")
    tree: dict[str, object] = {last: value}
    for part in reversed(sections):
        tree = {part: tree}
    return collect(NodeSettings, tree, override.origin, problems).get(override.dotted)


def _read_text(key: Key, text: str) -> object:
    """Text as a TOML value where that fits the key, else the text itself; one text stands for a list of one."""
    try:
        document = tomllib.loads(f"value = {text}")
        value: object = document["value"] if len(document) == 1 else text
    except (ValueError, RecursionError):
        value = text
    if key.type is str:
        return value if isinstance(value, str) else text
    if key.type == tuple[str, ...] and not isinstance(value, list):
        return [value if isinstance(value, str) else text] if text else []
    return value
