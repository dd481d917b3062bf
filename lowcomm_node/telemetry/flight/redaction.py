"""Names taken out of a dump in such a way that it runs as before.

A core compares peer ids, by equality and by order, and addresses by equality; it makes nothing else of them. So each
peer id becomes ``peer-01``, ``peer-02``... in the order of the ids themselves, and each address ``addr-1``...: the same
comparisons come out the same. Peer ids and IP addresses are found by their form, wherever they stand, and meeting
addresses by the field they stand in. Words that people chose are taken only out of the header: a run named "timeout", or
a peer that says its host is called so, must not change a reason the core goes by.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache

from lowcomm_node.telemetry.flight.values import Tree, encode

__all__ = ["redacted"]

_PEER = re.compile(r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}|Qm[1-9A-HJ-NP-Za-km-z]{44}")
_V4 = r"\d{1,3}(?:\.\d{1,3}){3}"
_IP = re.compile(rf"(?<![\w.:])(?:{_V4}|(?:[0-9a-fA-F]{{0,4}}:){{2,7}}(?:{_V4}|[0-9a-fA-F]{{0,4}}))(?![\w:]|\.\d)")
_DNS = re.compile(r"(/dns(?:4|6|addr)?/)[^/\s]+")
"""The host in a multiaddress; the header may quote those the node was given."""
_ADDRESS_KEY = "grpc_address"
_CERTIFICATE_KEY = "certificate"
"""Public, and whoever has it knows whose it is. A core makes nothing of it."""


def redacted(document: dict[str, Tree], run_id: str, names: Mapping[str, str]) -> dict[str, Tree]:
    """``document`` with pseudonyms for peers, addresses and the run.

    Args:
        document: what a dump holds; people's words stand under ``header``.
        run_id: becomes ``run``.
        names: other words of the header and what becomes of each, as a whole text or between word boundaries.
    """
    texts = set(_texts(document))
    peers = _numbered("peer", {peer for text in texts for peer in _PEER.findall(text)})
    addresses = _numbered("addr", {text for text in _addresses(document) if text and not _PEER.fullmatch(text)})
    ips = _numbered("ip", {ip for text in texts for ip in _IP.findall(text) if _tells_something(ip)})
    hosts = _numbered("host", {address.rpartition(":")[0].strip("[]") for address in addresses} - {""})

    @cache  # the same few texts stand in thousands of events
    def without_forms(text: str) -> str:
        if text == run_id:
            return "run"
        text = _PEER.sub(lambda match: peers[match[0]], text)
        return _IP.sub(lambda match: ips.get(match[0], match[0]), text)

    without_words = _words({**hosts, **addresses, **names, run_id: "run"})
    return {
        key: _replaced(
            value,
            addresses,
            (lambda text: without_forms(_DNS.sub(r"\1(host)", without_words(text))))
            if key == "header"
            else without_forms,
        )
        for key, value in document.items()
    }


def _numbered(kind: str, words: Iterable[str]) -> dict[str, str]:
    """Pseudonyms of one width, so that they have the order of what they stand for."""
    ordered = sorted(words)
    width = len(str(len(ordered)))
    return {word: f"{kind}-{number:0{width}}" for number, word in enumerate(ordered, 1)}


def _words(known: Mapping[str, str]) -> Callable[[str], str]:
    # The longest first: a directory before its beginning, an address before its host.
    words = sorted(filter(None, known), key=len, reverse=True)
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words) or r"(?!)")
    return lambda text: pattern.sub(lambda match: known[match[0]], text)


def _tells_something(text: str) -> bool:
    """An IP address that is somebody's: no loopback, and not four numbers with dots or a time of day."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def _texts(tree: Tree) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, list):
        for item in tree:
            yield from _texts(item)
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _texts(value)


def _addresses(tree: Tree) -> Iterator[str]:
    if isinstance(tree, list):
        for item in tree:
            yield from _addresses(item)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            if key == _ADDRESS_KEY and isinstance(value, str):
                yield value
            else:
                yield from _addresses(value)


def _replaced(tree: Tree, addresses: Mapping[str, str], replace: Callable[[str], str]) -> Tree:
    if isinstance(tree, str):
        return replace(tree)
    if isinstance(tree, list):
        return [_replaced(item, addresses, replace) for item in tree]
    if isinstance(tree, dict):
        return {key: _of_key(key, value, addresses, replace) for key, value in tree.items()}
    return tree


def _of_key(key: str, value: Tree, addresses: Mapping[str, str], replace: Callable[[str], str]) -> Tree:
    if key == _ADDRESS_KEY and isinstance(value, str) and value in addresses:
        return addresses[value]
    if key == _CERTIFICATE_KEY:
        return encode(b"")
    return _replaced(value, addresses, replace)
