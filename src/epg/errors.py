"""The one exception that a user is meant to read, and what its lines are made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend: bad input, a missing object, a full disk.

    The message is one line that names the file, key or object, its value, what is allowed and
    what to do next. The command line prints it without a traceback and exits with 2; a component
    prints it as the last line of its log.

    It is no `ValueError`: code that forgives unreadable data must not forgive a store that is away.
    """


def did_you_mean(word: str, names: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ` (did you mean 'NAME'?)` with the nearest of the names, or nothing.

    Args:
        word: what was given.
        names: what is allowed.
        cutoff: how alike the two must be, 0 to 1; short names want less.
    """
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_line(said: object) -> str:
    """Return what an error or another program says without line breaks and double spaces."""
    return " ".join(str(said).split())


def printable(text: str) -> str:
    r"""Return text that any UTF-8 file takes: bytes of a name that are not UTF-8 as `\xNN`."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, as JSON may have it; no file is called so
        raw = text.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


def shown_names(names: Iterable[str], most: int = 3) -> str:
    """Return the first names, quoted, and how many more there are."""
    every = [repr(printable(name)) for name in names]
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
