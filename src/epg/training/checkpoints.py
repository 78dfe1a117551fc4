"""Checkpoints that are whole or not there, on any store.

A checkpoint is a new folder `step-N.<token>` with the state in safetensors files of bounded size,
`series.jsonl` and, last, `manifest.json` with the SHA-256 of each and of itself. Readers trust
manifests only, check digests before they load, and fall back to the checkpoint before with the
reason; where all are damaged they stop. Nothing is ever overwritten. The state is never in memory
twice: one file's tensors at a time are brought to the host, and copied from a mapped file into
their places.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from epg.config.comparison import differences
from epg.documents import DocumentError
from epg.errors import UserError
from epg.model.files import write_tensors
from epg.store.base import ObjectNotFound, Store
from epg.store.digest import file_sha256, stream_sha256
from epg.store.files import explained
from epg.store.reading import PAUSE_SECONDS, READS, fetch_file, read_document
from epg.training.checkpoint_format import (
    FOLDER,
    FORMAT,
    MANIFEST,
    SERIES,
    SERIES_BYTES,
    manifest_json,
    manifest_of,
    new_folder,
    remove,
    rows_of,
    series_json,
    state_name,
    step_of,
)
from epg.training.keeper import Checkpoint, Keeper, Places

_MOST = 2  # whole checkpoints
_FILE_BYTES = 256 * 1024**2


class Checkpoints(Keeper):
    """Saves and restores the state of one training stage under a store's prefix."""

    def __init__(
        self,
        store: Store,
        config: dict[str, Any],
        inputs: dict[str, str],
        scratch: Path,
        *,
        file_bytes: int = _FILE_BYTES,
        warn: Callable[[str], None] = lambda text: None,
        kept: Callable[[], None] = lambda: None,
    ) -> None:
        """Bind to a place.

        Args:
            store: where checkpoints lie.
            config: what a checkpoint must have been made with; `inputs` likewise.
            inputs: digests of what is read.
            scratch: local folder for one file on its way.
            file_bytes: size of a file of tensors; a larger tensor has a file of its own.
            warn: hears why a checkpoint is passed over.
            kept: hears when a checkpoint is complete, from whatever thread completes it.
        """
        self._store = store
        self._config = config
        self._inputs = inputs
        self._scratch = scratch
        self._file_bytes = file_bytes
        self._warn = warn
        self._kept = kept
        self._whole: set[str] = set()  # folders that were saved or verified here
        self._damaged: dict[str, str] = {}  # folder -> what is wrong with it

    def save(self, step: int, tensors: dict[str, Tensor], series: list[dict[str, Any]]) -> None:
        """Store a complete checkpoint, then remove all but the newest two."""
        folder = new_folder(step)
        files = {}
        for name, group in self._groups(tensors):
            path = self._scratch / f"{folder}-{name}"
            try:
                write_tensors(path, group)
                files[name] = file_sha256(path)
                self._store.put_file(f"{folder}/{name}", path)
            finally:
                path.unlink(missing_ok=True)
        rows = series_json(series)
        files[SERIES] = hashlib.sha256(rows).hexdigest()
        self._store.put_bytes(f"{folder}/{SERIES}", rows)
        self._finish(folder, manifest_json(step, self._config, self._inputs, files))

    @property
    def uri(self) -> str:
        """Where they lie."""
        return self._store.uri

    def has_room(self, size: int) -> bool:
        """Tell whether the scratch folder's disk has twice as many bytes left."""
        return shutil.disk_usage(self._scratch).free >= 2 * size

    def stage(self, step: int, tensors: dict[str, Tensor], series: list[dict[str, Any]]) -> Path:
        """Write a checkpoint, all but its manifest, into a new local folder for `put` to store."""
        staged = self._scratch / new_folder(step)
        staged.mkdir()
        try:
            for name, group in self._groups(tensors):
                write_tensors(staged / name, group)
            with explained(staged / SERIES, "write"):
                (staged / SERIES).write_bytes(series_json(series))
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return staged

    def put(self, staged: Path, again: bool = False) -> None:
        """Store what `stage` has written, then remove all but the newest two.

        The manifest is written beside the staged files too: a copy of their folder is a
        checkpoint. Another try (`again`) leaves out what an earlier one has put.
        """
        names = sorted(path.name for path in staged.iterdir() if path.name != MANIFEST)
        files = {name: file_sha256(staged / name) for name in names}
        manifest = manifest_json(step_of(staged.name), self._config, self._inputs, files)
        with explained(staged / MANIFEST, "write"):
            (staged / MANIFEST).write_bytes(manifest)
        for name in names:
            key, path = f"{staged.name}/{name}", staged / name
            if not (again and self._store.size(key) == path.stat().st_size):
                self._store.put_file(key, path)
        self._finish(staged.name, manifest)

    def _finish(self, folder: str, manifest: bytes) -> None:
        self._store.put_bytes(f"{folder}/{MANIFEST}", manifest)
        self._whole.add(folder)
        self._kept()
        self._sweep()

    def _groups(self, tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield each file's name and its tensors, brought to the host when they are asked for."""
        groups: list[list[str]] = [[]]
        size = 0
        for name, tensor in tensors.items():
            if groups[-1] and size + tensor.nbytes > self._file_bytes:
                groups.append([])
                size = 0
            groups[-1].append(name)
            size += tensor.nbytes
        for number, names in enumerate(groups):
            yield (
                state_name(number),
                {name: tensors[name].detach().cpu().contiguous() for name in names},
            )

    def restore(self, places: Places) -> Checkpoint | None:
        """Copy the newest whole checkpoint into `places()`, or return None where there is none.

        All digests are looked at before the first tensor is copied, so that a damaged checkpoint
        leaves no trace. That reads it twice, and holds neither it nor its files. What does not
        verify is read again before it is given up.

        Raises:
            UserError: it was made with other settings or inputs, naming what differs; or there
                are checkpoints, and all of them are damaged.
        """
        for folder in self._complete():
            where = f"{self._store.uri}/{folder}"
            try:
                manifest = read_document(self._store, f"{folder}/{MANIFEST}", manifest_of(folder))
                self._check(manifest, where)
                for name, digest in manifest["files"].items():
                    self._verify(f"{folder}/{name}", digest)
                series = read_document(self._store, f"{folder}/{SERIES}", rows_of, SERIES_BYTES)
            except (DocumentError, ObjectNotFound) as error:
                self._damaged[folder] = str(error)
                self._warn(f"{where}: {error}; trying the checkpoint before")
                continue
            self._copy(folder, manifest["files"], places())
            self._whole.add(folder)
            return Checkpoint(manifest["step"], series)
        if self._damaged:
            raise self._all_damaged()
        return None

    def _all_damaged(self) -> UserError:
        listed = "; ".join(f"{folder}: {why}" for folder, why in self._damaged.items())
        return UserError(
            f"no checkpoint in {self._store.uri} can be used ({listed}): put back a copy of one of "
            "these folders if there is one; only `--from STAGE` begins the stage anew, and throws "
            "them away"
        )

    def _verify(self, key: str, digest: str) -> None:
        for look in range(1, READS + 1):
            with self._store.open(key) as stream:
                found = stream_sha256(stream)
            if found == digest:
                return
            if look < READS:
                time.sleep(PAUSE_SECONDS * look)
        name = key.rsplit("/", 1)[1]
        raise DocumentError(f"{name} has SHA-256 {found[:12]}..., expected {digest[:12]}...")

    @torch.no_grad()
    def _copy(self, folder: str, files: dict[str, str], places: dict[str, Tensor]) -> None:
        """Fill the places from a checkpoint's files, one file at a time."""
        missing = dict(places)
        for name in files:
            if name == SERIES:
                continue
            path = self._scratch / f"{folder}-{name}"
            try:
                if fetch_file(self._store, f"{folder}/{name}", path, files[name]) != files[name]:
                    raise UserError(
                        f"{self._store.uri}/{folder}/{name}: it changed while it was read: "
                        "run the same command again"
                    )
                with safe_open(path, framework="pt") as file:
                    for key in file.keys():  # noqa: SIM118 - no mapping
                        self._fill(folder, key, file.get_tensor(key), missing.pop(key, None))
            except SafetensorError as error:
                raise self._other_version(folder, f"{name}: {error}") from error
            finally:
                path.unlink(missing_ok=True)
        for key in missing:
            raise self._other_version(folder, key)

    def _fill(self, folder: str, name: str, tensor: Tensor, place: Tensor | None) -> None:
        if place is None or place.shape != tensor.shape:
            raise self._other_version(folder, name)
        place.copy_(tensor)

    def _other_version(self, folder: str, name: str) -> UserError:
        return UserError(
            f"{self._store.uri}/{folder}: its tensors are not those of this version of epg "
            f"({name}): finish the run with the version that began it, or throw it away with "
            "`--from STAGE`"
        )

    def _check(self, manifest: dict[str, Any], where: str) -> None:
        if manifest.get("format", 1) != FORMAT:
            raise UserError(
                f"{where}: a checkpoint of another version of epg (format "
                f"{manifest.get('format', 1)}, this one reads {FORMAT}): finish the run with that "
                "version, or throw it away with `--from STAGE`"
            )
        listed = differences(manifest["config"], self._config)
        listed += differences(manifest["inputs"], self._inputs)
        if not listed:
            return
        raise UserError(
            f"{where}: this checkpoint was made with other settings ({'; '.join(listed)}): "
            "choose another --run-name, or throw it away with `--from STAGE`"
        )

    def _folders(self) -> dict[str, bool]:
        """Folder -> whether its manifest is there."""
        found: dict[str, bool] = {}
        for info in self._store.list():
            match = FOLDER.match(info.key)
            if match:
                folder = match.group(1)
                complete = info.key == f"{folder}/{MANIFEST}"
                found[folder] = found.get(folder, False) or complete
        return found

    def _complete(self) -> list[str]:
        return sorted((f for f, complete in self._folders().items() if complete), reverse=True)

    def _sweep(self) -> None:
        """Remove torn folders, and all but the newest whole ones.

        What is known to be whole goes before what was not looked at, and that before what is
        known to be damaged, whatever their steps are: a damaged one must not outlive a good one.
        """
        kept = sorted(self._complete(), key=self._trust, reverse=True)[:_MOST]
        for folder in self._folders():
            if folder not in kept:
                remove(self._store, folder)

    def _trust(self, folder: str) -> tuple[int, str]:
        return (folder in self._whole) - (folder in self._damaged), folder
