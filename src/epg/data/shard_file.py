"""One shard on its way to the store: the tar, streamed, and its index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from zlib_ng import zlib_ng

from epg.data.manifest import ShardInfo
from epg.data.shard_format import END, sample_key, sample_records
from epg.data.shard_index import Entry, write_index
from epg.data.sources.base import Image, Item
from epg.store.base import Store


class ShardFile:
    """A shard that is written: nothing of it is visible before it is whole.

    It goes to the store as it is made; no more than a few parts of an upload are in memory.
    """

    def __init__(self, store: Store, key: str) -> None:
        """Prepare to write to `key`, and the index beside it."""
        self._store, self._key = store, key
        self._entries: list[Entry] = []
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, samples: Iterable[tuple[Item, Image]]) -> ShardInfo | None:
        """Write encoded samples in their order; None where there are none.

        Raises:
            UserError: no space, or an unusable store.
        """
        samples = iter(samples)
        first = next(samples, None)
        if first is None:
            return None
        self._store.put_pieces(self._key, self._pieces(first, samples))
        index = write_index(self._entries)
        info = ShardInfo(
            self._key,
            self._size,
            self._digest.hexdigest(),
            len(self._entries),
            len(index),
            hashlib.sha256(index).hexdigest(),
        )
        self._store.put_bytes(info.index_key, index)
        return info

    def _pieces(
        self, first: tuple[Item, Image], others: Iterator[tuple[Item, Image]]
    ) -> Iterator[bytes]:
        """Yield the bytes of the tar, noting what goes into the index."""
        sample: tuple[Item, Image] | None = first
        while sample is not None:
            item, image = sample
            key = sample_key(item.split, item.label, item.number)
            header, content, rest = sample_records(key, image.extension, image.content, item.label)
            name, offset = f"{key}.{image.extension}", self._size + len(header)
            crc32 = zlib_ng.crc32(content)
            self._entries.append(Entry(name, offset, len(content), item.label, crc32))
            for piece in (header, content, rest):
                yield self._noted(piece)
            sample = next(others, None)
        yield self._noted(END)

    def _noted(self, piece: bytes) -> bytes:
        self._digest.update(piece)
        self._size += len(piece)
        return piece
