"""Events have names that stay, fields that tell no secret, and a page that lists them all."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_EVENTS = runpy.run_path(str(_ROOT / "docs/log_events.py"))["events"]()


def test_the_page_is_of_this_source() -> None:
    """docs/log-events.md is what the script prints; renew it with make docs."""
    script = [sys.executable, str(_ROOT / "docs/log_events.py")]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout

    assert (_ROOT / "docs/log-events.md").read_text() == printed


def test_events_are_found_wherever_they_are_said() -> None:
    """In the daemon with fields, through a dictionary of fields, in an adapter's template, through a callable."""
    assert {"steps", "loss", "meetings"} <= set(_EVENTS["training"].fields)
    assert {"meeting", "partner", "scales", "reason"} <= set(_EVENTS["meeting_half"].fields)
    assert list(_EVENTS["p2pd_restart_failed"].fields) == ["detail", "next_try_s"]
    assert list(_EVENTS["checkpoint_set_aside"].fields) == ["path", "detail"]


def test_names_are_snake_case_and_no_field_is_a_secret() -> None:
    """A field of such a name would be hidden, so it would tell nothing."""
    for name, event in _EVENTS.items():
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
        for field in event.fields:
            assert not re.search(r"(^|_)(token|secret|password|invite|invitation|private|key)($|_)", field), (
                name,
                field,
            )
