"""What scraping does to training is measured on a real node, which is gone afterwards."""

import io
import json
import tomllib
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from lowcomm_node.cli.bench import scrape
from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest
from tests.system.real_nodes import TINY_MANIFEST

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(180)]


def test_a_node_trains_with_and_without_a_scraper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two turns of short blocks: each as long as asked for, scraped as often as asked for, with steps in all of them."""
    monkeypatch.setattr(scrape, "_BLOCK_S", 1.5)
    monkeypatch.setattr(scrape, "_WARM_UP_S", 0.0)
    monkeypatch.setattr(scrape, "_EVERY_S", (0.0, 0.5))
    manifest = build(Manifest, tomllib.loads(TINY_MANIFEST), "run.toml")
    out = io.StringIO()
    before = {process.pid for process in psutil.Process().children(recursive=True)}

    request = scrape.ScrapeRequest(scrapes=1, minutes=0.1, threads=1)
    scrape.show_scrapes(request, manifest, tmp_path / "found.json", Console(file=out, width=200))

    blocks = json.loads((tmp_path / "found.json").read_text())["blocks"]
    assert [(block["turn"], block["every_s"]) for block in blocks] == [(0, 0.0), (0, 0.5), (1, 0.5), (1, 0.0)]
    assert [block["disturbances"] for block in blocks] == [0, 3, 3, 0]
    assert all(block["steps_per_s"] > 0 for block in blocks)
    assert "scraped every 0.5 s" in out.getvalue()
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
