"""``lowcomm-node invite``: only the organiser of a run that asks for invitations makes them."""

import time
from pathlib import Path

import pytest

from lowcomm_node.adapters.run_memory import RunMemory
from lowcomm_node.cli.app import main
from lowcomm_node.settings.canonical import canonical_bytes, run_id
from lowcomm_node.settings.load import read_manifest
from lowcomm_node.wire.admission import AdmissionRule, Invitation

DAY_S = 86400


@pytest.fixture
def organiser(capsys: pytest.CaptureFixture[str], own_home: Path) -> str:
    """Peer id of the node in ``org``, which has a manifest ``run.toml``."""
    assert main(["identity", "show", "--state-dir", "org"]) == 0
    peer = capsys.readouterr().out.strip()
    (own_home / "run.toml").write_text(f'name = "ours"\n[security]\nadmission = "invite"\norganiser = "{peer}"\n')
    return peer


def created(capsys: pytest.CaptureFixture[str], *arguments: str) -> Invitation:
    assert main(["invite", "create", "--state-dir", "org", *arguments]) == 0
    return Invitation.read(capsys.readouterr().out)


def test_what_is_printed_lets_others_in(capsys: pytest.CaptureFixture[str], organiser: str) -> None:
    """Anybody for thirty days, or one peer for as long as it says; no two for anybody have the same secret."""
    manifest = read_manifest(Path("run.toml"))
    assert main(["identity", "show", "--state-dir", "guest"]) == 0
    guest = capsys.readouterr().out.strip()

    anybodys = created(capsys, "--manifest", "run.toml")
    hers = created(capsys, "--manifest", "run.toml", "--for", guest, "--valid", "12h")

    rule = AdmissionRule.of(manifest.security, run_id(manifest))
    for invitation, days in ((anybodys, 30.0), (hers, 0.5)):
        stay_s = rule.stay_s(guest, invitation.admission_of(guest), time.time())  # type: ignore[arg-type]
        assert stay_s == pytest.approx(days * DAY_S, abs=60.0)
    assert hers.peer == guest
    assert created(capsys, "--manifest", "run.toml").secret != anybodys.secret


def test_the_run_of_the_last_life_needs_no_manifest(
    capsys: pytest.CaptureFixture[str], organiser: str, own_home: Path
) -> None:
    """A node that is in its run invites to that one."""
    manifest = read_manifest(Path("run.toml"))
    RunMemory(own_home / "org").save(canonical_bytes(manifest), ())

    assert created(capsys).run_id == run_id(manifest)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--state-dir", "other", "--manifest", "run.toml"], "only "),
        (["--state-dir", "org", "--manifest", "open.toml"], "asks for no invitations"),
        (["--state-dir", "org"], "give --manifest"),
        (["--state-dir", "org", "--manifest", "run.toml", "--for", "somebody"], "--for somebody: not a peer id"),
        (["--state-dir", "org", "--manifest", "run.toml", "--valid", "0d"], "--valid 0d"),
        (["--state-dir", "org", "--manifest", "run.toml", "--valid", "week"], "--valid week"),
    ],
)
def test_what_makes_no_sense_is_refused(
    capsys: pytest.CaptureFixture[str], organiser: str, own_home: Path, arguments: list[str], words: str
) -> None:
    """With a sentence and the configuration status, and nothing that looks like an invitation."""
    (own_home / "open.toml").write_text('name = "open"\n')

    assert main(["invite", "create", *arguments]) == 78
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""


def test_join_says_what_an_invitation_looks_like(capsys: pytest.CaptureFixture[str], own_home: Path) -> None:
    """What is neither one nor a file is refused before anything is started."""
    peers = ["--peers", "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWJ4ZgvddTV5uucEyieDVf86e4CVy8wXxuPNQbPYcvWK5s"]

    assert main(["join", *peers, "--invite", "nonsense"]) == 78
    assert "neither an invitation" in capsys.readouterr().err
