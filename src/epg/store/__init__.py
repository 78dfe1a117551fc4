"""Where everything lands that outlives a process: one protocol, local files and S3.

`open_store(uri)` is the way in. The environment, never a recipe or a URI, holds the endpoint
and the credentials of S3 (see `epg.store.s3.settings`).
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from epg.errors import UserError
from epg.store.base import ObjectExists, ObjectInfo, ObjectNotFound, Store

__all__ = ["ObjectExists", "ObjectInfo", "ObjectNotFound", "Store", "open_store"]

_FORMS = "a folder, file:///FOLDER, s3://BUCKET/PREFIX or minio://HOST:PORT/BUCKET/PREFIX"


def open_store(uri: str) -> Store:
    """Open the store that a URI names; nothing is read or written yet.

    Args:
        uri: a plain path, `file:///FOLDER`, `s3://BUCKET/PREFIX` (endpoint from the environment)
            or `minio://HOST:PORT/BUCKET/PREFIX`.

    Raises:
        UserError: the URI has no such form, holds credentials, or credentials are missing.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", uri)
    if scheme is None:
        if not uri.strip():
            raise UserError(f"store URI {uri!r}: it is empty; give {_FORMS}")
        from epg.store.local import LocalStore

        return LocalStore(Path(uri).expanduser().absolute())
    if scheme[1] == "file":
        return _open_file_uri(uri)
    if scheme[1] in ("s3", "minio"):
        # Imported here: the client costs a fifth of a second that local files do not need.
        from epg.store.s3.client import S3Store
        from epg.store.s3.settings import settings_from_uri

        return S3Store.connect(settings_from_uri(uri))
    raise UserError(f"store URI {uri.split('://')[0]}://...: unknown scheme; give {_FORMS}")


def _open_file_uri(uri: str) -> Store:
    from epg.store.local import LocalStore

    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UserError(f"store URI {uri!r}: write three slashes and the path, file:///FOLDER")
    if parts.query or parts.fragment:
        raise UserError(f"store URI {uri!r}: write '?' as %3F and '#' as %23")
    return LocalStore(Path(unquote(parts.path)))
