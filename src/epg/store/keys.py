"""What an object's key may look like: a relative POSIX path that means one object everywhere."""

from __future__ import annotations

from epg.errors import UserError

#: A file whose name starts so is being written; it is not an object yet.
PART_PREFIX = ".epg-part-"
_MAX_BYTES = 1024  # S3's limit on a key


def check_key(key: str) -> str:
    """Return `key` unchanged, or refuse it.

    Allowed: relative, parts separated by single `/`, no `.` or `..`, no control character, no
    backslash, at most 1024 bytes.

    Raises:
        UserError: one line with the key and what is wrong with it.
    """
    parts = key.split("/")
    if not key:
        problem = "it is empty"
    elif key.startswith("/"):
        problem = "it is absolute; keys are relative to the store's root"
    elif "" in parts:
        problem = "it has an empty part (`//`, or `/` at the end)"
    elif "." in parts or ".." in parts:
        problem = "`.` and `..` are not allowed"
    elif "\\" in key or not key.isprintable():
        problem = "backslashes and control characters are not allowed"
    elif any(part.startswith(PART_PREFIX) for part in parts):
        problem = f"names starting with {PART_PREFIX!r} are kept for unfinished files"
    elif len(key.encode("utf-8", "surrogatepass")) > _MAX_BYTES:
        problem = f"it has more than {_MAX_BYTES} bytes"
        key = key[:60] + "..."
    else:
        return key
    raise UserError(f"object key {key!r}: {problem}; use one such as 'stages/pretrain.json'")


def check_prefix(prefix: str) -> str:
    """Return the start of a key (it may end anywhere, also in `/`) unchanged, or refuse it."""
    if prefix.rstrip("/"):
        check_key(prefix.removesuffix("/"))
    elif prefix:
        check_key(prefix)
    return prefix


def join(prefix: str, key: str) -> str:
    """Put a checked key behind a root prefix, which may be empty."""
    return f"{prefix}/{key}" if prefix else key
