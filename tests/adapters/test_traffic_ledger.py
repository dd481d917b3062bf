"""The month's bytes on disk."""

from pathlib import Path

import pytest

from lowcomm_node.adapters.traffic_ledger import TrafficLedger
from lowcomm_node.errors import StoreError


def test_a_month_is_remembered_and_another_begins_at_nothing(tmp_path: Path) -> None:
    ledger = TrafficLedger(tmp_path)

    assert ledger.load("2026-11") == 0
    ledger.save("2026-11", 12345)
    assert TrafficLedger(tmp_path).load("2026-11") == 12345
    assert TrafficLedger(tmp_path).load("2026-12") == 0


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '{"month": 1, "used_bytes": 2}', '{"month": "2026-11", "used_bytes": -1}']
)
def test_a_damaged_file_is_not_an_unused_budget(tmp_path: Path, text: str) -> None:
    """It is named, and what to do about it."""
    (tmp_path / "traffic.json").write_text(text)

    with pytest.raises(StoreError, match=r"traffic\.json is damaged.*remove it"):
        TrafficLedger(tmp_path).load("2026-11")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / ".traffic.json.unfinished").mkdir()

    with pytest.raises(StoreError, match="cannot be written"):
        TrafficLedger(tmp_path).save("2026-11", 1)
