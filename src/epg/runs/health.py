"""`epg health`: is this container able to run a step? For images and their health checks."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a mount, not a file of ours
_RUNTIME_SHM = 64 << 20  # bytes that a container gets unless it asks for more


def health(*, load: bool) -> int:
    """Print what this container has; return 1 when a step could not run in it.

    Args:
        load: import torch and name its devices, which takes seconds.
    """
    bad = 0
    for good, name, text in _checks(load):
        bad += not good
        sys.stdout.write(f"{'ok' if good else 'failed':<7}  {name:<14}  {text}\n")
    return 1 if bad else 0


def _checks(load: bool) -> Iterator[tuple[bool, str, str]]:
    from epg.config.loading import available_recipes, load_recipe
    from epg.runs.versions import versions

    found = versions()
    commit = found.get("git_commit", "unknown commit")
    yield True, "epg", f"{found['epg']} ({commit}), Python {found['python']}"
    for name in available_recipes():
        load_recipe(name)
    yield True, "recipes", ", ".join(available_recipes())
    yield True, "user", f"uid {os.getuid()}, gid {os.getgid()}"
    for name, folder in (("home", Path.home()), ("scratch", Path(tempfile.gettempdir()))):
        yield _writable(name, folder)
    # Kubeflow runs `python3 -m kfp.dsl.executor_main` in the container.
    kfp = found.get("kfp")
    yield bool(kfp), "kfp", kfp or "not installed: Kubeflow cannot run a step in this image"
    yield _shared_memory()
    yield _torch(found, load)


def _writable(name: str, folder: Path) -> tuple[bool, str, str]:
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return False, name, f"{folder}: {error.strerror}: mount a writable volume there"
    return True, name, f"{folder} can be written to"


def _shared_memory() -> tuple[bool, str, str]:
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return True, "shared memory", f"no {_SHARED_MEMORY} here"
    size = found.f_frsize * found.f_blocks
    text = f"{size >> 20} MiB"
    if size <= _RUNTIME_SHM:
        text += ": little for data-loading processes (pipelines/policy.py mounts more)"
    return True, "shared memory", text


def _torch(found: dict[str, Any], load: bool) -> tuple[bool, str, str]:
    version = found.get("torch")
    if version is None:
        text = "not installed: for shard, count-gflops, gate, register and report only"
        return True, "torch", text
    if not load:
        return True, "torch", version
    try:
        import torch
    except (ImportError, OSError) as error:
        return False, "torch", f"{version} does not load: {error}"
    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(number) for number in range(count)]
    return True, "torch", f"{version}, {', '.join(names) or 'no GPU'}"
