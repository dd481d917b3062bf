"""docs/deploy.md tells of commands, options, files, codes and sizes that exist."""

import importlib
import re
import runpy
import shlex
import subprocess

import pytest

from lowcomm_node.cli.app import COMMANDS
from lowcomm_node.cli.parser import Parser
from lowcomm_node.core.diagnosis import CODES
from tests.deploy.tools import REPOSITORY

PAGE = (REPOSITORY / "docs/deploy.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LINES = [line.partition("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
CALLS = sorted(
    {match[1] for line in LINES if (match := re.match(r"(?:sudo -u lowcomm-node )?lowcomm-node (.+)", line))}
    | {match[1] for match in re.finditer(r"`(?:sudo -u lowcomm-node )?lowcomm-node ((?!\.)[^`]+)`", PAGE)}
)


@pytest.mark.parametrize("call", CALLS)
def test_each_call_of_the_command_line_exists(call: str) -> None:
    """Its command, its action and each of its options."""
    words = shlex.split(call)
    if words[0] == "--version":
        return
    assert words[0] in COMMANDS
    parser = Parser(prog=words[0])
    importlib.import_module(f"lowcomm_node.cli.commands.{words[0]}").add_arguments(parser)

    assert {word for word in words if word.startswith("--")} <= parser.option_names()
    parser.parse_args(words[1:])


def test_each_option_of_the_bootstrap_exists() -> None:
    """Those in the commands, and those that the text names."""
    usage = subprocess.run(
        [str(REPOSITORY / "deploy/bootstrap/bootstrap.sh"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    calls = [line for line in LINES if "bootstrap.sh" in line]
    named = {"--data", "--invite", "--torch-index", "--system-packages", "--dry-run", "--rollback"}

    assert calls
    assert all(f"`{option}`" in PAGE or option in " ".join(calls) for option in named)
    for option in named | {word for line in calls for word in line.split() if word.startswith("--")}:
        assert f"  {option} " in usage


def test_each_code_of_doctor_has_a_row() -> None:
    """In doctor's own order, and none that it does not know."""
    rows = re.findall(r"^\| `([a-z-]+)` \|", PAGE.split("## When it does not work")[1], re.MULTILINE)

    assert tuple(rows) == CODES


def test_the_sizes_are_those_of_the_settings_code() -> None:
    """As ``python docs/sizing.py`` prints them."""
    sizing = runpy.run_path(str(REPOSITORY / "docs/sizing.py"))
    tables = sizing["page"](sizing["_examples"]()).strip().split("\n\n")

    assert len(tables) == 2
    assert all(table in PAGE for table in tables), "the tables are out of date: python docs/sizing.py"


def test_each_link_leads_to_a_file_or_a_heading() -> None:
    """Relative to the page."""
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
        for line in PAGE.splitlines()
        if line[:1] == "#"
    }
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        if path:
            assert (REPOSITORY / "docs" / path).exists(), target
        else:
            assert anchor in headings, target
