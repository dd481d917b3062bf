"""What can be found out by asking peers: names, seeds, run, protocol, clock. A p2pd of its own runs for the time it takes."""

import asyncio
import ipaddress
import shutil
import socket
import tempfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import psutil

from lowcomm_node.adapters.admission_file import AdmissionFile
from lowcomm_node.adapters.contacts import Contacts
from lowcomm_node.adapters.grpc_endpoints import ChannelCache
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.hole_punch import seen_addresses
from lowcomm_node.adapters.identity import Identity, load_or_create
from lowcomm_node.adapters.introduction import Introduction
from lowcomm_node.adapters.probe import measure_line
from lowcomm_node.adapters.tcp import resent_share
from lowcomm_node.core.diagnosis import Facts, Seed
from lowcomm_node.core.quarantine import Quarantine
from lowcomm_node.core.versions import SPOKEN
from lowcomm_node.daemon.admitting import own_admission
from lowcomm_node.daemon.doctor.inbound import ask_back
from lowcomm_node.errors import (
    ConfigError,
    DirectoryError,
    LinkError,
    LowcommError,
    NoPeerError,
    RefusalReason,
    RemoteProtocolError,
)
from lowcomm_node.ports import Welcome
from lowcomm_node.settings.canonical import manifest_from_canonical
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.units import PeerId
from lowcomm_node.wire.admission import AdmissionRule, Membership
from lowcomm_node.wire.limits import MAX_MANIFEST_BYTES

__all__ = ["Wanted", "ask_peers", "look_up_names", "nat_of"]

_CARRIER_GRADE = ipaddress.ip_network("100.64.0.0/10")
"""RFC 6598: the space that providers number their customers in, behind their own NAT."""
_NAMED = ("dns", "dns4", "dns6", "dnsaddr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What will be joined."""

    peers: tuple[str, ...]
    run: str = ""
    """The beginning of a run id."""
    invite: str = ""
    """An invitation as it was written down."""


def look_up_names(facts: Facts, settings: NetworkSettings, peers: Iterable[str]) -> Facts:
    """Resolve every name that the node will have to dial or announces."""
    names = {settings.announce_host} if settings.announce_host else set()
    for address in peers:
        parts = address.split("/")
        names |= {name for kind, name in pairwise(parts) if kind in _NAMED}
    unresolved = []
    for name in sorted(names):
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            unresolved.append(f"{name}: {(error.strerror or str(error)).lower()}")
    return replace(facts, unresolved=tuple(unresolved)) if names else facts


async def ask_peers(
    facts: Facts, settings: NetworkSettings, state_dir: Path | None, wanted: Wanted
) -> tuple[Facts, Welcome | None]:
    """Dial each address and ask for its run; the first usable answer comes along.

    ``state_dir``: None when a node is running with the identity there, which must not be on the DHT twice. Raises ConfigError where an
    address is none.
    """
    folder = Path(tempfile.mkdtemp(prefix="lowcomm-doctor-"))
    home = state_dir or folder
    try:
        identity = load_or_create(home / "identity.key")
        directory = HivemindDirectory(
            identity=identity,
            settings=settings if state_dir else replace(settings, dht_port=0),
            initial_peers=wanted.peers,
            socket_dir=folder / "p2p",
            versions=SPOKEN,
        )
        try:
            await directory.start(may_be_alone=True)
            facts, welcome = await _ask_all(facts, directory, wanted)
            if welcome is None:
                return facts, None
            try:
                membership = _membership(welcome, identity.peer_id, wanted.invite, AdmissionFile(home))
            except ConfigError as error:
                return replace(facts, run_error=str(error)), welcome
            facts = await _measure(facts, identity, settings, welcome, membership)
            with suppress(DirectoryError):
                facts = replace(facts, seen_at=tuple(await seen_addresses(directory.session)))
            if state_dir is not None:  # else the node that runs has the ports
                facts = await ask_back(facts, directory, identity, settings, welcome.member.peer, membership)
        except DirectoryError as error:
            return replace(facts, seeds=tuple(Seed(address=a, outcome=str(error)) for a in wanted.peers)), None
        else:
            return facts, welcome
        finally:
            with suppress(LowcommError):
                await directory.stop()
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _membership(welcome: Welcome, own: PeerId, invite: str, file: AdmissionFile) -> Membership:
    """Raises ConfigError where the run does not let this node in."""
    manifest = manifest_from_canonical(welcome.manifest, MAX_MANIFEST_BYTES, "manifest from the swarm")
    rule = AdmissionRule.of(manifest.security, welcome.run_id)
    return Membership(
        run_id=welcome.run_id,
        manifest=welcome.manifest,
        protocol_version=manifest.protocol_version,
        rule=rule,
        admission=own_admission(rule, own, invite, file),
    )


async def _ask_all(facts: Facts, directory: HivemindDirectory, wanted: Wanted) -> tuple[Facts, Welcome | None]:
    seeds: list[Seed] = []
    usable: Welcome | None = None
    run_error = protocol_error = ""
    for address in wanted.peers:
        try:
            welcome = await directory.ask(address, None)
        except RemoteProtocolError as error:
            if error.reason is RefusalReason.WRONG_PROTOCOL:
                protocol_error = f"{address}: {error.detail}"
            else:
                run_error = f"{address}: {error.detail}"
            seeds.append(Seed(address=address))  # it did answer
            continue
        except (DirectoryError, NoPeerError) as error:
            seeds.append(Seed(address=address, outcome=str(error)))
            continue
        seeds.append(Seed(address=address))
        if wanted.run and not welcome.run_id.startswith(wanted.run):
            run_error = f"{address} is in run {welcome.run_id[:12]}, not in {wanted.run[:12]}"
        elif usable is None:
            usable = welcome
    facts = replace(facts, seeds=tuple(seeds))
    if any(not seed.outcome for seed in seeds):
        # One peer of another run or version among good ones is no reason not to join.
        facts = replace(
            facts,
            protocol_error="" if usable else protocol_error,
            run_error=None if protocol_error and not usable else ("" if usable else run_error),
        )
    if usable is not None:
        facts = replace(facts, clock_offset_s=usable.clock_offset_s)
    return facts, usable


async def _measure(
    facts: Facts, identity: Identity, settings: NetworkSettings, welcome: Welcome, membership: Membership
) -> Facts:
    """The line to the peer that told of the run. What it does not let us measure is left open."""
    contacts = Contacts()
    contacts.learn(welcome.member)
    introduction = Introduction(identity, SPOKEN)
    introduction.enter(membership)
    channels = ChannelCache(contacts, introduction, Quarantine(), allow_plaintext=settings.tls != "on")
    try:
        measured = await measure_line(channels, welcome.member.peer)
        loss = resent_share(int(welcome.member.grpc_address.rpartition(":")[2] or 0))
    except (LinkError, RemoteProtocolError) as error:
        return replace(facts, line_error=error.detail)
    finally:
        await channels.close()
    return replace(
        facts,
        line_error="",
        rtt_s=measured.rtt_s,
        up_bytes_per_s=measured.up_bytes_per_s,
        down_bytes_per_s=measured.down_bytes_per_s,
        loss=loss,
        nat=nat_of(measured.seen_as, _own_addresses()),
    )


def nat_of(seen_as: str, own: Collection[str]) -> str:
    """What stands between this machine and its peers, by the address they see and those it has."""
    if seen_as in own:
        return "none"
    with suppress(ValueError):
        if any(ipaddress.ip_address(address) in _CARRIER_GRADE for address in (seen_as, *own) if "." in address):
            return "carrier-grade"
    return "behind"


def _own_addresses() -> frozenset[str]:
    found = (address for interface in psutil.net_if_addrs().values() for address in interface)
    return frozenset(
        entry.address.partition("%")[0] for entry in found if entry.family in (socket.AF_INET, socket.AF_INET6)
    )
