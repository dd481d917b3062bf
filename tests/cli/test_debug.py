"""The debug command: a dump of a running node, where it is, and where it was asked to be."""

import asyncio
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lowcomm_node.cli import app
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.daemon.control import ControlServer
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import History, Peers, Status


def with_node(state_dir: Path, *arguments: str) -> int:
    """Run ``debug dump`` while a control server of a node is there that writes what it is asked for."""

    async def dump(is_full: bool) -> Path:
        path = state_dir / "dump-1.json"
        path.write_text(f"full: {is_full}")
        path.chmod(0o600)
        return path

    async def scenario(run: Callable[[], Awaitable[int]]) -> int:
        server = ControlServer(
            state_dir,
            status=Status,
            peers=Peers,
            history=History,
            leave=lambda: None,
            pause=lambda _: None,
            resume=lambda: None,
            dump=dump,
        )
        await server.start()
        try:
            return await run()
        finally:
            await server.stop()

    command = ["debug", "dump", "--state-dir", str(state_dir), *arguments]
    return asyncio.run(scenario(lambda: asyncio.to_thread(app.main, command)))


def test_a_dump_stays_in_the_state_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its path is printed with what to do with it."""
    assert with_node(tmp_path) == ExitCode.OK

    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'dump-1.json'} (11 B; no names, addresses or tensors are in it)\n")
    assert f"'lowcomm-node replay {tmp_path / 'dump-1.json'}'" in out


def test_a_full_dump_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The flag reaches the node, and the person is told what the file holds."""
    assert with_node(tmp_path, "--full") == ExitCode.OK

    assert (tmp_path / "dump-1.json").read_text() == "full: True"
    assert "names and addresses are in it" in capsys.readouterr().out


def test_out_moves_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Private there too, and no second copy."""
    out = tmp_path / "bug.json"

    assert with_node(tmp_path, "--out", str(out)) == ExitCode.OK

    assert out.read_text() == "full: False"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert not (tmp_path / "dump-1.json").exists()
    assert capsys.readouterr().out.startswith(str(out))


def test_out_must_name_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder is refused before the node is asked."""
    assert with_node(tmp_path, "--out", str(tmp_path)) == ExitCode.CANNOT_CREATE

    assert "is a directory" in capsys.readouterr().err
    assert not (tmp_path / "dump-1.json").exists()


def test_no_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same sentence as for every command that needs one."""
    assert app.main(["debug", "dump", "--state-dir", str(tmp_path)]) == ExitCode.FAILED

    assert "no node is running" in capsys.readouterr().err
