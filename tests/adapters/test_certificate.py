"""The node's own certificate."""

from pathlib import Path

from lowcomm_node.adapters.certificate import Certificate
from lowcomm_node.adapters.identity import load_or_create
from lowcomm_node.wire.certificate import certificate_der, certificate_pem


def test_it_follows_from_the_identity(tmp_path: Path) -> None:
    """The same in each life of a node, another one for each node, and what the record says of it is all of it."""
    ann, bob = load_or_create(tmp_path / "a"), load_or_create(tmp_path / "b")

    first, second = Certificate.of(ann), Certificate.of(load_or_create(tmp_path / "a"))

    assert first == second
    assert first.pem == certificate_pem(certificate_der(first.short))
    assert Certificate.of(bob).short != first.short


def test_its_key_does_not_show(tmp_path: Path) -> None:
    """A certificate in a log line gives nothing away."""
    certificate = Certificate.of(load_or_create(tmp_path / "a"))

    assert b"PRIVATE KEY" in certificate.key_pem
    assert "PRIVATE" not in repr(certificate)
