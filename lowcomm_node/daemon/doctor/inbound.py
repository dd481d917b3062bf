"""Can peers get to this node? One of them is asked to dial the port that the node would open, and, if it cannot, to be a relay."""

import asyncio
from dataclasses import replace

from lowcomm_node.adapters.certificate import Certificate
from lowcomm_node.adapters.channel_service import ChannelService
from lowcomm_node.adapters.dial_back import ask_to_dial
from lowcomm_node.adapters.grpc_endpoints import GrpcServer
from lowcomm_node.adapters.hivemind_directory import HivemindDirectory
from lowcomm_node.adapters.identity import Identity
from lowcomm_node.core.diagnosis import Facts
from lowcomm_node.core.quarantine import Quarantine
from lowcomm_node.errors import DirectoryError, LinkError
from lowcomm_node.settings.node import NetworkSettings
from lowcomm_node.units import PeerId, Reachability
from lowcomm_node.wire.admission import Membership
from lowcomm_node.wire.channel import NO_CERTIFICATE
from lowcomm_node.wire.gen.lowcomm.v1 import records_pb2

__all__ = ["ask_back"]

_RELAY_PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.5
_CIRCUIT = "/p2p-circuit"


async def ask_back(
    facts: Facts,
    directory: HivemindDirectory,
    identity: Identity,
    settings: NetworkSettings,
    asked: PeerId,
    membership: Membership,
) -> Facts:
    """Facts about ways to this node; none where it wants no visitors, or nobody would try."""
    if settings.inbound == "off":
        return facts
    certificate = Certificate.of(identity) if settings.tls == "on" else None
    door = ChannelService(
        identity=identity,
        membership=membership,
        quarantine=Quarantine(),
        certificate_sha256=certificate.sha256 if certificate is not None else NO_CERTIFICATE,
        on_refused=lambda _error: None,
    )
    server = GrpcServer(host=settings.host, port=settings.grpc_port, certificate=certificate, gate=door.gate())
    try:
        port = await server.start([door.handler()])
    except LinkError:
        return facts  # the check of the ports says so
    try:
        request = records_pb2.DialBackRequest(
            run_id=bytes.fromhex(membership.run_id),
            port=port,
            certificate=certificate.short if certificate is not None else b"",
        )
        told = await ask_to_dial(directory.session, asked, request)
    finally:
        await server.stop(0.0)
    if told is None:
        return facts
    if told.is_reachable:
        return replace(facts, inbound="")
    facts = replace(facts, inbound=f"{told.host} port {port} does not answer from outside")
    return replace(facts, relay_error=await _relay_error(directory))


async def _relay_error(directory: HivemindDirectory) -> str:
    """Take the part of a node behind NAT and see whether a peer becomes its relay."""
    directory.play(Reachability.OUTBOUND_ONLY)
    await directory.wait_up()
    try:
        async with asyncio.timeout(_RELAY_PATIENCE_S):
            # p2pd tells nobody when it has found a relay.
            while not any(_CIRCUIT in address for address in await directory.visible_addresses()):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        return f"none in {_RELAY_PATIENCE_S:g} s"
    except DirectoryError as error:
        return str(error)
    return ""
