"""A peer of hivemind's own averager, a process of its own: ``python -m lowcomm_node.bench.averager_hivemind LOAD``.

Directory and averager are started as hivemind's own optimizer starts them, with its time-outs; the averager's process is forked from this one.
"""

import sys
import time
from concurrent.futures import TimeoutError as FutureTimeoutError

import hivemind
from hivemind.compression import CompressionBase, Float16Compression, NoCompression

from lowcomm_node.bench.averager_load import Order, PeerLoad, PeerState, Word
from lowcomm_node.bench.link_load import Whereabouts

__all__ = ["COMPRESSIONS", "main"]

COMPRESSIONS: dict[str, type[CompressionBase]] = {
    "none": NoCompression,
    "float16": Float16Compression,
}
"""Not its 8 bits: with NumPy 2 those of 1.1.12 raise TypeError in every part, and the round is reported as a success that moved nothing."""
_MATCHMAKING_S = 5.0
"""The averager's default, and the most that ``hivemind.Optimizer`` advises for small local runs."""
_NEXT_CHUNK_S = 15.0
"""After so long without a chunk a peer counts as gone: ``hivemind.Optimizer`` takes its default matchmaking time for it."""


class _Peer:
    def __init__(self, load: PeerLoad) -> None:
        self._state = PeerState(load)
        self._dht = hivemind.DHT(
            host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=list(load.initial_peers), start=True
        )
        self._averagers: dict[tuple[str, int], hivemind.DecentralizedAverager] = {}

    @property
    def where(self) -> Whereabouts:
        return Whereabouts(address=str(self._dht.get_visible_maddrs()[0]), peer_id=str(self._dht.peer_id))

    def obey(self, order: Order) -> Word:
        if order.what == "drift":
            self._state.drift(order.seed)
            self._averager(order)  # started before the clock is
            return Word(sample=self._state.sample())
        averager = self._averager(order)
        begun_s = time.monotonic()
        failure, group = "", 0
        try:
            gathered = averager.step(timeout=order.patience_s, wait=False).result(order.patience_s)
            group = len(gathered or ())
            failure = "" if group else "nothing gathered"
        except FutureTimeoutError:
            failure = "no end in time"
        except Exception as error:  # noqa: BLE001 - whatever hivemind raises is how its round has failed
            failure = type(error).__name__
        seconds = time.monotonic() - begun_s
        return Word(seconds=seconds, failure=failure, group=group, sample=self._state.sample())

    def _averager(self, order: Order) -> hivemind.DecentralizedAverager:
        key = order.coding, order.group
        if key not in self._averagers:
            self._averagers[key] = hivemind.DecentralizedAverager(
                self._state.tensors,
                self._dht,
                prefix=f"bench-{order.coding}-{order.group}",
                target_group_size=order.group,
                min_matchmaking_time=_MATCHMAKING_S,
                allreduce_timeout=order.patience_s,
                next_chunk_timeout=_NEXT_CHUNK_S,
                compression=COMPRESSIONS[order.coding](),
                start=True,
            )
        return self._averagers[key]


def main(arguments: list[str]) -> None:
    """Obey until standard input ends; whoever started this process ends it with all its children."""
    peer = _Peer(PeerLoad.from_json(arguments[0]))
    _say(Word(where=peer.where))
    for line in sys.stdin:
        _say(peer.obey(Order.from_json(line)))


def _say(word: Word) -> None:
    sys.stdout.write(f"{word.to_json()}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
