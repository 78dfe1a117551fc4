"""From an exception to one line and an exit code: the outermost layer of the command line."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable

from epg.errors import UserError, one_line
from epg.text import printable

BUG, MISTAKE, STOPPED = 1, 2, 130


def guarded(command: Callable[[], int], *, debug: bool) -> int:
    """Call `command`; turn whatever it raises into one line on stderr and an exit code.

    Args:
        command: does the work and returns its exit code.
        debug: show the traceback as well.
    """
    try:
        return command()
    except KeyboardInterrupt:
        return _tell("stopped", STOPPED, debug=False)
    except BrokenPipeError:  # `epg recipes | head -1`: nobody reads on
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except UserError as error:
        return _tell(str(error), MISTAKE, debug=debug)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            text = f"no space left on the disk of {error.filename or 'the store'}: make room"
            return _tell(text, MISTAKE, debug=debug)
        return _unexpected(error, debug)
    except Exception as error:
        return _explain(error, debug)


def _explain(error: Exception, debug: bool) -> int:
    """Usage errors of Typer know their text and code; anything else is a bug of ours."""
    described = getattr(error, "format_message", None)
    if described is None:
        if type(error).__name__ == "Abort":
            return _tell("stopped", STOPPED, debug=False)
        return _unexpected(error, debug)
    context = getattr(error, "ctx", None)
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    return _tell(f"{described()}{hint}", getattr(error, "exit_code", MISTAKE), debug=debug)


def _unexpected(error: Exception, debug: bool) -> int:
    text = one_line(f"{type(error).__name__}: {error}")
    return _tell(text if debug else f"{text} (run again with --debug)", BUG, debug=debug)


def _tell(text: str, code: int, *, debug: bool) -> int:
    if debug:
        sys.stderr.write(printable(traceback.format_exc(), keep="\n"))
    sys.stdout.flush()
    sys.stderr.write(f"epg: error: {printable(text)}\n")
    return code
