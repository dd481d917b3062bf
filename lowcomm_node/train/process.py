"""Entry point of the trainer process: ``python -m lowcomm_node.train.process FD``, FD one end of the daemon's socket pair.

A fresh interpreter, never a fork: CUDA and gRPC do not survive one. The process never outlives its daemon: it ends
when the other end of FD closes (whatever it is doing: a thread watches), and on Linux also by the parent's death
signal, which fires when the thread that started the process ends.
"""

import gc
import os
import sys
from contextlib import ExitStack
from multiprocessing.connection import Connection

from lowcomm_node.errors import TrainerError
from lowcomm_node.train.child import EXIT_FAILED, end_child, prepare_child, stand_back
from lowcomm_node.train.faults import fault_of
from lowcomm_node.train.mailbox import PipeMailbox
from lowcomm_node.train.messages import Configure, Failed, Ready

__all__ = ["EXIT_ORPHANED", "main"]

EXIT_ORPHANED = 3
"""The daemon is gone."""


def main(arguments: list[str]) -> int:
    """Serve the daemon until it says Stop. Returns the exit status."""
    prepare_child()
    mailbox = PipeMailbox(Connection(int(arguments[0])), on_lost=_end_orphaned)
    try:
        _train(mailbox)
    except Exception as error:  # noqa: BLE001 - the process's supervisor: out of memory, CUDA errors, our own bugs
        fault = fault_of(error)
        mailbox.post(Failed(code=fault.code, detail=str(fault), is_fatal=True))
        status = EXIT_FAILED
    else:
        status = 0
    mailbox.close()
    return status


def _train(mailbox: PipeMailbox) -> None:
    # Importing torch takes seconds: the watch on the daemon is up before, and the daemon finds its run meanwhile.
    import torch  # noqa: PLC0415

    from lowcomm_node.algo.consensus import count_sketch  # noqa: PLC0415
    from lowcomm_node.train.devices import lead  # noqa: PLC0415
    from lowcomm_node.train.frozen_file import frozen_bytes_bound  # noqa: PLC0415
    from lowcomm_node.train.loop import Trainer  # noqa: PLC0415
    from lowcomm_node.train.model import count_parameters  # noqa: PLC0415
    from lowcomm_node.train.session import build_session, choose_devices  # noqa: PLC0415
    from lowcomm_node.train.state_file import state_bytes_bound  # noqa: PLC0415

    gc.freeze()  # as in daemon/entry.py
    request = mailbox.wait()
    if not isinstance(request, Configure):
        raise TrainerError(f"the first message must be Configure, not {type(request).__name__}")
    stand_back(request.settings.owner.nice)
    devices = choose_devices(request.settings.device)
    with ExitStack() as stack:
        group = stack.enter_context(lead(request, devices))
        session = build_session(request.manifest, request.settings, request.run_id, request.peer_id, group)
        stack.callback(session.close)
        replica = session.replica
        trainer = Trainer(session, mailbox)
        mailbox.post(
            Ready(
                parameters=count_parameters(replica.model),
                shapes=replica.shapes,
                snapshot_bytes_max=state_bytes_bound(replica.layout()),
                train_tokens=session.train_tokens,
                validation_tokens=session.validation_tokens,
                bytes_per_token=session.bytes_per_token,
                device=", ".join(map(str, devices)),
                cuda=torch.version.cuda or "none",
                follower_pids=(
                    *(() if group is None else group.pids),
                    *(() if session.filler is None else (session.filler.pid,)),
                ),
                stream_sizes={
                    stream: sum(tensor.numel() for tensor in replica.tensors(stream)) for stream in replica.streams
                },
                frozen_bytes_max=0 if replica.ab is None else frozen_bytes_bound(replica.ab.split_shapes()),
                initial_sketch=tuple(count_sketch(replica.theta).tolist()),
            )
        )
        trainer.run()


def _end_orphaned() -> None:
    # Not sys.exit: this runs in a thread, and the main thread may be deep in a step.
    os._exit(EXIT_ORPHANED)


if __name__ == "__main__":
    end_child(main(sys.argv[1:]))
