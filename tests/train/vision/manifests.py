"""Runs of the tasks on pictures that are small enough for a test."""

from typing import Any

from lowcomm_node.settings.load import build
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.train.foreign import sized
from lowcomm_node.train.tasks import find_task, manifest_of

__all__ = ["SMALL", "picture_manifest"]

SMALL: dict[str, dict[str, object]] = {"vit": {"width": 32, "depth": 2, "heads": 2}, "vgg": {"width": 8, "depth": 1}}


def picture_manifest(task: str, **options: object) -> Manifest:
    """A small network, with what fits the task."""
    tree: dict[str, Any] = {section: dict(values) for section, values in manifest_of(find_task(task)).items()}
    tree["model"] |= {"kind": "task", "task": task, "parameters": 1, "config": {**SMALL[task], **options}}
    tree["training"] |= {"total_steps": 100, "warmup_steps": 10}
    tree["optimizer"] = {"kind": "adamw", "lr": 6e-3}
    return sized(build(Manifest, tree, "run.toml"))
