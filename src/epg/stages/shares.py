"""Looking at generated images by several processes of one machine, one for each GPU.

Each looks at its share and leaves parts in the store; nothing else passes between them, so the
first waits for the others at the end alone. `python -m epg.stages.shares TASK RANK SIZE` is one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epg.config.loading import load_recipe, passable_recipe
from epg.config.recipe import Recipe
from epg.documents import parse_object
from epg.errors import UserError, one_line
from epg.guard import LAUNCHER_VARIABLE, launcher_name, watch_parent
from epg.protocol import SAMPLE_FEATURES

if TYPE_CHECKING:
    from epg.evaluation.features.base import FeatureNetwork
    from epg.evaluation.generate import GeneratedImages
    from epg.evaluation.looking import Look
    from epg.model.files import LoadedGenerator

_LOOK_SECONDS = 0.2
_GRACE = 10.0  # seconds that others have to end by themselves


@dataclass(frozen=True)
class LookTask:
    """What every process must know.

    Attributes:
        recipe: resolved, as text.
        objective: `denoising` or `consistency`.
        root: URI of the store of the runs.
        run_name: whose.
        parts: folder of the run's store for parts.
        generator: local weights file.
        classifier: local weights file of the run's own judge; empty: it has none.
        spans: of all processes, in order.
    """

    recipe: str
    objective: str
    root: str
    run_name: str
    parts: str
    generator: str
    classifier: str
    spans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def settled(self) -> Recipe:
        """The recipe."""
        return load_recipe(self.recipe)

    def open(self, scratch: Path) -> Opened:
        """Load generator and networks, on this process's device."""
        from epg.evaluation.features.networks import open_networks
        from epg.evaluation.generate import GeneratedImages
        from epg.evaluation.labels import drawn_labels
        from epg.model.files import load_generator

        recipe = self.settled
        settings, loaded = recipe.evaluate, load_generator(Path(self.generator))
        source = GeneratedImages(
            loaded,
            drawn_labels(settings.labels, settings.num_samples, len(loaded.classes), recipe.seed),
            seed=recipe.seed,
            batch_size=settings.batch_size,
            sampling=recipe.sampling(self.objective),
        )
        networks = open_networks(
            settings.networks,
            Path(self.classifier) if self.classifier else None,
            source.device,
            root=self.root,
            scratch=scratch,
        )
        return Opened(loaded, source, networks, _look(recipe, source, networks))


@dataclass(frozen=True)
class Opened:
    """Generator and networks, ready."""

    loaded: LoadedGenerator
    source: GeneratedImages
    networks: dict[str, FeatureNetwork]
    look: Look


def look_task(recipe: Recipe, **others: Any) -> LookTask:
    """Return the task of a recipe that leaves nothing to the data."""
    return LookTask(passable_recipe(recipe), **others)


def _look(recipe: Recipe, source: GeneratedImages, networks: dict[str, FeatureNetwork]) -> Look:
    from epg.evaluation.looking import Look, kept_images

    count, data = recipe.evaluate.num_samples, recipe.data
    return Look(
        networks,
        source,
        keep=min(count, SAMPLE_FEATURES),
        first=kept_images(count, data.image_size**2 * data.channels),
        judge="classifier" if "classifier" in networks else "",
        facts=lambda: {"seconds": source.seconds, "nfe": float(source.nfe * source.made)},
    )


@contextlib.contextmanager
def other_shares(task: LookTask, size: int, scratch: Path) -> Iterator[_Others]:
    """Start the processes 1 ... `size` - 1; they end with the block, however it ends."""
    path = scratch / "look-task.json"
    path.write_text(json.dumps(asdict(task)))
    started: list[tuple[subprocess.Popen[bytes], Path]] = []
    try:
        for rank in range(1, size):
            log = scratch / f"look-{rank}.log"
            command = [sys.executable, "-m", "epg.stages.shares", str(path), str(rank), str(size)]
            with log.open("wb") as file:
                process = subprocess.Popen(  # noqa: S603 - our own module
                    command, stdout=file, stderr=file, env=_environment(rank)
                )
            started.append((process, log))
        yield _Others(started)
    finally:
        for process, _ in started:
            if process.poll() is None:
                process.terminate()
        for process, _ in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            if process.poll() is None:
                process.kill()


@dataclass(frozen=True)
class _Others:
    started: list[tuple[subprocess.Popen[bytes], Path]]

    def check(self) -> None:
        """Raise `UserError` with the last line of one that failed."""
        for process, log in self.started:
            if process.poll() not in (None, 0):
                said = log.read_text(errors="replace").strip().splitlines()
                reason = one_line(said[-1] if said else f"exit code {process.returncode}")[:300]
                raise UserError(
                    f"a process that shares the evaluation failed ({reason}): what was seen is "
                    "kept; once the cause is mended, run the same command again"
                )

    def wait(self) -> None:
        """Wait until all have ended. Raises `UserError` as `check`."""
        while any(process.poll() is None for process, _ in self.started):
            self.check()
            time.sleep(_LOOK_SECONDS)
        self.check()


def _environment(rank: int) -> dict[str, str]:
    """Of another process: its own GPU, and a guard that ends it with this one."""
    environment = {**os.environ, LAUNCHER_VARIABLE: launcher_name()}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else []
    environment["CUDA_VISIBLE_DEVICES"] = devices[rank] if rank < len(devices) else str(rank)
    return environment


def main(arguments: list[str]) -> None:
    """Look at one share, and leave its parts in the store."""
    watch_parent()
    from epg.evaluation.parts import StoredParts, share
    from epg.evaluation.progress import Running
    from epg.runs.run import run_store
    from epg.store.scratch import scratch_folder

    path, rank, size = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    content = parse_object(path.read_bytes())
    spans = [(int(start), int(end)) for start, end in content.pop("spans")]
    task = LookTask(**content, spans=spans)
    stored = StoredParts(run_store(task.root, task.run_name), task.parts)
    with scratch_folder("share") as scratch:
        opened = task.open(scratch)
        kind = next(iter(opened.networks))
        total = task.settled.evaluate.num_samples
        running = Running(total, 0, kind, None, lambda *told: None, store=stored.put)
        opened.look.at(share(spans, rank, size), running)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as said:
        raise SystemExit(f"epg: error: {said}") from said
