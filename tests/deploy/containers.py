"""A project of compose on an engine of our own, and its nodes."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.deploy.engine import COMPOSE, Engine, wait_until

__all__ = ["Project"]

_UP_S = 400.0
_DOWN_S = 150.0


class Project:
    """Compose files of docker/ (and a full path for one of the test's own), with the variables that a user would set."""

    def __init__(self, engine: Engine, files: Sequence[str], variables: Mapping[str, str]) -> None:
        self.engine = engine
        self._files = [word for name in files for word in ("--file", str(COMPOSE / name))]
        self._variables = variables

    def compose(self, *arguments: str, check: bool = True, timeout_s: float = 60.0) -> str:
        """Run ``docker compose``; returns what it printed."""
        done = self.engine.docker(
            "compose", *self._files, *arguments, check=check, timeout_s=timeout_s, env=self._variables
        )
        return done.stdout

    def up(self, *services: str) -> None:
        """Start and wait until all are healthy; fails with the log of the nodes when they do not become so."""
        done = self.engine.docker(
            *("compose", *self._files, "up", "--no-build", "--detach", "--wait", *services),
            check=False,
            timeout_s=_UP_S,
            env=self._variables,
        )
        assert done.returncode == 0, f"{done.stderr[-1500:]}\n{self.logs()}"

    def down(self) -> dict[str, int]:
        """Stop and remove all; returns the exit status of each container by its name."""
        self.compose("stop", timeout_s=_DOWN_S)
        found = [json.loads(line) for line in self.compose("ps", "--all", "--format", "json").splitlines()]
        self.compose("down", "--volumes", timeout_s=_DOWN_S)
        return {container["Name"]: int(container["ExitCode"]) for container in found}

    def names(self, service: str) -> list[str]:
        """The containers of a service."""
        lines = self.compose("ps", "--all", "--format", "json", service).splitlines()
        return sorted(json.loads(line)["Name"] for line in lines)

    def logs(self) -> str:
        """The end of what the nodes wrote."""
        return self.compose("logs", "--tail", "30", check=False)[-6000:]

    def wait_for(
        self, container: str, condition: Callable[[dict[str, Any]], bool], timeout_s: float, what: str
    ) -> dict[str, Any]:
        """Wait for a status of a node; fails with its log when it does not come."""
        found: dict[str, Any] = {}

        def holds() -> bool:
            nonlocal found
            found = self.engine.node_status(container)
            return bool(found) and condition(found)

        try:
            wait_until(holds, timeout_s, f"{container}: {what}")
        except AssertionError as error:
            raise AssertionError(f"{error}\nstatus: {found}\n{self.logs()}") from None
        return found
