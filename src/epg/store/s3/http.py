"""The one layer that tries again: HTTP for the `minio` client, with a total deadline.

The client's own pool retries five times with five-minute timeouts, knows no total deadline and
does not retry a POST. This one takes its place: every request, parts of a big upload and the
creating and completing of it included, is tried again after a reset, a timeout, a 5xx, 408 or
429, with full jitter, until the deadline. A 4xx is an answer and is returned at once, unless it
is a gateway's. The deadline holds for bytes, too: see `epg.store.pace`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import certifi
import tenacity
import urllib3
from urllib3 import exceptions as http_errors

from epg.store.pace import Pace, collected, sent

logger = logging.getLogger("epg.store")

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_TRANSIENT_ERRORS = (
    http_errors.ProtocolError,  # resets, bodies cut short
    http_errors.TimeoutError,
    http_errors.NewConnectionError,  # refused, unknown host: the server may be starting
)
_CONNECT_TIMEOUT = 5.0  # seconds
_READ_TIMEOUT = 30.0  # seconds without a byte
_SHORTEST_WAIT = 0.05  # seconds: what is left of a deadline may be nothing
_CONNECTIONS = 32  # that are kept: a source has 16 requests on their way, and their decoders
_LARGEST_ANSWER = 32 << 20  # bytes of an answer that is no object: a list has 1,000 names
#: Servers that have answered this process: whoever opens another store there waits for them.
_heard: set[str] = set()


class RetryingPool(urllib3.PoolManager):
    """A connection pool whose requests are tried again within a total deadline.

    Attributes:
        retries: how many requests were tried again so far.
    """

    def __init__(self, endpoint: str, first_deadline: float, deadline: float) -> None:
        """Wait `first_deadline` seconds for a server never heard of, later `deadline`."""
        super().__init__(
            maxsize=_CONNECTIONS,
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )
        self._endpoint = endpoint
        self._first_deadline = first_deadline
        self._deadline = deadline
        self.retries = 0

    @property
    def deadline(self) -> float:
        """Seconds for which a request is tried again now."""
        return self._deadline if self._endpoint in _heard else self._first_deadline

    def urlopen(  # type: ignore[override]  # as in PoolManager itself
        self, method: str, url: str, redirect: bool = True, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request as `PoolManager.urlopen` does, and again where that may help."""
        return self.send(method, url, **kw)[0]

    def send(self, method: str, url: str, **kw: Any) -> tuple[urllib3.BaseHTTPResponse, int]:
        """Send a request; return the answer and how many times it was sent."""
        attempts, begun = 0, time.monotonic()

        def once() -> urllib3.BaseHTTPResponse:
            nonlocal attempts
            attempts += 1
            left = self._deadline - (time.monotonic() - begun)
            return self._once(method, url, max(left, _SHORTEST_WAIT), **kw)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient)
            | tenacity.retry_if_result(lambda answer: _may_pass(method, answer)),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=10.0),  # full jitter
            stop=self._is_over,
            before_sleep=self._before_sleep,
            retry_error_callback=_last_outcome,
        )
        return retrying(once), attempts

    def _once(
        self,
        method: str,
        url: str,
        left: float,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        preload_content: bool = True,
        **kw: Any,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request once, for `left` seconds at most; errors and lists are read here, too."""
        pace = Pace(left)
        headers = urllib3.HTTPHeaderDict(headers)
        if body:  # it goes in slices, but not in chunks
            headers["Content-Length"] = str(len(body))
        response = super().urlopen(
            method,
            url,
            redirect=False,
            retries=False,
            body=sent(body, pace) if body else body,
            timeout=urllib3.Timeout(min(_CONNECT_TIMEOUT, left), min(_READ_TIMEOUT, left)),
            headers=headers,
            preload_content=False,
            **kw,
        )
        if preload_content or response.status >= 300:
            response = _read(method, response, pace)
        if not _may_pass(method, response):
            _heard.add(self._endpoint)
        return response

    def _is_over(self, state: tenacity.RetryCallState) -> bool:
        """Tell whether the next attempt would begin after the deadline."""
        outcome = state.outcome
        assert outcome is not None
        # Who takes a connection and is silent is there, though never heard of.
        silent = outcome.failed and isinstance(outcome.exception(), http_errors.ReadTimeoutError)
        deadline = self._deadline if silent else self.deadline
        return (state.seconds_since_start or 0.0) + state.upcoming_sleep >= deadline

    def _before_sleep(self, state: tenacity.RetryCallState) -> None:
        self.retries += 1
        outcome = state.outcome
        assert outcome is not None
        if outcome.failed:
            reason = type(outcome.exception()).__name__
        else:
            reason = f"HTTP {outcome.result().status}"
        level = logging.WARNING if state.attempt_number >= 4 else logging.INFO
        # `epg status` looks for these words.
        where, count = self._endpoint, state.attempt_number
        logger.log(level, "waiting for S3 at %s: %s, trying again (%d)", where, reason, count)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed a moment later."""
    if isinstance(error, http_errors.MaxRetryError):
        return error.reason is not None and is_transient(error.reason)
    return isinstance(error, _TRANSIENT_ERRORS) and not isinstance(error, http_errors.SSLError)


def _may_pass(method: str, answer: urllib3.BaseHTTPResponse) -> bool:
    """Tell whether an answer is a server's or a gateway's that may be well a moment later.

    A 404 of S3 says so in XML, except to a HEAD; any other is of a gateway that has lost its S3.
    XML that cannot be read was damaged on the way.
    """
    if answer.status in TRANSIENT_STATUS:
        return True
    if answer.status < 400 or method == "HEAD":
        return False
    if b"<Error" not in answer.data:
        return answer.status == 404
    try:
        ElementTree.fromstring(answer.data)  # noqa: S314 - as the client does next
    except ElementTree.ParseError:
        return True
    return False


def _read(method: str, response: urllib3.BaseHTTPResponse, pace: Pace) -> urllib3.BaseHTTPResponse:
    """Return the same answer with its body, once that has come; its connection is given back."""
    return urllib3.HTTPResponse(
        collected(response, pace, _LARGEST_ANSWER),
        headers=response.headers,
        status=response.status,
        reason=response.reason,
        decode_content=False,  # it is decoded
        enforce_content_length=False,
        request_method=method,
    )


def _last_outcome(state: tenacity.RetryCallState) -> Any:
    assert state.outcome is not None
    return state.outcome.result()


class _Redact(logging.Filter):
    """Keeps presigned URLs, which are as good as a password, out of urllib3's debug log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if "X-Amz-Signature" in record.getMessage():
            record.msg, record.args = "(a request with a presigned URL)", ()
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_Redact())
