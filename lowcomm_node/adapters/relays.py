"""Which nodes are asked to be relays for one that nobody can dial: a few of those it knows, and only such as answer.

p2pd takes no place at any of the relays it was given before it has seen all of them, or three minutes are over. So one seed that
is gone would keep a node without a relay for as long.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

__all__ = ["choose_relays"]

_MAX_RELAYS = 8
_MAX_TRIED = 16
_PATIENCE_S = 2.0
_CIRCUIT = "/p2p-circuit"


async def choose_relays(addresses: Sequence[str]) -> tuple[str, ...]:
    """Of these multiaddresses, the first few at which somebody accepts a connection; the first few of all where nobody does.

    Takes two seconds at most. The addresses of relayed nodes are left out.
    """
    direct = [address for address in addresses if _CIRCUIT not in address][:_MAX_TRIED]
    answers = await asyncio.gather(*map(_answers, direct))
    answering = [address for address, answered in zip(direct, answers, strict=True) if answered]
    return tuple((answering or direct)[:_MAX_RELAYS])


async def _answers(address: str) -> bool:
    match address.split("/"):
        case ["", "ip4" | "ip6" | "dns" | "dns4" | "dns6", host, "tcp", port, *_] if port.isdecimal():
            with suppress(OSError, TimeoutError, OverflowError):
                async with asyncio.timeout(_PATIENCE_S):
                    _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                return True
    return False
