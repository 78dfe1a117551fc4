"""`epg evaluate --samples` and `--images`: figures of anybody's images, without a run's record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epg.config.evaluating import EvaluateConfig
from epg.documents import without_nan, written
from epg.errors import UserError
from epg.evaluation.checks import check_count
from epg.evaluation.features.weights import WIDTHS, require_weights
from epg.protocol import (
    FACTS,
    HASHES,
    REFERENCE_FEATURES,
    SAMPLE_FEATURES,
    FeatureSpace,
    Protocol,
    Reference,
)
from epg.runs.handover import HandOver
from epg.runs.record import require_record
from epg.runs.run import MEASURED, Run
from epg.stages.inputs import stored_statistics
from epg.stages.known import statistics_of
from epg.stages.looks import given_task
from epg.stages.measured import with_measured
from epg.stages.shares import look
from epg.store import Store, open_store
from epg.store.files import explained
from epg.store.held import HeldStore
from epg.store.lease import Lease
from epg.store.scratch import scratch_folder
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch

    from epg.evaluation.features.base import FeatureNetwork, Statistics
    from epg.evaluation.parts import Whole
    from epg.evaluation.sources import Images

LABEL_RULES = ("balanced", "random", "unknown")
_VERSION = 1  # of what is seen; up with every change of it


@dataclass(frozen=True)
class Request:
    """What is to be measured, and against what.

    Attributes:
        images: an `.npz` in ADM's form, or a folder.
        reference: a file or folder; None: the reference statistics of `run`.
        run: whose networks, settings and statistics are taken; None: those named here.
        networks: names as in `evaluate.networks`, where there is no run.
        labels: how the samples' classes were drawn, where the caller knows.
        few: measure also where there are fewer images than features.
        store: URI of the store of the runs: weights may lie there, and what was seen before a kill;
            None: neither.
    """

    images: Path
    reference: Path | None = None
    run: Run | None = None
    networks: tuple[str, ...] = ("inception",)
    labels: str = ""
    few: bool = False
    store: str | None = None

    @property
    def settings(self) -> EvaluateConfig:
        """Settings of the recipe, or the default ones. Raises `UserError`."""
        if self.run is not None:
            return self.run.recipe.evaluate
        if set(self.networks) - set(WIDTHS) or len(set(self.networks)) < len(self.networks):
            raise UserError(
                f"--networks {','.join(self.networks)}: use {', '.join(WIDTHS)}, each once"
            )
        return EvaluateConfig.model_validate({"networks": list(self.networks)})


def measure(request: Request) -> dict[str, Any]:
    """Measure a set of images; return `metrics` and `details`, as an evaluation's file has them.

    Raises:
        UserError: the images or the reference cannot be used or compared.
    """
    settings = request.settings
    if request.run is None and request.reference is None:
        raise UserError(
            "nothing to compare with: name --reference FILE (ADM's statistics, or images), or "
            "--recipe NAME for the statistics of its run"
        )
    if request.labels and request.labels not in LABEL_RULES:
        raise UserError(f"--labels {request.labels}: use {', '.join(LABEL_RULES)}")
    root = request.run.store_uri if request.run is not None else request.store
    require_weights(settings.networks, root)
    with scratch_folder("measure") as scratch:
        place = root or str(scratch)
        return _Measuring(request, settings, scratch, place, StageReporter("evaluate")).work()


@dataclass(frozen=True)
class _Measuring:
    request: Request
    settings: EvaluateConfig
    scratch: Path
    root: str  # URI of a store
    reporter: StageReporter

    @cached_property
    def store(self) -> Store:
        """Where parts lie until all are seen."""
        return open_store(self.root).sub(MEASURED)

    @cached_property
    def device(self) -> torch.device:
        """Where the networks lie."""
        from epg.model.device import prepare_device

        return prepare_device()

    @cached_property
    def classifier(self) -> Path | None:
        """Weights of the run's own judge, where it is asked for."""
        if "classifier" not in self.settings.networks:
            return None
        return self._of_run("classifier", "classifier.safetensors")

    def work(self) -> dict[str, Any]:
        """Look at the images, compare them, say how."""
        from epg.evaluation.features.networks import open_networks
        from epg.evaluation.judging import Judging
        from epg.evaluation.sources import open_images

        settings, device = self.settings, self.device
        images = open_images(self.request.images, device)
        rule = self._labels_rule(images)
        networks = open_networks(
            settings.networks, self.classifier, device, root=self.root, scratch=self.scratch
        )
        count = len(images.labels)
        check_count(
            str(self.request.images),
            count,
            {kind: network.width for kind, network in networks.items()},
            few=self.request.few,
            mend="bring more, or add --few",
        )
        real, references = self._real(networks, images)
        judged = next(iter(real.values()))
        found = self._look(networks, images, SAMPLE_FEATURES, judged).found
        seed = self.request.run.recipe.seed if self.request.run is not None else 0
        judging = Judging(settings, networks, seed, device)
        verdicts = judging.figures(real, found, images.labels)
        metrics: dict[str, Any] = {**verdicts.metrics, "num_samples": count}
        if not images.has_labels:
            metrics.pop("class_agreement", None)
            verdicts.details.pop("class_agreement_by_class", None)
        for warning in verdicts.warnings:
            self.reporter.warning(warning)
        spaces = {k: FeatureSpace(n.name, n.weights_digest) for k, n in networks.items()}
        protocol = Protocol(spaces, references, count, rule, settings.neighbours)
        details = {
            **verdicts.details,
            "feature_networks": {kind: network.name for kind, network in networks.items()},
            FACTS: protocol.facts(),
            HASHES: protocol.hashes(metrics),
        }
        if verdicts.warnings:
            details["warnings"] = verdicts.warnings
        self.reporter.finished({})
        return {"metrics": metrics, "details": details}

    def _labels_rule(self, images: Images) -> str:
        from epg.evaluation.labels import rule_of_given

        run = self.request.run
        classes = with_measured(run).recipe.data.num_classes if run is not None else None
        labels = images.labels if images.has_labels else None
        return rule_of_given(self.request.labels, labels, classes, str(self.request.images))

    def _real(
        self, networks: Mapping[str, FeatureNetwork], images: Images
    ) -> tuple[dict[str, Statistics], dict[str, Reference]]:
        """Return what the networks see in the reference, and how the protocol calls it."""
        from epg.evaluation.reference_file import read_reference
        from epg.evaluation.sources import size_in_words

        if self.request.reference is not None:
            found = read_reference(
                self.request.reference,
                networks,
                images.shape,
                partial(self._see, networks),
                device=self.device,
            )
            if found.reference.network_assumed:
                self.reporter.message(
                    f"{found.reference.source} does not say of which network its statistics are: "
                    f"{next(iter(networks.values())).name} is assumed"
                )
            return found.statistics, dict.fromkeys(networks, found.reference)
        run = self.request.run
        assert run is not None
        data = run.recipe.data
        shape = (data.image_size, data.image_size, data.channels)
        if images.shape != shape:
            raise UserError(
                f"{self.request.images}: images of {size_in_words(images.shape)}, and those of "
                f"the recipe have {size_in_words(shape)}"
            )
        record = require_record(run, "reference-statistics")
        told = record.details["references"]
        handed = HandOver.of(run, record)
        real = stored_statistics(run, handed, networks, self.scratch)
        return real, {kind: Reference(**told[kind]) for kind in networks}

    def _see(self, networks: Mapping[str, FeatureNetwork], images: Images) -> dict[str, Statistics]:
        return statistics_of(
            images,
            networks,
            lambda needed: self._look(needed, images).found,
            root=self.root,
            scratch=self.scratch,
            reporter=self.reporter,
        )

    def _look(
        self,
        networks: Mapping[str, FeatureNetwork],
        images: Images,
        keep: int = REFERENCE_FEATURES,
        real: Statistics | None = None,
    ) -> Whole:
        """Return what networks see in images; as many processes as there are GPUs share it.

        With `real`, what they see in the reference, the distance to it is estimated on the way.
        """
        from epg.evaluation.sources import files_digest

        judges = {kind: network.weights_digest for kind, network in networks.items()}
        facts = json.dumps([files_digest(images), judges, keep, _VERSION])
        name = hashlib.sha256(facts.encode()).hexdigest()[:16]
        task = given_task(
            images,
            networks,
            root=self.root,
            run_name=MEASURED,
            parts=name,
            classifier=self.classifier,
            keep=keep,
        )
        unit = "images" if real is not None else "reference images"
        with Lease(self.store, f"{name}.lock", f"epg evaluate of {images.path}") as lease:
            source = task.source(self.device, images)
            whole = look(
                task,
                source,
                networks,
                HeldStore(self.store, lease),
                self.reporter,
                real=real,
                progress=lambda done, total, told: self.reporter.progress(
                    done, total, unit, **told
                ),
            )
        source.check(whole.facts["unlike"])
        return whole

    def _of_run(self, name: str, filename: str) -> Path:
        if self.request.run is None:
            raise UserError(
                "the network 'classifier' is trained on a run's own images: name its --recipe"
            )
        record = require_record(self.request.run, "reference-statistics")
        handed = HandOver.of(self.request.run, record)
        return handed.fetch(self.request.run.store, name, self.scratch / filename)


def write_figures(found: Mapping[str, Any], out: Path) -> None:
    """Write what `measure` returned, as the file of a run's evaluation has it."""
    content = {**found, "metrics": without_nan(found["metrics"])}
    with explained(out, "write"):
        out.write_bytes(written(content))
