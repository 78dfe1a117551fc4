"""`epg sweep`: which sampling settings are best, tried on fewer images than the final figure takes.

A setting that was tried is not tried again. Images are drawn from other seeds than those of the
final evaluation: the best of many figures is lucky in its own images, not in others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epg.config.sampling import SamplingConfig
from epg.documents import (
    SEAL,
    DocumentError,
    fields,
    parse_object,
    sealed,
    unseal,
    without_nan,
    written,
)
from epg.errors import UserError
from epg.evaluation.checks import check_count, check_evaluation
from epg.evaluation.features.weights import WIDTHS
from epg.numbers import finite
from epg.runs.entry import Component
from epg.runs.handover import HandOver
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, fingerprint, require_record
from epg.runs.run import Run
from epg.runs.stage import Stage
from epg.stages.catalog import OBJECTIVES
from epg.stages.inputs import (
    stored_classifier,
    stored_manifest,
    stored_output,
    stored_statistics,
)
from epg.stages.looks import generated_task
from epg.stages.measured import with_measured
from epg.stages.settings import evaluation_config
from epg.stages.shares import look
from epg.stages.sweep_grid import Grid, chosen_figure, read_grid
from epg.store import ObjectNotFound
from epg.store.reading import read_document
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch

    from epg.evaluation.features.base import FeatureNetwork, Statistics
    from epg.model.files import LoadedGenerator

#: What may be varied: argument -> where the best value goes in a recipe.
SETTINGS = {
    "guidance_scale": "guidance_scale",
    "guidance_interval": "guidance_interval",
    "steps": "sampling_steps",
    "ema": "sampling_ema",
}
_SAMPLES = 10_000


def sweep(
    run: Run,
    objective: str,
    grid: Grid | Mapping[str, Any],
    *,
    num_samples: int = 0,
    figure: str = "",
) -> StageRecord:
    """Try sampling settings of a run's generator, and say which is best.

    Args:
        run: the run; its generator is trained.
        objective: `denoising` or `consistency`.
        grid: what to try.
        num_samples: images of each setting; 0: 10,000, or the recipe's where it has fewer.
        figure: by which is chosen; empty: the first of `sweep_grid.FIGURES` that is measured.

    Outputs: `points` (JSON: every setting with its figures), `overrides` (JSON: key of a recipe ->
    best value) and `plot` (HTML). Metrics: `best`, the best value of the figure, and `points`.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"objective {objective!r}: use {' or '.join(OBJECTIVES)}")
    grid = grid if isinstance(grid, Grid) else read_grid(grid)
    manifest = stored_manifest(run)
    run = with_measured(run, manifest)
    check_evaluation(run.recipe, manifest, run.store_uri)
    points = grid.points()
    weights = stored_output(run, f"finetune-{objective}")
    reference = require_record(run, "reference-statistics")
    statistics = HandOver.of(run, reference)
    settings = run.recipe.evaluate
    count = num_samples or min(_SAMPLES, settings.num_samples)
    check_count(
        f"--samples {count}",
        count,
        {kind: WIDTHS[kind] for kind in settings.networks},
        few=settings.few,
        mend="ask for more, or say evaluate.few=true",
    )
    for point in points:  # before anything long starts
        _sampling(run, objective, point)
    kinds = sorted({_weights_of(run, objective, weights, point) for point in points})
    inputs = {kind: weights.sha256(kind) for kind in kinds} | _digests(statistics)
    chosen = chosen_figure(figure, settings.networks)
    base = evaluation_config(run.recipe, objective)
    config = {**base, "points": points, "num_samples": count, "figure": chosen}
    needs = ("shard", "reference-statistics", f"finetune-{objective}")
    stage = Stage(f"sweep-{objective}", "sweep", objective, "judging", needs)

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        at_work = _Sweep(run, objective, weights, statistics, count, reporter, outputs)
        at_work.work(points, chosen)

    return perform(run, stage, config=config, inputs=inputs, work=work)


def _digests(statistics: HandOver) -> dict[str, str]:
    return {name: stored.sha256 for name, stored in statistics.objects.items()}


def _sampling(run: Run, objective: str, point: Mapping[str, Any]) -> SamplingConfig:
    changes = {name: value for name, value in point.items() if name != "ema"}
    return run.recipe.sampling(objective).changed(**changes)


def _weights_of(run: Run, objective: str, weights: HandOver, point: Mapping[str, Any]) -> str:
    """Return the output of the training that a point takes. Raises `UserError`."""
    settings = getattr(run.recipe, objective)
    kinds = {decay: kind for kind, decay in settings.averages.items()}
    if point.get("ema") is None:
        return str(settings.judged)
    kind = kinds.get(point["ema"])
    if kind is None or kind not in weights.objects:
        kept = ", ".join(f"{decay:g}" for decay in kinds)
        raise UserError(
            f"ema {point['ema']:g}: the training kept averages at {kept} (a list in "
            f"{objective}.ema_decay keeps several)"
        )
    return kind


@dataclass
class _Sweep:
    """A sweep at work."""

    run: Run
    objective: str
    weights: HandOver
    statistics: HandOver
    count: int
    reporter: StageReporter
    outputs: Outputs
    _loaded: tuple[str, LoadedGenerator] | None = None

    def work(self, points: list[dict[str, Any]], figure: str) -> None:
        """Try every point that was not tried before; write what is best."""
        tried = []
        for number, point in enumerate(points):
            metrics = self._known(point) or self._try(point, number, len(points))
            tried.append({"settings": point, "metrics": metrics})
            said = ", ".join(f"{name} {value}" for name, value in point.items())
            value = finite(metrics.get(figure))
            shown = "not finite" if value is None else f"{value:.4g}"
            self.reporter.message(f"{said}: {figure} {shown}")
        measured = [one for one in tried if finite(one["metrics"].get(figure)) is not None]
        if not measured:
            raise UserError(f"no setting gave a finite {figure}: look at the generator's samples")
        best = min(measured, key=lambda one: one["metrics"][figure])
        overrides = {
            f"{self.objective}.{SETTINGS[name]}": list(value) if isinstance(value, tuple) else value
            for name, value in best["settings"].items()
            if name in SETTINGS
        }
        content = {"figure": figure, "num_samples": self.count, "best": best, "points": tried}
        self.outputs.put_bytes("points", "points.json", written(content))
        self.outputs.put_bytes("overrides", "overrides.json", written(overrides))
        from epg.report.sweep import sweep_page

        page = sweep_page(f"{self.run.recipe.name}, {self.objective}", content)
        self.outputs.put_bytes("plot", "sweep.html", page.encode())
        self.outputs.metrics.update(best=best["metrics"][figure], points=len(tried))
        self.outputs.details.update(figure=figure, overrides=overrides)

    def _key(self, point: Mapping[str, Any]) -> str:
        """Where a point's figures lie: everything that they depend on is in the name."""
        config = evaluation_config(self.run.recipe, self.objective)
        config["sampling"] = _sampling(self.run, self.objective, point).model_dump(mode="json")
        config["num_samples"] = self.count
        kind = _weights_of(self.run, self.objective, self.weights, point)
        inputs = {"generator": self.weights.sha256(kind), **_digests(self.statistics)}
        name = fingerprint("sweep", config, inputs)
        return f"sweep-{self.objective}/points/{name[:32]}.json"

    def _known(self, point: Mapping[str, Any]) -> dict[str, float | None] | None:
        def read(data: bytes) -> dict[str, float | None]:
            content = fields(parse_object(data), {"metrics": dict, SEAL: str})
            found: dict[str, float | None] = unseal(content, required=True)["metrics"]
            return found

        try:
            return read_document(self.run.store, self._key(point), read)
        except (ObjectNotFound, DocumentError):
            return None

    def _try(self, point: Mapping[str, Any], number: int, total: int) -> dict[str, float | None]:
        """Generate and measure with one setting of so many; its figures are stored at once."""
        from epg.diffusion.seeds import derive_seed
        from epg.evaluation.judging import Judging

        path, loaded = self._generator(_weights_of(self.run, self.objective, self.weights, point))
        networks, real = self._judges
        task = generated_task(
            self.run,
            _sampling(self.run, self.objective, point),
            parts=self._key(point).removesuffix(".json").replace("/points/", "/parts/"),
            generator=path,
            classifier=self._classifier,
            count=self.count,
            seed=derive_seed(self.run.recipe.seed, "sweep"),
        )
        source = task.source(self._device, loaded)
        whole = look(
            task,
            source,
            networks,
            self.outputs.store,
            self.reporter,
            progress=lambda done, _, told: self.reporter.progress(
                number * self.count + done, total * self.count, "images", **told
            ),
        )
        judging = Judging(self.run.recipe.evaluate, networks, task.seed, self._device)
        figures = judging.figures(real, whole.found, source.labels)
        nfe = round(whole.facts["nfe"] / self.count)
        metrics = without_nan({**figures.metrics, "nfe": nfe})
        content = json.dumps(sealed({"metrics": metrics})).encode()
        self.outputs.store.put_bytes(self._key(point), content)
        return metrics

    def _generator(self, kind: str) -> tuple[Path, LoadedGenerator]:
        """Load an average of the weights; the last one is kept."""
        from epg.model.files import load_generator

        path = self.outputs.scratch / f"{kind}.safetensors"
        if self._loaded is None or self._loaded[0] != kind:
            self._loaded = None  # one at a time
            self._loaded = kind, load_generator(self.weights.fetch(self.run.store, kind, path))
        return path, self._loaded[1]

    @cached_property
    def _device(self) -> torch.device:
        from epg.model.device import prepare_device

        return prepare_device()

    @cached_property
    def _judges(self) -> tuple[dict[str, FeatureNetwork], dict[str, Statistics]]:
        """Networks, and what they see in real images: the same for all settings."""
        from epg.evaluation.features.networks import open_networks

        scratch = self.outputs.scratch
        networks = open_networks(
            self.run.recipe.evaluate.networks,
            self._classifier,
            self._device,
            root=self.run.store_uri,
            scratch=scratch,
        )
        return networks, stored_statistics(self.run, self.statistics, networks, scratch)

    @cached_property
    def _classifier(self) -> Path | None:
        return stored_classifier(self.run, self.statistics, self.outputs.scratch)


sweep_component = Component(
    sweep, follows=("statistics", "generator"), shows={"plot": "plot"}, measures="metrics"
)
