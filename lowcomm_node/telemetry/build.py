"""What this node was built from, as far as it can be known without importing anything large."""

import json
import re
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

__all__ = ["installed", "revision"]

_PACKAGE = Path(__file__).resolve().parent.parent
_SHORT = 12
_COMMIT = re.compile(r"[0-9a-f]{12,64}")


def installed(package: str) -> str:
    """Version of an installed package, ``none`` of one that is not; the package itself is not imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def revision(package: Path = _PACKAGE) -> str:
    """The git commit of this package, shortened; ``unknown`` where nothing tells.

    What an image's build has written into ``REVISION`` comes first, then the checkout that the package lies in, then what pip
    remembers of an installation from a repository. Whether files were changed since is not known.
    """
    told = (_read(package / "REVISION"), _checked_out(package.parent / ".git"), _installed_from())
    return next((commit[:_SHORT] for commit in told if _COMMIT.fullmatch(commit)), "unknown")


def _checked_out(git: Path) -> str:
    """The commit that HEAD stands for; of a worktree, ``.git`` is a file that names its folder."""
    if git.is_file():
        git = git.parent / _read(git).removeprefix("gitdir: ")
    head = _read(git / "HEAD")
    if not head.startswith("ref: "):
        return head
    ref = head.removeprefix("ref: ")
    common = git / (_read(git / "commondir") or ".")
    packed = re.search(rf"^([0-9a-f]+) {re.escape(ref)}$", _read(common / "packed-refs"), re.MULTILINE)
    return _read(common / ref) or (packed[1] if packed else "")


def _installed_from() -> str:
    """As the metadata of an installation from a repository say (direct_url.json)."""
    try:
        told = json.loads(distribution("lowcomm-node").read_text("direct_url.json") or "{}")
        return str(told["vcs_info"]["commit_id"])
    except (PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        return ""


def _read(path: Path) -> str:
    """Without the line's end; empty where there is no such file, or none that can be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
