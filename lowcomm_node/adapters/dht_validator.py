"""What this node lets others put into its part of the DHT: signed member records, and nothing else."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lowcomm_node.wire.admission import AdmissionRule
from lowcomm_node.wire.records import is_storable

if TYPE_CHECKING:
    from hivemind.dht.validation import DHTRecord, RecordValidatorBase

__all__ = ["member_validator"]


def member_validator(rule: Callable[[], AdmissionRule | None]) -> "RecordValidatorBase":
    """A validator for hivemind's DHT; ``rule`` is of the run that this node is in, once it is in one.

    It applies to what others store here and to what others answer, so a value that nobody has signed neither spreads
    nor replaces a bucket of good ones.
    """
    from hivemind.dht.validation import RecordValidatorBase  # noqa: PLC0415 - hivemind is imported late
    from hivemind.utils import MSGPackSerializer  # noqa: PLC0415

    class MemberValidator(RecordValidatorBase):  # type: ignore[misc]
        def validate(self, record: "DHTRecord") -> bool:
            try:
                subkey, value = MSGPackSerializer.loads(record.subkey), MSGPackSerializer.loads(record.value)
            except Exception:  # noqa: BLE001 - any bytes come here, and the unpacker raises what it likes
                return False
            return (
                isinstance(subkey, bytes)
                and isinstance(value, bytes)
                and is_storable(value, subkey=subkey, expires_at=record.expiration_time, rule=rule(), now=time.time())
            )

    return MemberValidator()
