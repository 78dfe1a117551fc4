"""Which versions made a result."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from epg import __version__
from epg.machine import available_cores


def versions() -> dict[str, Any]:
    """Versions worth knowing when a result is looked at later. Imports nothing heavy."""
    found: dict[str, Any] = {
        "epg": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": available_cores(),
    }
    for package in ("torch", "torchvision", "numpy", "scikit-learn", "kfp"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit = os.environ.get("EPG_GIT_COMMIT") or _git_commit()
    if commit:
        found["git_commit"] = commit
    return found


def _git_commit() -> str | None:
    """Commit of the checkout that `epg` runs from, with `-dirty` when files differ from it."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        result = subprocess.run(  # noqa: S603 -- our own arguments
            command,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
