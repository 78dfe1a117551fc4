"""What a run left in its store, gathered for its page; what cannot be read becomes a note."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from epg.config.comparison import settings_between
from epg.config.loading import available_recipes, dump_recipe, load_recipe
from epg.documents import SEAL, DocumentError, fields, parse_object, unseal
from epg.errors import UserError
from epg.runs.handover import fetch_output
from epg.runs.record import StageRecord, load_record
from epg.runs.run import RECIPE_KEY, Run
from epg.runs.stage import Stage
from epg.stages.catalog import OBJECTIVES, STAGES
from epg.store.reading import read_document
from epg.telemetry.progress import EVENTS_VARIABLE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from epg.data.manifest import Manifest
    from epg.report.facts import Dataset, Failure, FinalStatus, RunFacts

T = TypeVar("T")
MAX_SAMPLE_BYTES = 64_000_000  # larger sets of samples or images are not read for the page
#: Pictures that are copied beside the page: name -> (stage, output).
PICTURES = {
    "grid-denoising": ("evaluate-denoising", "grid"),
    "grid-consistency": ("evaluate-consistency", "grid"),
    "trajectory-denoising": ("evaluate-denoising", "trajectory"),
    **{
        f"{name}-{objective}": (f"evaluate-{objective}", name)
        for name in ("judged", "copies")
        for objective in OBJECTIVES
    },
}


def shown_stages() -> list[Stage]:
    """Return the stages that the page tells of: all but the one that makes it."""
    return [stage for stage in STAGES.values() if stage.step != "report"]


@dataclass
class Findings:
    """What a run's store holds. What cannot be read becomes a note and is left out."""

    run: Run
    scratch: Path
    notes: list[str] = field(default_factory=list)
    records: dict[str, StageRecord] = field(default_factory=dict)

    def gather(self, status: FinalStatus | None) -> RunFacts:
        """Read all that the page shows."""
        from epg.report.facts import RunFacts
        from epg.report.results import shown_labels

        run = self.run
        stages = shown_stages()
        for stage in stages:
            record = self._try(load_record, run, stage.name)
            if record is not None:
                self.records[stage.name] = record
        manifest = self._manifest()
        pictures = {name: self._output(*place) for name, place in PICTURES.items()}
        argument, settings = recipe_settings(run)
        facts = RunFacts(
            name=run.name,
            store_uri=run.store_uri,
            recipe=run.recipe,
            stages=stages,
            recipe_text=dump_recipe(run.recipe),
            recipe_argument=argument,
            settings=settings,
            records=self.records,
            failures=self._failures(),
            status=status,
            reused=reused_stages(),
            dataset=_dataset(manifest),
            images={name: png for name, png in pictures.items() if png},
            series={s.name: self._series(s.name) for s in stages if s.kind == "training"},
            sweeps={o: found for o in OBJECTIVES if (found := self._sweep(o))},
            paces=_paces(self.run, self.records),
            notes=self.notes,
            generated=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        sheets, strips = self._samples(manifest, facts.objectives, shown_labels(facts))
        return replace(facts, sheets=sheets, strips=strips)

    def _try(self, read: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return read(*arguments)
        except UserError as error:
            self.notes.append(str(error))
            return None

    def _output(self, stage: str, name: str, most: int | None = None) -> bytes:
        """Return the bytes of a stage's output; nothing where there is none."""
        record = self.records.get(stage)
        if record is None or name not in record.outputs:
            return b""
        if most is not None and record.outputs[name]["size"] > most:
            return b""
        path = self._try(fetch_output, self.run, record, name, self.scratch / f"{stage}-{name}")
        return path.read_bytes() if path else b""

    def _manifest(self) -> Manifest | None:
        data = self._output("shard", "manifest")
        if not data:
            return None
        from epg.data.manifest import Manifest

        return self._try(Manifest.from_json, data)

    def _series(self, stage: str) -> list[dict[str, Any]]:
        rows = []
        for line in self._output(stage, "series").splitlines():
            with contextlib.suppress(DocumentError):  # a line cut short by a kill
                rows.append(parse_object(line, nan=True))
        return rows

    def _sweep(self, objective: str) -> dict[str, Any]:
        """Return the points of the last sweep of this generator; nothing where there is none."""
        stage = f"sweep-{objective}"
        swept = self._try(load_record, self.run, stage)
        judged = self.records.get(f"evaluate-{objective}")
        if swept is None or judged is None:
            return {}
        tried = {digest for name, digest in swept.inputs.items() if name.startswith("generator")}
        if judged.inputs.get("generator") not in tried:
            return {}  # of weights that were trained anew since
        path = self._try(fetch_output, self.run, swept, "points", self.scratch / f"{stage}.json")
        return parse_object(path.read_bytes()) if path else {}

    def _failures(self) -> dict[str, Failure]:
        from epg.report.facts import Failure

        found = {}
        for item in self._try(lambda: list(self.run.store.list("failures/"))) or []:
            try:
                content = read_document(self.run.store, item.key, _failure)
            except (UserError, DocumentError) as error:
                self.notes.append(f"{item.key}: not a failure record ({error})")
                continue
            failure = Failure(content["stage"], content["message"], float(content["time"]))
            found[failure.stage] = failure
        return found

    def _samples(
        self, manifest: Manifest | None, objectives: list[str], labels: list[int]
    ) -> tuple[dict[str, bytes], dict[str, dict[int, bytes]]]:
        """Return a sheet of each model's images, and rows by label of them and of real ones."""
        from epg.data.arrays import read_npz
        from epg.report.images import class_sheet, class_strips

        sheets, strips = {}, {}
        for objective in objectives:
            data = self._output(f"evaluate-{objective}", "samples", MAX_SAMPLE_BYTES)
            if not data:
                continue
            try:
                images, requested = _images(read_npz(io.BytesIO(data), MAX_SAMPLE_BYTES))
                sheets[objective] = class_sheet(images, requested, labels)
                strips[objective] = class_strips(images, requested, labels)
            except (ValueError, KeyError, IndexError) as error:
                self.notes.append(f"samples of evaluate-{objective}: cannot be read ({error})")
        if strips and manifest is not None:
            size = sum(shard.size for shard in manifest.shards("held-out"))
            if 0 < size <= MAX_SAMPLE_BYTES:
                strips["real"] = self._try(_real_strips, self.run, manifest, labels) or {}
        return sheets, strips


def _paces(run: Run, records: Mapping[str, StageRecord]) -> list[tuple[str, str]]:
    """Say of each training how fast it was, and what `epg plan` says of the same GPUs."""
    from epg.evaluation.pace import pace
    from epg.numbers import finite, percent, significant, whole

    told = []
    for name, record in records.items():
        found = record.details.get("pace")
        rate = finite(found.get("images_per_second")) if isinstance(found, dict) else None
        if not isinstance(found, dict) or rate is None:
            continue
        objective = name.removeprefix("finetune-")
        device, processes = str(found.get("device"))[:80], found.get("processes")
        count = processes if isinstance(processes, int) and processes > 0 else 1
        measured = pace(run.recipe, objective, rate, device, count)
        words = f"{significant(rate)} images/s, {significant(measured.tflops)} TFLOP/s on "
        words += f"{count} x {device}" if count > 1 else device
        if measured.planned is not None:
            words += f" ({percent(measured.share_of_peak)} of the peak); "
            words += f"planned {whole(round(measured.planned))} images/s"
        told.append((f"{name}, measured", words))
    return told


def _failure(data: bytes) -> dict[str, Any]:
    content = fields(parse_object(data), {"stage": str, "message": str, "time": float}, {SEAL: str})
    return unseal(content, required=False)


def _images(arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images [N, H, W, C] and labels [N]. Raises `ValueError` or `KeyError`."""
    images, labels = arrays["arr_0"], arrays["arr_1"]
    if (images.dtype.str, labels.dtype.kind) != ("|u1", "i") or images.ndim != 4:
        raise ValueError(f"it holds {images.dtype} {images.shape} and {labels.dtype}")
    if images.shape[:1] != labels.shape or not images.size or images.shape[3] not in (1, 3):
        raise ValueError(f"its shapes are {images.shape} and {labels.shape}")
    return images, labels


def _real_strips(run: Run, manifest: Manifest, labels: list[int]) -> dict[int, bytes]:
    from epg.data.reader import ShardReader
    from epg.report.images import class_strips

    images, real_labels = ShardReader(run.store, manifest, "held-out").load()
    return class_strips(images, real_labels, labels)


def _dataset(manifest: Manifest | None) -> Dataset | None:
    if manifest is None:
        return None
    from epg.report.facts import Dataset

    return Dataset(
        source=manifest.source,
        image_size=manifest.image_size,
        channels=manifest.channels,
        classes=manifest.classes,
        counts={split: manifest.num_samples(split) for split in manifest.splits},
    )


def recipe_settings(run: Run) -> tuple[str, list[str]]:
    """Return what `--recipe` takes, and the `--set` values, to get the run's recipe again."""
    if run.recipe.name not in available_recipes():
        kept = f"{run.store_uri.removeprefix('file://').rstrip('/')}/{run.name}/{RECIPE_KEY}"
        return (kept if is_local(run.store_uri) else "RECIPE.yaml"), []
    packaged = load_recipe(run.recipe.name).model_dump(mode="json")
    return run.recipe.name, settings_between(packaged, run.recipe.model_dump(mode="json"))


def reused_stages() -> frozenset[str]:
    """Return the stages that `epg run` found done already, as its events file tells."""
    path = os.environ.get(EVENTS_VARIABLE)
    if not path:
        return frozenset()
    last: dict[str, str] = {}
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if '"started"' in line or '"reused"' in line:
                    event = parse_object(line, nan=True)
                    last[str(event["stage"])] = str(event["event"])
    except (OSError, ValueError, KeyError):
        return frozenset()
    return frozenset(stage for stage, event in last.items() if event == "reused")


def is_local(uri: str) -> bool:
    """Tell whether a store is a folder of this machine."""
    return "://" not in uri or uri.startswith("file://")
