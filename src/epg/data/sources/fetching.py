"""The one way from items to images, in as many threads as memory allows.

A source says only where an item's bytes are; what is made of them is settled here for all sources.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epg.data.encoding import encode_image
from epg.data.settings import ImageSettings
from epg.data.sources.base import BadImageError, Image, Item, Reading
from epg.machine import available_cores, memory_limit

#: Returns the bytes of an item's file, or pixels uint8 [H, W] or [H, W, 3] of a set that stores
#: those; called in many threads. Raises `BadImageError`.
Fetch = Callable[[Item], bytes | NDArray[np.uint8]]

#: Bytes of one image's file; a longer one is refused before it is read.
MOST_FILE_BYTES = 200 * 1024 * 1024
_MAX_THREADS = 32


def read_file(path: Path) -> bytes:
    """Return a regular file's bytes. Raises `BadImageError`."""
    try:
        if not path.is_file():
            raise BadImageError("not a regular file")
        check_length(path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise BadImageError("file cannot be read", error.strerror or str(error)) from None


def check_length(size: int) -> None:
    """Refuse a file of so many bytes before it is read. Raises `BadImageError`."""
    if size > MOST_FILE_BYTES:
        raise BadImageError("file too large", f"{size} bytes, at most {MOST_FILE_BYTES}")


def read_items(items: Iterable[Item], fetch: Fetch, config: ImageSettings) -> Reading:
    """Yield the items in their order, each with its encoded image, or what is wrong."""
    # Imported here: a look at a finished stage needs no Pillow.
    from epg.data.sources.budget import MOST_MEMORY
    from epg.data.sources.decode import decoder_warnings, load_image

    def load(item: Item) -> Image | BadImageError:
        try:
            return encode_image(load_image(fetch(item), config), config)
        except BadImageError as bad:
            return bad

    most = memory_limit() // 2 // MOST_MEMORY
    threads = max(1, min(available_cores(), _MAX_THREADS, most))
    waiting: deque[tuple[Item, Future[Image | BadImageError]]] = deque()
    with decoder_warnings(), ThreadPoolExecutor(threads, "decode") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(load, item)))
                if len(waiting) >= 4 * threads:  # bounds the memory of decoded images
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
