"""Text of others on its way to a terminal or a log."""

from __future__ import annotations

import unicodedata


def printable(text: object, *, keep: str = "") -> str:
    r"""Return text that moves no cursor, colours nothing and hides nothing.

    What a server, a file's name or a damaged object says may hold escape sequences, marks that
    turn the direction of writing, and halves of surrogate pairs, which no stream can encode. They
    are shown as Python writes them: `\\x1b`.

    Args:
        text: what is to be shown.
        keep: characters that stay, such as a line's end.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(c if _is_shown(c) or c in keep else ascii(c)[1:-1] for c in shown)


def _is_shown(character: str) -> bool:
    """Tell a character with a shape, or a space of any width."""
    return character.isprintable() or unicodedata.category(character) == "Zs"
