"""The one layer that tries again: HTTP for the `minio` client, with a total deadline.

The client's own pool retries five times with five-minute timeouts, knows no total deadline and
does not retry a POST. This one takes its place: every request, parts of a big upload and the
creating and completing of it included, is tried again after a reset, a timeout, a 5xx, 408 or
429, with full jitter, until the deadline. A 4xx is an answer and is returned at once.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import certifi
import tenacity
import urllib3
from urllib3 import exceptions as http_errors

logger = logging.getLogger("epg.store")

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_TRANSIENT_ERRORS = (
    http_errors.ProtocolError,  # resets, bodies cut short
    http_errors.TimeoutError,
    http_errors.NewConnectionError,  # refused, unknown host: the server may be starting
)
_CONNECT_TIMEOUT = 5.0  # seconds
_READ_TIMEOUT = 30.0  # seconds without a byte
_CONNECTIONS = 8


class RetryingPool(urllib3.PoolManager):
    """A connection pool whose requests are tried again within a total deadline.

    Attributes:
        retries: how many requests were tried again so far.
    """

    def __init__(self, first_deadline: float, deadline: float) -> None:
        """Wait `first_deadline` seconds for a server never heard of, later `deadline`."""
        super().__init__(
            timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT, read=_READ_TIMEOUT),
            maxsize=_CONNECTIONS,
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )
        self._first_deadline = first_deadline
        self._deadline = deadline
        self._heard = False
        self.retries = 0

    @property
    def deadline(self) -> float:
        """Seconds for which a request is tried again now."""
        return self._deadline if self._heard else self._first_deadline

    def urlopen(  # type: ignore[override]  # as in PoolManager itself
        self, method: str, url: str, redirect: bool = True, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request as `PoolManager.urlopen` does, and again where that may help."""
        return self.send(method, url, **kw)[0]

    def send(self, method: str, url: str, **kw: Any) -> tuple[urllib3.BaseHTTPResponse, int]:
        """Send a request; return the answer and how many times it was sent."""
        attempts = 0

        def once() -> urllib3.BaseHTTPResponse:
            nonlocal attempts
            attempts += 1
            response = super(RetryingPool, self).urlopen(
                method, url, redirect=False, retries=False, **kw
            )
            self._heard = self._heard or response.status not in TRANSIENT_STATUS
            return response

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient)
            | tenacity.retry_if_result(lambda answer: answer.status in TRANSIENT_STATUS),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=10.0),  # full jitter
            stop=tenacity.stop_before_delay(self.deadline),
            before_sleep=self._before_sleep,
            retry_error_callback=_last_outcome,
        )
        return retrying(once), attempts

    def _before_sleep(self, state: tenacity.RetryCallState) -> None:
        self.retries += 1
        outcome = state.outcome
        assert outcome is not None
        if outcome.failed:
            reason = type(outcome.exception()).__name__
        else:
            outcome.result().drain_conn()  # the connection is used again
            reason = f"HTTP {outcome.result().status}"
        level = logging.WARNING if state.attempt_number >= 4 else logging.INFO
        logger.log(level, "S3: %s, trying again (%d)", reason, state.attempt_number)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed a moment later."""
    if isinstance(error, http_errors.MaxRetryError):
        return error.reason is not None and is_transient(error.reason)
    return isinstance(error, _TRANSIENT_ERRORS) and not isinstance(error, http_errors.SSLError)


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
