"""Do two nodes speak the same protocol? A run has one version, its manifest's; a node speaks a range of them."""

from dataclasses import dataclass

from lowcomm_node import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION

__all__ = ["SPOKEN", "Versions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What one program speaks."""

    oldest: int
    newest: int

    def __str__(self) -> str:
        return str(self.newest) if self.oldest == self.newest else f"{self.oldest} to {self.newest}"

    def __contains__(self, version: int) -> bool:
        return self.oldest <= version <= self.newest

    def advice(self, version: int, whose: str = "this lowcomm-node") -> str:
        """What to say, and to do, where a run speaks ``version`` and this program does not."""
        cure = (
            "update lowcomm-node"
            if version > self.newest
            else f"install an older lowcomm-node, one that speaks protocol {version}"
        )
        return f"the run speaks protocol {version}, {whose} speaks {self}: {cure}"


SPOKEN = Versions(oldest=OLDEST_PROTOCOL_VERSION, newest=PROTOCOL_VERSION)
"""What this program speaks."""
