"""The revision that a node tells: from its image, its checkout, or nobody."""

import subprocess
from pathlib import Path

from lowcomm_node.telemetry.build import installed, revision


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _checkout(folder: Path) -> tuple[Path, str]:
    """A package in a repository of one commit, and that commit."""
    package = folder / "repository/lowcomm_node"
    package.mkdir(parents=True)
    (package / "a.py").write_text("")
    _git(package.parent, "init", "--quiet")
    _git(package.parent, "add", ".")
    _git(package.parent, "commit", "--quiet", "--message", "one")
    return package, _git(package.parent, "rev-parse", "HEAD")


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    """On a branch, with its name packed away, on none, and in a worktree."""
    package, commit = _checkout(tmp_path)
    _git(package.parent, "worktree", "add", "--quiet", str(tmp_path / "other"))
    told = [revision(package), revision(tmp_path / "other/lowcomm_node")]
    _git(package.parent, "pack-refs", "--all")
    told += [revision(package), revision(tmp_path / "other/lowcomm_node")]
    _git(package.parent, "checkout", "--quiet", "--detach")
    told.append(revision(package))

    assert told == [commit[:12]] * 5


def test_what_the_build_of_an_image_has_written_comes_first(tmp_path: Path) -> None:
    """And what is no commit is not passed on."""
    package, commit = _checkout(tmp_path)
    (package / "REVISION").write_text("abcdef0123456789\n")
    assert revision(package) == "abcdef012345"
    (package / "REVISION").write_text("unknown\n")
    assert revision(package) == commit[:12]


def test_versions_of_what_is_installed_and_of_what_is_not() -> None:
    """Without importing it."""
    assert installed("pytest")[0].isdigit()
    assert installed("lowcomm-no-such-package") == "none"
