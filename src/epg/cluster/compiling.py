"""`epg compile`: components and pipelines to the YAML files beside them, byte for byte the same.

Needs the checkout: the installed package carries the compiled pipeline only.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epg.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Target:
    """One thing to compile: a module, the function in it, and the file beside it."""

    module: str
    function: str
    path: Path


def find_targets(root: Path = ROOT) -> list[Target]:
    """Return every component and pipeline of the checkout.

    Raises:
        UserError: there is no checkout around the package.
    """
    if not (root / "pipelines" / "epg_full.py").is_file():
        raise UserError(f"epg compile works in a checkout of epg: {root} has no pipelines/")
    components = [
        Target(f"components.{folder.name}.component", folder.name, folder / "component.yaml")
        for folder in sorted((root / "components").iterdir())
        if (folder / "component.py").is_file()
    ]
    pipelines = [
        Target(f"pipelines.{path.stem}", path.stem, path.with_suffix(".yaml"))
        for path in sorted((root / "pipelines").glob("epg_*.py"))
    ]
    return components + pipelines


def compile_targets(root: Path = ROOT) -> Iterator[tuple[Target, bytes]]:
    """Yield every target with what it compiles to."""
    from kfp.compiler import Compiler

    targets = find_targets(root)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    with tempfile.TemporaryDirectory(prefix="epg-compile-") as scratch:
        path = Path(scratch, "compiled.yaml")
        for target in targets:
            definition: Any = getattr(importlib.import_module(target.module), target.function)
            Compiler().compile(definition, str(path))
            yield target, path.read_bytes()


def stale_files(root: Path = ROOT) -> list[Path]:
    """Return the compiled files that are missing or not what their Python compiles to."""
    return [
        target.path
        for target, content in compile_targets(root)
        if not target.path.is_file() or target.path.read_bytes() != content
    ]


def compile_all(root: Path = ROOT) -> list[Path]:
    """Write every compiled file that is stale; return those that were."""
    written = []
    for target, content in compile_targets(root):
        if not target.path.is_file() or target.path.read_bytes() != content:
            target.path.write_bytes(content)
            written.append(target.path)
    return written
