"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can mend: bad input, a missing object, a full disk.

    The message is one line that names the file, key or object, its value, what is allowed and
    what to do next. The command line prints it without a traceback and exits with 2; a component
    prints it as the last line of its log.

    It is no `ValueError`: code that forgives unreadable data must not forgive a store that is away.
    """
