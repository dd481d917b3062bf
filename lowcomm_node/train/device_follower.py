"""Entry point of a follower: ``python -m lowcomm_node.train.device_follower FD``, FD one end of the leader's socket pair.

It trains on one further device of a node (``devices``). It never outlives its leader: it ends when the other end of FD closes,
at the latest when its step is done, and on Linux also by the parent's death signal.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path

from lowcomm_node.errors import LowcommError
from lowcomm_node.train.child import EXIT_FAILED, end_child, prepare_child
from lowcomm_node.train.data.prefetch import Prefetch
from lowcomm_node.train.device_group import ProcessGroup
from lowcomm_node.train.devices import Enlist, Freeze, Gather, Order, Share, Step
from lowcomm_node.train.session import build_session

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Follow until the leader closes the pipe. Returns the exit status."""
    prepare_child()
    connection = Connection(int(arguments[0]))
    try:
        with suppress(EOFError):  # before the first message
            _follow(connection.recv(), _orders(connection))
    except LowcommError as error:
        last_words = str(error)
    except Exception as error:  # noqa: BLE001 - the process's supervisor: out of memory, CUDA errors, our own bugs
        last_words = f"{type(error).__name__}: {error}"
    else:
        return 0
    with suppress(OSError):
        connection.send(last_words)
    return EXIT_FAILED


def _orders(connection: Connection) -> Iterator[Order]:
    with suppress(EOFError, ConnectionResetError):
        while True:
            yield connection.recv()


def _follow(enlist: Enlist, orders: Iterator[Order]) -> None:
    configure = enlist.configure
    with ExitStack() as stack:
        group = ProcessGroup(Path(enlist.rendezvous), enlist.rank, enlist.size, enlist.timeout_s)
        stack.enter_context(closing(group))
        session = build_session(configure.manifest, configure.settings, configure.run_id, configure.peer_id, group)
        replica = session.replica
        batches = stack.enter_context(closing(Prefetch(session.stream, stride=enlist.size)))
        for order in orders:
            match order:
                case Step():
                    replica.train_step(batches.batch(replica.data_cursor + enlist.rank))
                case Gather():
                    replica.gather()
                case Share():
                    replica.counters = order.counters
                    replica.share(with_optimizer=order.with_optimizer)
                case Freeze() if replica.ab is not None:
                    frozen = replica.ab.blank(order.epoch, order.digest, order.factor, order.ranks, replica.theta)
                    replica.take_frozen(frozen)


if __name__ == "__main__":
    end_child(main(sys.argv[1:]))
