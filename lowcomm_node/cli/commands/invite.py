"""``lowcomm-node invite``: what an organiser gives to those who may take part in a run."""

import argparse
import re
import secrets
import sys
import time
from pathlib import Path

from lowcomm_node.cli.common import add_settings_arguments, make_state_dir, settings_from
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.canonical import manifest_from_canonical, run_id
from lowcomm_node.settings.load import read_manifest
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.units import PeerId

__all__ = ["add_arguments", "run"]

_UNITS_S = {"h": 3600, "d": 86400}
_LONGEST_S = 10 * 366 * 86400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare create."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="create")
    create = actions.add_parser(
        "create",
        help="print an invitation",
        description="Print an invitation, signed with this node's identity, which the run's manifest must name as organiser. "
        "Pass it on as you would a password: unless it is --for one peer, whoever has it can use it, for any number of nodes.",
    )
    create.add_argument("--manifest", metavar="FILE", help="the run; otherwise the one this node was in last")
    create.add_argument("--for", dest="peer", metavar="PEER_ID", help="only for this peer (see 'identity show')")
    create.add_argument(
        "--valid",
        default="30d",
        metavar="TIME",
        help="how long its holder may take part, such as 12h or 90d (30d); it cannot be taken back before",
    )
    add_settings_arguments(create)


def run(args: argparse.Namespace) -> int:
    """Print an invitation."""
    from lowcomm_node.adapters.identity import load_or_create
    from lowcomm_node.wire.admission import AdmissionRule, Invitation

    settings, _ = settings_from(args)
    state_dir = make_state_dir(settings)
    expires_at = int(time.time()) + _seconds(args.valid)
    manifest = _manifest(args.manifest, state_dir)
    identity = load_or_create(state_dir / "identity.key")
    rule = AdmissionRule.of(manifest.security, run_id(manifest))
    if rule.kind != "invite":
        raise ConfigError(f'run "{manifest.name}" asks for no invitations: its security.admission is "{rule.kind}"')
    if rule.organiser != identity.peer_id:
        raise ConfigError(
            f'only {rule.organiser} invites to run "{manifest.name}", and this node is {identity.peer_id}; '
            "give the organiser's --state-dir"
        )
    peer = _peer(args.peer) if args.peer else None
    secret = b"" if peer else secrets.token_bytes(32)
    print(Invitation.make(rule.run_id, expires_at, identity.sign, peer=peer, secret=secret).text())
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expires_at))
    sys.stderr.write(f'for {peer or "whoever has it"}, to run "{manifest.name}" ({rule.run_id[:12]}), until {until}\n')
    return ExitCode.OK


def _manifest(path: str | None, state_dir: Path) -> Manifest:
    from lowcomm_node.adapters.run_memory import RunMemory
    from lowcomm_node.wire.limits import MAX_MANIFEST_BYTES

    if path is not None:
        return read_manifest(Path(path))
    remembered = RunMemory(state_dir).load()
    if remembered is None:
        raise ConfigError(f"which run? None is remembered in {state_dir}; give --manifest FILE")
    return manifest_from_canonical(remembered.manifest, MAX_MANIFEST_BYTES, "manifest of this node's last run")


def _peer(text: str) -> PeerId:
    from lowcomm_node.errors import RemoteProtocolError
    from lowcomm_node.wire.peer_id import peer_id_from_bytes, peer_id_to_bytes

    try:
        return peer_id_from_bytes(peer_id_to_bytes(PeerId(text)))
    except (RemoteProtocolError, ValueError) as error:
        raise ConfigError(f"--for {text}: not a peer id as 'lowcomm-node identity show' prints it") from error


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([hd])", text)
    seconds = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST_S:
        raise ConfigError(f"--valid {text}: give hours or days up to ten years, such as 12h or 90d")
    return seconds
