"""Where the file of `evaluate.reference_file` lies: on this machine, or in a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epg.errors import UserError
from epg.store import Store, open_store
from epg.store.digest import file_sha256, stream_sha256


@dataclass(frozen=True)
class ReferencePlace:
    """A local file, or an object of a store."""

    path: Path | None = None
    store: Store | None = None
    key: str = ""

    @property
    def sha256(self) -> str:
        """Digest of its content."""
        if self.path is not None:
            return file_sha256(self.path)
        assert self.store is not None
        with self.store.open(self.key) as stream:
            return stream_sha256(stream)

    def local(self, scratch: Path) -> Path:
        """Return it as a local file, copied into `scratch` where it lies in a store."""
        if self.path is not None:
            return self.path
        assert self.store is not None
        path = scratch / self.key.rpartition("/")[2]
        self.store.get_file(self.key, path)
        return path


def find_reference(place: str, root: str) -> ReferencePlace:
    """Return where a reference file is.

    Args:
        place: a path, an object of the store of the runs such as `weights/VIRTUAL_256.npz`, or the
            URI of an object, such as `s3://BUCKET/VIRTUAL_256.npz`.
        root: URI of the store of the runs.

    Raises:
        UserError: it is nowhere.
    """
    if "://" in place:
        folder, _, key = place.rpartition("/")
        store = open_store(folder)
    else:
        path = Path(place).expanduser()
        if path.is_file():
            return ReferencePlace(path=path)
        store, key = open_store(root), place
    if key.startswith("/") or store.size(key) is None:
        raise UserError(
            f"evaluate.reference_file is {place}: there is no such file here, and no such object "
            f"in {store.uri}: give a path, an object's key in the store of the runs, or a URI"
        )
    return ReferencePlace(store=store, key=key)
