"""The one way from items to images, in as many threads as memory allows.

A source says only where an item's bytes are; what is made of them is settled here for all sources.
"""

from __future__ import annotations

import contextlib
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
_FETCHERS = 16  # requests at a time to an object store


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


def read_items(
    items: Iterable[Item], fetch: Fetch, config: ImageSettings, far: bool = False
) -> Reading:
    """Yield the items in their order, each with its encoded image, or what is wrong.

    Args:
        items: what is wanted.
        fetch: returns an item's bytes.
        config: the recipe's `data`.
        far: fetching waits for a network more than it works: it has threads of its own, ahead of
            those that decode.
    """
    # Imported here: a look at a finished stage needs no Pillow.
    from epg.data.sources.budget import MOST_MEMORY
    from epg.data.sources.decode import decoder_warnings, load_image

    def load(item: Item, data: Future[bytes | NDArray[np.uint8]] | None) -> Image | BadImageError:
        try:
            content = fetch(item) if data is None else data.result()
            return encode_image(load_image(content, config), config)
        except BadImageError as bad:
            return bad

    half = memory_limit() // 2
    threads = max(1, min(available_cores(), _MAX_THREADS, half // MOST_MEMORY))
    fetchers = max(1, min(_FETCHERS, half // MOST_FILE_BYTES)) if far else 0
    waiting: deque[tuple[Item, Future[Image | BadImageError]]] = deque()
    with contextlib.ExitStack() as stack:
        stack.enter_context(decoder_warnings())
        pool = stack.enter_context(ThreadPoolExecutor(threads, "decode"))
        requests = stack.enter_context(ThreadPoolExecutor(fetchers, "fetch")) if far else None
        try:
            for item in items:
                data = requests.submit(fetch, item) if requests is not None else None
                waiting.append((item, pool.submit(load, item, data)))
                if len(waiting) >= 4 * threads + fetchers:  # bounds the memory of images
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
