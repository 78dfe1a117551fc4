"""`epg compile`: components and pipelines to the YAML files beside them, byte for byte the same.

A pipeline is written twice: as the file that `epg run` and `kfp run submit` take, and in
`pipelines/k8s-native/` as Pipeline and PipelineVersion objects for a server with the native API.
Needs the checkout: the installed package carries the compiled pipeline only.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epg import __version__
from epg.errors import UserError

ROOT = Path(__file__).resolve().parents[4]


@dataclass(frozen=True)
class Target:
    """One thing to compile: a module, the function in it, and the file that it becomes."""

    module: str
    function: str
    path: Path
    native: bool = False  # as Kubernetes objects


def find_targets() -> list[Target]:
    """Return every component and pipeline of the checkout.

    Raises:
        UserError: there is no checkout around the package.
    """
    if not (ROOT / "pipelines" / "epg_full.py").is_file():
        raise UserError(f"epg compile works in a checkout of epg: {ROOT} has no pipelines/")
    components = [
        Target(f"components.{folder.name}.component", folder.name, folder / "component.yaml")
        for folder in sorted((ROOT / "components").iterdir())
        if (folder / "component.py").is_file()
    ]
    sources = sorted((ROOT / "pipelines").glob("epg_*.py"))
    pipelines = [
        Target(f"pipelines.{path.stem}", path.stem, path.with_suffix(".yaml")) for path in sources
    ]
    manifests = [
        Target(
            f"pipelines.{path.stem}",
            path.stem,
            path.parent / "k8s-native" / f"{path.stem}.yaml",
            native=True,
        )
        for path in sources
    ]
    return components + pipelines + manifests


def compile_targets() -> Iterator[tuple[Target, bytes]]:
    """Yield every target with what it compiles to."""
    targets = find_targets()
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="epg-compile-") as scratch:
        path = Path(scratch, "compiled.yaml")
        for target in targets:
            definition: Any = getattr(importlib.import_module(target.module), target.function)
            yield target, _compile(definition, path, target.native)


def _compile(definition: Any, path: Path, native: bool) -> bytes:
    """Compile to a file; a PipelineVersion cannot be changed, so its name holds its digest."""
    from kfp.compiler import Compiler, KubernetesManifestOptions

    Compiler().compile(definition, str(path))
    compiled = path.read_bytes()
    if not native:
        return compiled
    name, digest = definition.name, hashlib.sha256(compiled).hexdigest()[:8]
    options = KubernetesManifestOptions(
        pipeline_name=name,
        pipeline_version_name=f"{name}-{digest}",
        pipeline_version_display_name=f"{__version__} ({digest})",
        include_pipeline_manifest=True,
    )
    Compiler().compile(
        definition,
        str(path),
        kubernetes_manifest_options=options,
        kubernetes_manifest_format=True,
    )
    return path.read_bytes()


def stale_files() -> list[Path]:
    """Return the compiled files that are missing or not what their Python compiles to."""
    return [
        target.path
        for target, content in compile_targets()
        if not target.path.is_file() or target.path.read_bytes() != content
    ]


def compile_all() -> list[Path]:
    """Write every compiled file that is stale; return those that were."""
    written = []
    for target, content in compile_targets():
        if not target.path.is_file() or target.path.read_bytes() != content:
            target.path.parent.mkdir(exist_ok=True)
            target.path.write_bytes(content)
            written.append(target.path)
    return written


def find_faults() -> list[str]:
    """Return what is wrong with the compiled pipelines as they lie there (`lint.py`)."""
    from epg.cluster.compile.lint import lint_folder

    return lint_folder(ROOT / "pipelines")
