"""What became of a run's images since its shards were made: noted once, told in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from epg.data.manifest import Manifest
from epg.errors import UserError
from epg.runs.record import load_record
from epg.runs.run import Run
from epg.store import ObjectNotFound
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    from epg.data.sources import Contents

#: Beside the shards: which names and bytes they were made of, with sizes and times to look at.
CONTENTS_NAME = "contents.json.gz"


def noted_contents(run: Run) -> dict[str, Contents]:
    """Return what each set of shards of the run was made of, by the folder of the shards."""
    from epg.data.sources import Contents

    found: dict[str, Contents] = {}
    for info in run.store.list("shards/"):
        folder, _, name = info.key.rpartition("/")
        if name == CONTENTS_NAME:
            contents = Contents.from_bytes(run.store.get_bytes(info.key))
            if contents is not None:
                found[folder] = contents
    return found


def present_contents(run: Run, noted: Mapping[str, Contents], reporter: StageReporter) -> Contents:
    """Return what the recipe's images are now; only what no note vouches for is read.

    Raises:
        SourceNotFound: they are not on this machine.
        UserError: an unusable source.
    """
    from epg.data.sources import source_contents

    source = run.recipe.data.source
    unit = "files" if source.startswith("folder:") else "MiB"
    return source_contents(
        source, noted.values(), lambda done, total: reporter.progress(done, total, unit)
    )


def explain_inputs(run: Run, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Say what differs between the images of two sets of shards; nothing where it is not known.

    Args:
        run: the run.
        before: digests of what an earlier result was made of, `shards` among them.
        after: likewise, now.
    """
    from epg.data.sources import changes_in_words

    if before.get("shards") == after.get("shards"):
        return []
    of_manifest = {}
    for folder, contents in noted_contents(run).items():
        try:
            manifest = Manifest.from_json(run.store.get_bytes(f"{folder}/manifest.json"))
        except (ObjectNotFound, UserError):
            continue
        of_manifest[manifest.sha256] = contents
    old, new = (of_manifest.get(inputs.get("shards", "")) for inputs in (before, after))
    return changes_in_words(old, new) if old is not None and new is not None else []


def changes_since_sharding(run: Run, noted: Mapping[str, Contents], now: Contents) -> list[str]:
    """Say what differs between the run's images now and those that its shards were made of."""
    from epg.data.sources import changes_in_words

    record = load_record(run, "shard")
    made_of = record.inputs.get("source") if record is not None else now.digest
    if made_of == now.digest:
        return []
    before = next((contents for contents in noted.values() if contents.digest == made_of), None)
    words = changes_in_words(before, now) if before is not None else []
    return words or ["the images are not those that the shards were made of"]
