"""The committed protobuf code and the descriptor lock belong to the .proto files."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The script ``proto/generate.py`` as a module."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "proto" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_code_is_fresh(generate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Compiling the .proto files gives exactly what is committed, lock included."""
    status = generate.main(["--check"])

    assert status == 0, capsys.readouterr().err


def test_stale_missing_and_foreign_files_are_named(generate: ModuleType, tmp_path: Path) -> None:
    """Each difference between compiled and committed code is a sentence with the file's name."""
    built, committed = tmp_path / "built", tmp_path / "committed"
    shutil.copytree(generate.GENERATED, built, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(built, committed)
    folder = committed / "lowcomm" / "v1"
    (folder / "state_pb2.py").write_text("edited by hand")
    (folder / "control_pb2.pyi").unlink()
    (folder / "gone_pb2.py").write_text("")

    problems = generate.find_problems(built, [], committed, generate.lock_text([]), accept_break=False)

    assert [problem.split(":")[0] for problem in problems] == [
        "wire/gen/lowcomm/v1/control_pb2.pyi is missing",
        "wire/gen/lowcomm/v1/gone_pb2.py comes from no .proto file",
        "wire/gen/lowcomm/v1/state_pb2.py is stale",
    ]


def test_an_added_field_only_makes_the_lock_stale(generate: ModuleType, tmp_path: Path) -> None:
    """Older nodes skip a field they do not know: no break, only a lock to be renewed."""
    before, after = _contract(), _contract()
    after.file[0].message_type[0].field.add(name="more", number=3, type=FieldDescriptorProto.TYPE_BYTES)

    problems = _problems(generate, tmp_path, before, after)

    assert problems == ["descriptors.lock is stale: run `make proto`"]


@pytest.mark.parametrize("change", ["number", "type", "label", "name", "oneof", "removed", "enum", "method"])
def test_an_incompatible_change_is_refused(generate: ModuleType, tmp_path: Path, change: str) -> None:
    """What older nodes rely on cannot change unnoticed, and the way out is named."""
    before, after = _contract(), _contract()
    file = after.file[0]
    field = file.message_type[0].field[0]
    match change:
        case "number":
            field.number = 9
        case "type":
            field.type = FieldDescriptorProto.TYPE_STRING
        case "label":
            field.label = FieldDescriptorProto.LABEL_REPEATED
        case "name":
            field.name = "other"
        case "oneof":
            file.message_type[0].oneof_decl.add(name="body")
            field.oneof_index = 0
        case "removed":
            del file.message_type[0].field[0]
        case "enum":
            file.enum_type[0].value[1].number = 7
        case "method":
            file.service[0].method[0].server_streaming = True

    problems = _problems(generate, tmp_path, before, after)

    assert len(problems) == 1
    assert problems[0].startswith("incompatible change")
    assert "--accept-break" in problems[0]
    assert _problems(generate, tmp_path, before, after, accept_break=True) == [
        "descriptors.lock is stale: run `make proto`"
    ]


def test_maps_and_nested_messages_are_locked(generate: ModuleType) -> None:
    """A map reads as a map, and what lies inside a message counts as much as the message."""
    lock = generate.LOCK.read_text(encoding="utf-8")

    assert "field lowcomm.v1.MeetingStatus 3 failed: map<string, uint64>\n" in lock
    assert "field lowcomm.v1.MeetingFrame 1 offer: lowcomm.v1.Offer in body\n" in lock

    contract = _contract()
    nested = contract.file[0].message_type[0].nested_type.add(name="Inner")
    nested.field.add(name="x", number=1, type=FieldDescriptorProto.TYPE_BOOL)
    assert "field demo.v1.Note.Inner 1 x: bool" in generate.facts(contract)


def _problems(
    generate: ModuleType,
    folder: Path,
    before: FileDescriptorSet,
    after: FileDescriptorSet,
    *,
    accept_break: bool = False,
) -> list[str]:
    locked = generate.lock_text(generate.facts(before))
    problems: list[str] = generate.find_problems(
        folder, generate.facts(after), folder, locked, accept_break=accept_break
    )
    return problems


def _contract() -> FileDescriptorSet:
    """A small contract: a message with two fields, an enum, a service."""
    file = FileDescriptorProto(name="demo/v1/demo.proto", package="demo.v1", syntax="proto3")
    message = file.message_type.add(name="Note")
    message.field.add(name="body", number=1, type=FieldDescriptorProto.TYPE_BYTES)
    message.field.add(name="at", number=2, type=FieldDescriptorProto.TYPE_DOUBLE)
    enum = file.enum_type.add(name="Colour")
    enum.value.add(name="COLOUR_UNSPECIFIED", number=0)
    enum.value.add(name="COLOUR_RED", number=1)
    service = file.service.add(name="Notes")
    service.method.add(name="Put", input_type=".demo.v1.Note", output_type=".demo.v1.Note")
    return FileDescriptorSet(file=[file])
