"""Put the compiled pipeline into the wheel.

A static `force-include` would do but for the editable install, which it breaks as long as the
pipeline has not been compiled; there the file is read from `pipelines/` anyway.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PIPELINE = "pipelines/epg_full.yaml"


class PipelineBuildHook(BuildHookInterface):
    """Adds `pipelines/epg_full.yaml` as `epg/_pipelines/epg_full.yaml`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a build; `version` is `standard` or `editable`."""
        if version == "editable":
            return
        if not (Path(self.root) / PIPELINE).exists():
            raise FileNotFoundError(f"{PIPELINE} is missing: call `make golden` to compile it")
        build_data["force_include"][PIPELINE] = "epg/_pipelines/epg_full.yaml"
