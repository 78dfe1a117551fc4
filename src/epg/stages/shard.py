"""Stage `shard`: images of any origin become tars of pixels and one manifest.

Shards lie under `shards/<fingerprint>/` of the run; the fingerprint covers the settings and the
source's contents, so changed data never mix with what was there.
"""

from __future__ import annotations

from typing import Any

from epg.data.manifest import Manifest
from epg.documents import DocumentError
from epg.errors import UserError, printable
from epg.runs.claim import settle_recipe
from epg.runs.entry import Component
from epg.runs.perform import changed_error, perform
from epg.runs.record import Outputs, StageRecord, load_record, outputs_exist, record_key
from epg.runs.run import Run
from epg.stages.afresh import begin_again, check_stage
from epg.stages.catalog import STAGES
from epg.stages.changes import (
    CONTENTS_NAME,
    changes_since_sharding,
    noted_contents,
    present_contents,
)
from epg.stages.inputs import manifest_bytes
from epg.stages.parts import OtherPods, read_parts
from epg.stages.settings import shard_config, shards_folder
from epg.store import ObjectNotFound
from epg.telemetry.progress import StageReporter

STAGE = STAGES["shard"]


def shard(run: Run, begin_at: str = "", shard_parts: int = 1) -> StageRecord:
    """Write the recipe's images as shards into the run's store.

    Args:
        run: the run.
        begin_at: a stage; its results and all that were made of them are thrown away first, here
            because this is the first step of a pipeline.
        shard_parts: into how many parts the shards are divided, the last of which is ours; the
            others are left to whoever is at them (step `shard-part`).

    Outputs: `manifest` (JSON), `page` (the data report, HTML). Metrics: images of both splits,
    skipped and converted images.

    Raises:
        UserError: an unusable source, too many bad images, no space, an unusable store; somebody
            is at what was to be thrown away.
    """
    from epg.data.sources import SourceNotFound

    others = OtherPods(run, read_parts(shard_parts))
    if begin_at:
        _begin_again(run, begin_at)

    data, seed = run.recipe.data, run.recipe.seed
    config = shard_config(run.recipe)
    _forget_incomplete(run)
    noted = noted_contents(run)
    try:
        contents = present_contents(run, noted, StageReporter(STAGE.name))
    except SourceNotFound as error:
        return _sharded_elsewhere(run, config, error)
    inputs = {"source": contents.digest}
    prefix = shards_folder(run.recipe, contents.digest)
    changed = changes_since_sharding(run, noted, contents)
    if changed:
        StageReporter(STAGE.name).message(f"the shards are made anew: {'; '.join(changed)}")
    if noted.get(prefix) != contents:  # also where only times differ: the next look is quick
        run.store.put_bytes(f"{prefix}/{CONTENTS_NAME}", contents.to_bytes())

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        from epg.data.sharding import MANIFEST_NAME, write_shards
        from epg.data.sources import open_source
        from epg.stages.data_report import PAGE_NAME, data_report

        source = open_source(data.source, data, seed, contents)

        def on_progress(done: int, total: int, values: dict[str, float]) -> None:
            reporter.progress(done, total, unit="images", **values)

        manifest = write_shards(
            source, data, seed, outputs.store, prefix, on_progress, contents.digest, others
        )
        outputs.put_bytes(
            "manifest", MANIFEST_NAME, manifest.to_json(), key=f"{prefix}/{MANIFEST_NAME}"
        )
        page = data_report(outputs.store, manifest)
        outputs.put_bytes("page", PAGE_NAME, page.encode())
        skipped = manifest.report["skipped"]
        if skipped:
            counted = ", ".join(f"{count} × {reason}" for reason, count in skipped.items())
            reporter.warning(f"{sum(skipped.values())} images skipped: {counted}")
        _tell_lost_colours(manifest, reporter)
        outputs.metrics.update(
            images_train=manifest.num_samples("train"),
            images_held_out=manifest.num_samples("held-out"),
            images_skipped=sum(skipped.values()),
            classes=len(manifest.classes),
            shards=sum(len(shards) for shards in manifest.splits.values()),
            bytes=sum(s.size for shards in manifest.splits.values() for s in shards),
        )
        outputs.details.update(
            report=manifest.report, class_counts=manifest.class_counts, classes=manifest.classes
        )

    return perform(run, STAGE, config=config, inputs=inputs, work=work)


def _tell_lost_colours(manifest: Manifest, reporter: StageReporter) -> None:
    from epg.data.sources.decode import COLOURS_TO_GREY

    grey = manifest.report["converted"].get(COLOURS_TO_GREY, 0)
    if grey:
        reporter.message(
            f"{grey:,} colour images were made grey, as data.channels=1 says; "
            "--set data.channels=3 keeps their colours"
        )


def _begin_again(run: Run, stage: str) -> None:
    check_stage(stage, "begin_at")
    settle_recipe(run)
    gone = begin_again(run, stage)
    StageReporter(STAGE.name).message(f"thrown away: {', '.join(gone)}")


def _sharded_elsewhere(run: Run, config: dict[str, Any], missing: UserError) -> StageRecord:
    """Use the run's shards where their source is out of reach: a pod does not see your disk.

    Raises:
        UserError: the run has no shards, or some of other settings.
    """
    record = load_record(run, STAGE.name)
    if record is None or not outputs_exist(run, record):
        raise UserError(
            f"{missing}; or shard it where it is, into the store of the run: `epg shard --recipe "
            f"... --run-name {run.name} --store ...` (docs/run-on-a-cluster.md)"
        ) from missing
    if record.config != config:
        raise changed_error(run, record, config) from missing
    manifest = _manifest(run, record)
    if manifest is not None and _folder(manifest.source) != _folder(run.recipe.data.source):
        raise UserError(
            f"{missing}; the run {run.name!r} has shards of {manifest.source}: give that as "
            "data.source to use them"
        ) from missing
    reporter = StageReporter(STAGE.name)
    reporter.message(f"{run.recipe.data.source} is not here: the shards made of it are used")
    reporter.reused(record.finished)
    return record


def _folder(source: str) -> str:
    """Return the last name of a source's path: what stands before it may be another machine's."""
    return printable(source.rstrip("/").rpartition("/")[2].rpartition(":")[2])


def _forget_incomplete(run: Run) -> None:
    """Drop the record when a shard is gone or cut, so that the stage writes it, alone, again.

    Raises:
        UserError: the store cannot be asked, which says nothing about the shards.
    """
    record = load_record(run, STAGE.name)
    if record is None:
        return
    manifest = _manifest(run, record)
    if manifest is None:
        run.store.delete(record_key(STAGE.name))
        return
    expected = {s.key: s.size for shards in manifest.splits.values() for s in shards}
    folders = {key.rpartition("/")[0] for key in expected}
    found = {info.key: info.size for folder in folders for info in run.store.list(f"{folder}/")}
    wrong = sorted(key for key, size in expected.items() if found.get(key) != size)
    if wrong:
        StageReporter(STAGE.name).warning(
            f"{wrong[0]} is missing or cut: what is not whole is written again"
        )
        run.store.delete(record_key(STAGE.name))


def _manifest(run: Run, record: StageRecord) -> Manifest | None:
    """Return the manifest that a record names; None where it is gone or damaged."""
    try:
        return Manifest.from_json(manifest_bytes(run, record))
    except (ObjectNotFound, DocumentError):
        return None


#: The manifest is a few kB and is itself what travels.
shard_component = Component(shard, shows={"shards": "manifest", "page": "page"})
