"""Looking at generated images by several processes of one machine, one for each GPU.

Each looks at its share and leaves parts in the store; nothing else passes between them, so the
first waits for the others at the end alone. `python -m epg.stages.shares TASK RANK SIZE` is one.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epg import children
from epg.config.loading import load_recipe, passable_recipe
from epg.config.recipe import Recipe
from epg.documents import parse_object
from epg.errors import UserError, one_line
from epg.guard import watch_parent
from epg.protocol import SAMPLE_FEATURES
from epg.training.place import local_processes

if TYPE_CHECKING:
    import torch

    from epg.evaluation.features.base import FeatureNetwork, Statistics
    from epg.evaluation.generate import GeneratedImages
    from epg.evaluation.looking import Look
    from epg.evaluation.parts import Whole
    from epg.model.files import LoadedGenerator
    from epg.store import Store
    from epg.telemetry.progress import StageReporter

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

    def open(self, scratch: Path, device: torch.device) -> Opened:
        """Load generator and networks, onto this process's device."""
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
            device=device,
        )
        networks = open_networks(
            settings.networks,
            Path(self.classifier) if self.classifier else None,
            device,
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


def look(
    task: LookTask, opened: Opened, store: Store, real: Statistics, reporter: StageReporter
) -> Whole:
    """Generate what no stored part holds, and look at it; several processes take a share each.

    Args:
        task: what is looked at.
        opened: generator and networks of this process.
        store: of the run.
        real: what the first network sees in real images.
        reporter: hears of progress.

    Raises:
        UserError: another process failed, or what it has stored cannot be read.
    """
    from epg.evaluation.looking import RANKED, span_of
    from epg.evaluation.parts import StoredParts, Whole, share, uncovered
    from epg.evaluation.progress import Running
    from epg.model.device import prepare_device
    from epg.store.scratch import scratch_folder

    source = opened.source
    count, span = len(source.labels), span_of(task.settled.evaluate.batch_size)
    stored = StoredParts(store, task.parts)
    parts = stored.read()
    spans = uncovered(count, span, [part.stretch for part in parts])
    left = sum(end - start for start, end in spans)
    if parts:
        reporter.message(f"{count - left:,} of {count:,} images were seen before: going on")
    size = max(1, min(local_processes(), len(spans)))
    own = share(spans, 0, size)
    running = Running(
        count - left + sum(end - start for start, end in own),
        count - left,
        next(iter(opened.networks)),
        real,
        lambda done, total, values: reporter.progress(done, total, "images", **values),
        store=stored.put,
        rate=lambda: size * source.images_per_second,
        parts=parts,
    )
    if size == 1:
        opened.look.at(own, running)
        parts = running.parts
    else:
        task = replace(task, spans=spans)
        with scratch_folder("shares") as scratch, _others(task, size, scratch) as others:
            prepare_device(0, size)  # its share of the cores
            opened.look.at(own, running)
            others.wait()
        prepare_device()
        parts = stored.read()
    if uncovered(count, span, [part.stretch for part in parts]):
        raise UserError(
            f"{task.root}/{task.run_name}/{task.parts}: parts of the evaluation are damaged or "
            "gone: run the same command again, which makes them anew"
        )
    whole = Whole.of(parts, RANKED)
    whole.facts["seconds"] /= size  # they worked side by side
    stored.clear()
    return whole


@contextlib.contextmanager
def _others(task: LookTask, size: int, scratch: Path) -> Iterator[_Others]:
    """Start the processes 1 ... `size` - 1; they end with the block, however it ends."""
    path = scratch / "task.json"
    path.write_text(json.dumps(asdict(task)))
    started: list[tuple[subprocess.Popen[bytes], Path]] = []
    try:
        for rank in range(1, size):
            log = scratch / f"look-{rank}.log"
            arguments = [str(path), str(rank), str(size)]
            started.append((children.start("epg.stages.shares", arguments, log=log), log))
        yield _Others(started)
    finally:
        children.end([process for process, _ in started], _GRACE, tell=True)


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


def main(arguments: list[str]) -> None:
    """Look at one share, and leave its parts in the store."""
    watch_parent()
    from epg.evaluation.parts import StoredParts, share
    from epg.evaluation.progress import Running
    from epg.model.device import prepare_device
    from epg.runs.run import run_store
    from epg.store.scratch import scratch_folder

    path, rank, size = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    content = parse_object(path.read_bytes())
    spans = [(int(start), int(end)) for start, end in content.pop("spans")]
    task = LookTask(**content, spans=spans)
    stored = StoredParts(run_store(task.root, task.run_name), task.parts)
    with scratch_folder("share") as scratch:
        opened = task.open(scratch, prepare_device(rank, size))
        kind = next(iter(opened.networks))
        total = task.settled.evaluate.num_samples
        running = Running(total, 0, kind, None, lambda *told: None, store=stored.put)
        opened.look.at(share(spans, rank, size), running)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as said:
        raise SystemExit(f"epg: error: {said}") from said
