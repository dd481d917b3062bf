"""What all tests share: quiet machines, repeatable chance, and no process or thread left behind."""

import os
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import HealthCheck, settings

# Before anything imports torch; child processes inherit it. Several workers with a pool of threads each would only
# take the cores from one another, and sums would depend on their number.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# As 'join' does: gRPC's handlers abort a child that hivemind forks for p2pd while calls are under way.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

settings.register_profile(
    "lowcomm",
    derandomize=True,  # a test that fails fails for everybody, every time
    max_examples=50,
    deadline=None,  # how long an example takes says more about the machine than about the code
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("lowcomm")

_HELPERS = ("multiprocessing.resource_tracker", "forkserver", "torch_shm_manager")
_GRACE_SECONDS = 5.0
"""How long what a test has ended may take to be gone."""


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a child process or a non-daemon thread running."""
    processes, threads = set(_children()), set(_threads())

    yield

    psutil.wait_procs([child for child in _children() if child not in processes], timeout=_GRACE_SECONDS)
    deadline = time.monotonic() + _GRACE_SECONDS
    for thread in set(_threads()) - threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    left_processes = [child for child in _children() if child not in processes]
    left_threads = [thread.name for thread in _threads() if thread not in threads]
    names = [" ".join(_command(child)) for child in left_processes]
    for child in left_processes:  # the next test shall not pay for it
        child.kill()
    assert not names, f"the test left processes running: {names}"
    assert not left_threads, f"the test left threads running: {left_threads}"


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that sets up logging writes to the standard error of its own test, which is closed when the next one logs."""
    yield

    if (structlog := sys.modules.get("structlog")) is not None:
        structlog.reset_defaults()


def _children() -> list[psutil.Process]:
    """Living descendants; helpers of the standard library and of torch live as long as the interpreter and are left out."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.is_running() and not any(helper in word for helper in _HELPERS for word in _command(child))
    ]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else ["(not waited for)"]
    except psutil.NoSuchProcess:
        return []


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if not thread.daemon]
