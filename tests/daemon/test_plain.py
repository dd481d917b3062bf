"""Messages as plain JSON: numbers stay numbers, nothing is left out, protobuf's own parser reads it back."""

import json
import math

from google.protobuf import json_format

from lowcomm_node.daemon.plain import as_json, as_plain
from lowcomm_node.wire.gen.lowcomm.v1.control_pb2 import MeetingStatus, Status, TrainingStatus, WireBytes
from lowcomm_node.wire.gen.lowcomm.v1.records_pb2 import HelloRequest


def test_an_empty_status_has_every_field() -> None:
    """Scripts find all fields of the contract, in snake_case, whatever the node has done so far."""
    plain = as_plain(Status())

    assert list(plain) == [field.name for field in Status.DESCRIPTOR.fields]
    assert plain["state"] == ""
    assert plain["peers_known"] == 0
    training, meetings = plain["training"], plain["meetings"]
    assert isinstance(training, dict)
    assert isinstance(meetings, dict)
    assert set(training) == {field.name for field in TrainingStatus.DESCRIPTOR.fields}
    assert set(meetings) == {field.name for field in MeetingStatus.DESCRIPTOR.fields}
    assert training["blocked_seconds"] == {}
    assert meetings["bytes"] == []


def test_values_have_json_types() -> None:
    """64-bit counts are numbers, float32 has no noise, maps are objects, bytes are hexadecimal."""
    status = Status(
        training=TrainingStatus(steps=2**40, blocked_seconds={"data": 1.5}, sketch=[0.1]),
        meetings=MeetingStatus(failed={"busy": 3}, bytes=[WireBytes(direction="sent", bytes=7)]),
    )

    read = json.loads(as_json(status))

    assert read["training"]["steps"] == 2**40
    assert read["training"]["blocked_seconds"] == {"data": 1.5}
    assert read["training"]["sketch"] == [0.1]
    assert read["meetings"]["failed"] == {"busy": 3}
    assert read["meetings"]["bytes"] == [{"direction": "sent", "stream": "", "codec": "", "bytes": 7}]
    assert as_plain(HelloRequest(run_id=b"\x01\xff"))["run_id"] == "01ff"


def test_what_is_optional_and_unset_is_null() -> None:
    """Zero of something measured and nothing measured are told apart; protobuf's parser tells them apart again."""
    unset, zero = Status(training=TrainingStatus()), Status(training=TrainingStatus(validation_accuracy=0.0))

    assert json.loads(as_json(unset))["training"]["validation_accuracy"] is None
    assert json.loads(as_json(zero))["training"]["validation_accuracy"] == 0.0
    read = [json_format.Parse(as_json(status), Status()).training for status in (unset, zero)]
    assert [training.HasField("validation_accuracy") for training in read] == [False, True]


def test_protobuf_reads_it_back() -> None:
    """What is not finite survives as well, in strictly valid JSON."""
    training = TrainingStatus(steps=5, loss=math.nan, validation_loss=math.inf, gradient_norm=-math.inf)
    status = Status(state="training", training=training)

    text = as_json(status)
    json.loads(text, parse_constant=_not_json)
    read = json_format.Parse(text, Status())

    assert read.training.steps == 5
    assert math.isnan(read.training.loss)
    assert read.training.validation_loss == math.inf
    assert read.training.gradient_norm == -math.inf


def _not_json(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")
