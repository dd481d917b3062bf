"""How this node gets into its run: by an invitation, by one it has used before, or because everybody may."""

import time

from lowcomm_node.adapters.admission_file import AdmissionFile
from lowcomm_node.errors import ConfigError, RemoteProtocolError
from lowcomm_node.units import PeerId
from lowcomm_node.wire.admission import AdmissionRule, Invitation

__all__ = ["own_admission"]


def own_admission(rule: AdmissionRule, own: PeerId, invite: str, file: AdmissionFile) -> bytes:
    """This node's Admission, serialised; empty where the run asks for none. Blocking: reads and writes ``file``.

    ``invite`` is an invitation as it was written down, or empty. Raises ConfigError with what to do where the run does not
    let this node in, StoreError when the admission cannot be kept.
    """
    if rule.kind != "invite":
        return _checked(rule, own, b"")
    if not invite:
        return _checked(rule, own, file.load(rule.run_id))
    invitation = Invitation.read(invite)
    if invitation.run_id != rule.run_id:
        raise ConfigError(f"the invitation is for run {invitation.run_id[:12]}, and this is run {rule.run_id[:12]}")
    admission = _checked(rule, own, invitation.admission_of(own))
    file.save(rule.run_id, admission)
    return admission


def _checked(rule: AdmissionRule, own: PeerId, admission: bytes) -> bytes:
    try:
        rule.stay_s(own, admission, time.time())
    except RemoteProtocolError as error:
        cure = (
            f"ask its organiser, {rule.organiser}, for an invitation and give it with --invite"
            if rule.kind == "invite"
            else "the list is part of the run, so whoever is to be added can only be in another one"
        )
        raise ConfigError(f"run {rule.run_id[:12]} does not let this node in: {error.detail}; {cure}") from error
    return admission
