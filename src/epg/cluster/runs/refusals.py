"""What Kubeflow Pipelines' server says when it does not do what it was asked, in one line."""

from __future__ import annotations

import urllib3

from epg.cluster.runs.endpoint import FORWARD
from epg.documents import DocumentError, parse
from epg.errors import UserError, one_line
from epg.store.pace import TooSlowError


class Unreachable(UserError):  # noqa: N818 - says what it is
    """No answer came: trying again may help."""


class NotThere(UserError):  # noqa: N818 - likewise
    """The server has no such thing."""


class Conflict(UserError):  # noqa: N818 - likewise
    """The server has such a thing already."""


def unreachable(endpoint: str, error: Exception) -> Unreachable:
    """Say why no answer came, and what to do."""
    if isinstance(error, urllib3.exceptions.SSLError):
        return Unreachable(
            f"{endpoint}: TLS fails ({one_line(error)}): write http:// if the server "
            "speaks none, or name the site's certificates by SSL_CERT_FILE"
        )
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        what = "unknown host"
    elif "refused" in str(error):  # urllib3 calls that a timeout, too
        what = "nothing listens there"
    elif isinstance(error, urllib3.exceptions.TimeoutError | TooSlowError):
        what = "no answer in time"
    else:
        what = one_line(error)
    return Unreachable(
        f"cannot reach Kubeflow Pipelines at {endpoint}: {what}; check --endpoint, or "
        f"open a way by `{FORWARD}`"
    )


def refusal(endpoint: str, status: int, data: bytes, *, token: bool) -> UserError:
    """Say what an answer other than the wanted one means, and what to do.

    Args:
        endpoint: the server.
        status: of the answer.
        data: the answer.
        token: whether one was given.
    """
    text = _message(data)
    if status in (401, 403):
        given = "the token is not accepted" if token else "it wants a token"
        said = f" ({text})" if text else ""
        return UserError(
            f"{endpoint}: {given}: {status}{said}; give --token-file FILE or set "
            "KFP_EXISTING_TOKEN to one that is valid for this namespace"
        )
    if status == 404:
        return NotThere(f"{endpoint}: not found{f': {text}' if text else ''}")
    if status in (200, 301, 302, 303, 307, 308):
        return UserError(
            f"{endpoint}: the answer ({status}) is not Kubeflow Pipelines': a login page "
            "or another program; go to the API itself, or give --token-file"
        )
    if status in (502, 503, 504):
        return Unreachable(f"{endpoint}: the server is not ready: {status} {text}".strip())
    kind = Conflict if status == 409 else UserError
    return kind(f"{endpoint}: refused ({status}): {text or 'without a reason'}")


def _message(data: bytes) -> str:
    """Return the useful sentence of an error: the innermost one, without Go's stack."""
    try:
        content = parse(data, nan=True)
    except DocumentError:
        text = "" if data.lstrip().startswith(b"<") else data.decode("utf-8", errors="replace")
    else:
        found = content if isinstance(content, dict) else {}
        text = str(found.get("message") or found.get("error_message") or found.get("error") or "")
    return one_line(text)[:400]
