"""What may be looked at by several processes: images generated, given, or of a split.

A task says it all in plain values, so that it travels to other processes as JSON (`shares.py`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from epg.config.sampling import SamplingConfig
from epg.data.manifest import Manifest
from epg.documents import parse_object
from epg.protocol import SAMPLE_FEATURES
from epg.runs.run import Run, run_store

if TYPE_CHECKING:
    import torch

    from epg.evaluation.features.base import FeatureNetwork
    from epg.evaluation.generate import GeneratedImages
    from epg.evaluation.looking import Look, TimedSource
    from epg.evaluation.reading import SplitImages
    from epg.evaluation.sources import Images, TimedImages
    from epg.model.files import LoadedGenerator

GIVEN_SPAN = 512  # images of others that are read at a time


@dataclass(frozen=True, kw_only=True)
class LookTask(ABC):
    """What every process that shares the work must know.

    Attributes:
        root: URI of the store of the runs.
        run_name: whose, or another folder of that store.
        parts: folder there for parts; its name says what they depend on.
        count: images of the set.
        span: images that are read at a time.
        networks: names in the recipe of those that look.
        classifier: local weights file of the run's own judge; empty: it does not look.
        keep: features to keep of each network.
        first: how many of the first images are kept.
        judge: which network's confidence ranks the images; empty: none.
        spans: of all processes, in order.
    """

    what: ClassVar[str]  # is at work, in messages
    root: str
    run_name: str
    parts: str
    count: int
    span: int
    networks: list[str]
    classifier: str
    keep: int
    first: int = 0
    judge: str = ""
    spans: list[tuple[int, int]] = field(default_factory=list)

    @abstractmethod
    def source(self, device: torch.device) -> TimedSource:
        """Open the images."""

    def open_networks(self, scratch: Path, device: torch.device) -> dict[str, FeatureNetwork]:
        """Load those who look."""
        from epg.evaluation.features.networks import open_networks

        classifier = Path(self.classifier) if self.classifier else None
        return open_networks(self.networks, classifier, device, root=self.root, scratch=scratch)

    def look(self, source: TimedSource, networks: Mapping[str, FeatureNetwork]) -> Look:
        """Return how they look at them."""
        from epg.evaluation.looking import Look

        return Look(
            networks,
            source,
            keep=self.keep,
            first=self.first,
            judge=self.judge,
            facts=source.facts,
        )

    def to_json(self) -> str:
        """Return what `read_task` reads back."""
        return json.dumps({"task": type(self).__name__, **asdict(self)})


@dataclass(frozen=True, kw_only=True)
class GeneratedTask(LookTask):
    """Images of a generator.

    Attributes:
        generator: local weights file.
        labels: how their classes are drawn, `balanced` or `random`.
        seed: of classes and images.
        batch_size: images that are generated at a time.
        sampling: a `SamplingConfig`, as JSON has it.
    """

    what = "evaluation"
    generator: str
    labels: str
    seed: int
    batch_size: int
    sampling: dict[str, Any]

    def source(
        self, device: torch.device, loaded: LoadedGenerator | None = None
    ) -> GeneratedImages:
        """Open the images; `loaded` is the generator where it is at hand."""
        from epg.evaluation.generate import GeneratedImages
        from epg.evaluation.labels import drawn_labels
        from epg.model.files import load_generator

        loaded = loaded or load_generator(Path(self.generator))
        return GeneratedImages(
            loaded,
            drawn_labels(self.labels, self.count, len(loaded.classes), self.seed),
            seed=self.seed,
            batch_size=self.batch_size,
            sampling=SamplingConfig.model_validate(self.sampling),
            device=device,
        )


def generated_task(
    run: Run,
    sampling: SamplingConfig,
    *,
    parts: str,
    generator: Path,
    classifier: Path | None,
    count: int,
    seed: int,
    pictures: bool = False,
) -> GeneratedTask:
    """Return the task of looking at generated images as a run's recipe says.

    Args:
        run: the run.
        sampling: how they are made.
        parts: folder of the run's store for parts; its name says what they depend on.
        generator: local weights file.
        classifier: that of the run's own judge, where it has one.
        count: images.
        seed: of classes and images.
        pictures: whether the first ones, and those the judge is surest and least sure of, are kept.
    """
    from epg.evaluation.looking import kept_images, span_of

    settings, data = run.recipe.evaluate, run.recipe.data
    return GeneratedTask(
        root=run.store_uri,
        run_name=run.name,
        parts=parts,
        count=count,
        span=span_of(settings.batch_size),
        networks=list(settings.networks),
        classifier=str(classifier or ""),
        keep=min(count, SAMPLE_FEATURES),
        first=kept_images(count, data.image_size**2 * data.channels) if pictures else 0,
        judge="classifier" if pictures and classifier else "",
        generator=str(generator),
        labels=settings.labels,
        seed=seed,
        batch_size=settings.batch_size,
        sampling=sampling.model_dump(mode="json"),
    )


@dataclass(frozen=True, kw_only=True)
class RealTask(LookTask):
    """A split of a data set.

    Attributes:
        manifest: local file of the data set's.
        split: `train` or `held-out`.
    """

    what = "reference"
    manifest: str
    split: str

    def source(self, device: torch.device) -> SplitImages:
        """Open the images."""
        from epg.data.reader import ShardReader
        from epg.evaluation.reading import SplitImages

        manifest = Manifest.from_json(Path(self.manifest).read_bytes())
        store = run_store(self.root, self.run_name)
        return SplitImages(ShardReader(store, manifest, self.split), device)


@dataclass(frozen=True, kw_only=True)
class GivenTask(LookTask):
    """Images that others made.

    Attributes:
        path: an `.npz` or a folder.
    """

    what = "measuring"
    path: str

    def source(self, device: torch.device, images: Images | None = None) -> TimedImages:
        """Open the images; `images` are they where they are open."""
        from epg.evaluation.sources import TimedImages, open_images

        return TimedImages(images or open_images(Path(self.path), device))


def given_task(
    images: Images,
    networks: Mapping[str, FeatureNetwork],
    *,
    root: str,
    run_name: str,
    parts: str,
    classifier: Path | None = None,
    keep: int,
) -> GivenTask:
    """Return the task of looking at given images.

    Args:
        images: they.
        networks: name in the recipe -> who looks.
        root: URI of the store of the runs.
        run_name: whose, or another folder of that store.
        parts: folder there for parts; its name says what they depend on.
        classifier: local weights file, where it is among the networks.
        keep: features to keep.
    """
    return GivenTask(
        root=root,
        run_name=run_name,
        parts=parts,
        count=len(images.labels),
        span=GIVEN_SPAN,
        networks=list(networks),
        classifier=str(classifier or ""),
        keep=keep,
        path=str(images.path.absolute()),
    )


def read_task(data: bytes) -> LookTask:
    """Read what `LookTask.to_json` gave."""
    content = parse_object(data)
    kinds = {kind.__name__: kind for kind in (GeneratedTask, RealTask, GivenTask)}
    spans = [(int(start), int(end)) for start, end in content.pop("spans")]
    return kinds[content.pop("task")](**content, spans=spans)
