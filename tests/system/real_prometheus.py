"""A real Prometheus on loopback, and what one may ask it."""

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from tests.deploy.tools import REPOSITORY, tool
from tests.system.real_nodes import wait_until

__all__ = ["RealPrometheus"]

_FOLDER = REPOSITORY / "deploy/prometheus"


class RealPrometheus:
    """Our own configuration, but for the interval, and with targets that are known beforehand."""

    def __init__(self, folder: Path, *, port: int, targets: Sequence[str], interval: str) -> None:
        config = yaml.safe_load((_FOLDER / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
        config["rule_files"] = [str(_FOLDER / name) for name in config["rule_files"]]
        static = {"targets": list(targets), "labels": {"run_id": "tiny"}}
        config["scrape_configs"] = [{"job_name": "lowcomm", "static_configs": [static]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._url = f"http://127.0.0.1:{port}"
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    tool("prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def wait_until_ready(self) -> None:
        """It answers; says what its log says when it ends."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(f"{self._url}/-/ready", timeout=2):
                    return True
            except OSError:
                return False

        wait_until(is_ready, 30, "Prometheus is ready")

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant query, a number as a series without labels."""
        data = self._ask("query", query=expr)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        return cast("list[dict[str, Any]]", data["result"])

    def label_values(self, selector: str, label: str) -> list[str]:
        """As Grafana's variables ask."""
        return cast("list[str]", self._ask(f"label/{label}/values", **{"match[]": selector}))

    def rules(self) -> list[dict[str, Any]]:
        """All rules with how their last evaluation went."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def end(self) -> None:
        """At once: nobody wants its data."""
        self.process.kill()
        self.process.wait(10)

    def _ask(self, path: str, **parameters: str) -> Any:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
