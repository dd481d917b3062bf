"""Starts a command that ends with its parent: ``python -m lowcomm_node.cli.swarm.tether PARENT_PID COMMAND...``.

A swarm that is killed outright cannot stop its nodes. On Linux the kernel does it: the node gets SIGTERM when the
swarm's process ends (prctl(2), PR_SET_PDEATHSIG; the setting survives execve). It gets one for each thread that the
swarm had, so it leaves at once, as after a second Ctrl+C. Elsewhere the node just runs.
Set in a small process of its own, because code between fork and exec is not safe in a process that has threads.
"""

import ctypes
import os
import signal
import sys

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the command."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the swarm ended before its node started")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
