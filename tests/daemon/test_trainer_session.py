"""Why a real trainer process has ended, as the daemon understands it."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from lowcomm_node.daemon import trainer_session as module
from lowcomm_node.daemon.trainer_session import TrainerSession
from lowcomm_node.errors import LowcommError, OutOfMemoryError, TrainerHangError, TrainerKilledError
from lowcomm_node.train.messages import Failed


def error_after(happens: Callable[[TrainerSession], None]) -> LowcommError:
    """Start a trainer, let it happen, and ask why it ended."""

    async def life() -> LowcommError:
        session = TrainerSession(lambda _message: None)
        session.attach()
        happens(session)
        async with asyncio.timeout(30):
            await session.lost.wait()
        error = session.error()
        await session.end(0.0)
        return error

    return asyncio.run(life())


def kill(session: TrainerSession) -> None:
    os.kill(session.pid, signal.SIGKILL)


def counts(monkeypatch: pytest.MonkeyPatch, *numbers: int | None) -> None:
    """What the kernel says it has killed, one look after the other."""
    looks: Iterator[int | None] = iter(numbers)
    monkeypatch.setattr(module, "kernel_kills", lambda: next(looks))


def test_a_sigkill_that_is_not_ours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Want of memory when the kernel counts one more, somebody's doing when it does not, unknown where it does not count."""
    counts(monkeypatch, 3, 4)
    assert isinstance(error_after(kill), OutOfMemoryError)
    counts(monkeypatch, 3, 3)
    assert "not the kernel" in str(error_after(kill))
    counts(monkeypatch, None, None)
    killed = error_after(kill)
    assert isinstance(killed, TrainerKilledError)
    assert "if memory is short" in str(killed)


def test_a_killed_device_follower_is_named_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer sees the SIGKILL, the daemon knows whose: smaller parts of a batch help against the kernel's."""

    def last_words(session: TrainerSession) -> None:
        session._received(Failed(code="killed", detail="cuda:1 ended with status -9", is_fatal=True))
        session.kill()

    counts(monkeypatch, 3, 4)
    short = error_after(last_words)
    counts(monkeypatch, 3, 3)
    killed = error_after(last_words)

    assert isinstance(short, OutOfMemoryError)
    assert str(short).startswith("cuda:1 ended with status -9; the kernel has killed it")
    assert isinstance(killed, TrainerKilledError)


def test_a_trainer_that_hangs_is_ended_although_it_is_stopped() -> None:
    """And the reason is the silence, not our own SIGKILL."""

    def stop_and_end(session: TrainerSession) -> None:
        os.kill(session.pid, signal.SIGSTOP)
        session.end_hanging(61.0)

    error = error_after(stop_and_end)

    assert isinstance(error, TrainerHangError)
    assert "nothing for 61 s" in str(error)


@pytest.mark.parametrize("code", ["out_of_memory", "device", "config", "data", "store", "trainer"])
def test_last_words_keep_their_code(code: str) -> None:
    """What the trainer says of its own end is what the daemon decides by."""

    def last_words(session: TrainerSession) -> None:
        session._received(Failed(code=code, detail="the end", is_fatal=True))
        session.kill()

    error = error_after(last_words)

    assert (error.code, str(error)) == (code, "the end")
