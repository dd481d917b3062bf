"""train.child: what the processes of training have in common."""

import os
import subprocess
import sys

import pytest

from lowcomm_node.train.child import stand_back


@pytest.mark.parametrize(("at", "wished", "becomes"), [(0, 10, 10), (15, 10, 15), (0, 0, 0)])
def test_nobody_is_pulled_forward(monkeypatch: pytest.MonkeyPatch, at: int, wished: int, becomes: int) -> None:
    """Who was started further back stays there; asking for less would be refused, too."""
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "getpriority", lambda which, who: at)
    monkeypatch.setattr(os, "setpriority", lambda *arguments: asked.append(arguments))

    stand_back(wished)

    assert asked == [(os.PRIO_PROCESS, 0, becomes)]


def test_a_sandbox_that_refuses_it_ends_no_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The incident: under systemd's filter of system calls every trainer ended as soon as it was configured."""
    asked: list[int] = []

    def refuse(*arguments: int) -> None:
        asked.append(arguments[-1])
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", refuse)

    stand_back(10)

    assert len(asked) == 1


def test_the_end_takes_down_nothing_that_could_abort_it() -> None:
    """The incident: a thread of Gloo wanted the interpreter while it shut down, and status 1 became an abort."""
    program = """
import atexit, os
from lowcomm_node.train.child import end_child
atexit.register(os.abort)
print("last words")
end_child(1)
"""

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (1, "last words\n")
