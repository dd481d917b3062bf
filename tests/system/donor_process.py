"""A donor in a process of its own: ``python donor_process.py FOLDER PORT RATE`` serves FOLDER/snapshot, paced, until it is killed."""

import asyncio
import sys
from pathlib import Path

from lowcomm_node.adapters.certificate import Certificate
from lowcomm_node.adapters.channel_service import ChannelService
from lowcomm_node.adapters.grpc_endpoints import GrpcServer
from lowcomm_node.adapters.grpc_states import state_handler
from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.adapters.snapshot_shelf import SnapshotShelf
from lowcomm_node.adapters.state_donor import StateDonor
from lowcomm_node.core.fingerprint import Fingerprint
from lowcomm_node.core.pacing import Pacer
from lowcomm_node.core.quarantine import Quarantine
from lowcomm_node.settings.manifest import SecurityConfig
from lowcomm_node.units import RunId
from lowcomm_node.wire.admission import AdmissionRule, Membership

RUN = RunId("ab" * 32)


async def serve(folder: Path, port: int, rate_bytes_per_s: float) -> None:
    """Print the port once it is open; the snapshot is on the shelf by then."""

    async def source() -> tuple[Path, float]:
        return folder / "snapshot", 1.0

    async def fingerprint() -> Fingerprint:
        return Fingerprint(progress_steps=1.0, sketch=(), norms=())

    shelf = SnapshotShelf(folder / "snapshots")
    await shelf.take_up()
    if not list((folder / "snapshots").glob("*")):
        await shelf.put(folder / "snapshot", 1.0)
    identity = load_or_create(folder / "identity.key")
    certificate = Certificate.of(identity)
    rule = AdmissionRule.of(SecurityConfig(), RUN)
    membership = Membership(run_id=RUN, manifest=b"", protocol_version=1, rule=rule, admission=b"")
    door = ChannelService(
        identity=identity,
        membership=membership,
        quarantine=Quarantine(),
        certificate_sha256=certificate.sha256,
        on_refused=lambda _: None,
    )
    donor = StateDonor(
        run_id=RUN,
        protocol_version=1,
        source=source,
        fingerprint=fingerprint,
        shelf=shelf,
        pacer=Pacer(rate_bytes_per_s),
        is_meeting=lambda: True,
        on_sent=lambda _: None,
    )
    server = GrpcServer(host="127.0.0.1", port=port, certificate=certificate, gate=door.gate())
    print(await server.start([door.handler(), state_handler(donor, door.caller)]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
