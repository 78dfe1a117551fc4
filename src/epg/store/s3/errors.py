"""What went wrong with S3, in one line: endpoint, bucket, action, and what to do about it."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from time import time
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3 import BaseHTTPResponse
from urllib3 import exceptions as http_errors

from epg.errors import UserError
from epg.store.pace import TooLargeError, TooSlowError
from epg.store.s3.settings import S3Settings

#: Everything that a call of the `minio` client may end with because of server or network.
FAILURES = (MinioException, http_errors.HTTPError, ParseError)
#: How the client takes an answer that is no S3 answer at all.
NOT_S3 = (ParseError, ValueError)

_CREDENTIALS = (
    "set EPG_S3_ACCESS_KEY and EPG_S3_SECRET_KEY to a valid pair (in a cluster: the Secret that "
    "store_credentials names)"
)
_REGION = "set EPG_S3_REGION to the bucket's region"
_ADVICE = {
    "InvalidAccessKeyId": f"wrong credentials (unknown access key): {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"wrong credentials (the secret key does not match): {_CREDENTIALS}",
    "ExpiredToken": "the session token has expired: get new credentials",
    "InvalidToken": "the session token is not valid: get new credentials",
    "AccessDenied": (
        "access denied: these credentials have no right to it, or are wrong; "
        f"{_CREDENTIALS}, or ask the bucket's owner"
    ),
    "InvalidBucketName": "the server does not accept this bucket name: choose another one",
    "AuthorizationHeaderMalformed": f"the region is wrong: {_REGION}",
    "PermanentRedirect": f"the bucket lies in another region or at another endpoint: {_REGION}",
    "NotImplemented": "the server cannot do this: use one that has the core S3 calls",
    "XMinioStorageFull": "the server's disk is full: free space there",
    "XMinioAdminBucketQuotaExceeded": "the bucket's quota is used up: free space in it",
}


def explain(error: Exception, settings: S3Settings, action: str) -> UserError:
    """Say in one line what failed, where, and what to do; no key and no signed URL is in it.

    Args:
        error: what the client raised.
        settings: where it happened.
        action: what was tried, such as `read stages/pretrain.json`.
    """
    scheme = "https" if settings.secure else "http"
    where = f"S3 at {scheme}://{settings.endpoint}, bucket {settings.bucket!r}: cannot {action}"
    return UserError(f"{where}: {_reason(error, settings)}")


def code_of(error: Exception) -> str:
    """Return the S3 error code, such as `NoSuchKey`, or an empty string."""
    return (error.code or "") if isinstance(error, S3Error) else ""


def answer_error(response: BaseHTTPResponse) -> Exception:
    """Return the error that an answer to a request of our own (not the client's) stands for."""
    if response.data.lstrip().startswith(b"<?xml") or b"<Error>" in response.data:
        return S3Error.fromxml(response)
    return ServerError(f"HTTP {response.status}", response.status)


def _reason(error: Exception, settings: S3Settings) -> str:
    if isinstance(error, S3Error):
        return _answered(error, settings)
    if isinstance(error, (InvalidResponseError, ServerError, *NOT_S3)):
        return _not_s3(error, settings)
    if isinstance(error, http_errors.MaxRetryError) and error.reason is not None:
        error = error.reason
    if isinstance(error, TooLargeError):
        return f"the server gives {error}: check the endpoint"
    if isinstance(error, TooSlowError):
        return (
            f"it takes too long ({error}): check the server and the network, then run the same "
            "command again (EPG_S3_DEADLINE is the seconds that are waited)"
        )
    if isinstance(error, http_errors.SSLError):
        if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER" in str(error):
            return "the server speaks plain HTTP there: set EPG_S3_SECURE=false"
        return (
            "its TLS certificate is not trusted: set SSL_CERT_FILE to the CA's certificate "
            "(or EPG_S3_SECURE=false for plain HTTP)"
        )
    if isinstance(error, http_errors.NameResolutionError):
        return "the host name is unknown: check the endpoint (EPG_S3_ENDPOINT or the store URI)"
    if isinstance(error, http_errors.NewConnectionError | http_errors.ConnectTimeoutError):
        return (
            "no connection: check that the server runs and that the endpoint "
            "(EPG_S3_ENDPOINT or the store URI) is right"
        )
    if isinstance(error, http_errors.TimeoutError):
        return "no answer in time: check the server, then run the same command again"
    return (
        "the connection broke again and again: check the server and the network, "
        "then run the same command again"
    )


def _answered(error: S3Error, settings: S3Settings) -> str:
    code = error.code or "an error"
    status = error.response.status
    if code == "NoSuchBucket":
        return f"the bucket does not exist: create it ({settings.bucket}) or correct the store URI"
    if code == "RequestTimeTooSkewed":
        return f"this machine's clock is wrong{_skew(error.response)}: set it (NTP)"
    if code in _ADVICE:
        return f"{_ADVICE[code]} ({status} {code})"
    if status in (401, 403):
        return f"{_ADVICE['AccessDenied']} ({status} {code})"
    if status >= 500:
        return f"the server answers {status} {code}: look at it, then run the same command again"
    return f"the server answers {status} {code}"


def _not_s3(error: Exception, settings: S3Settings) -> str:
    if isinstance(error, ServerError):
        status = error.status_code
    else:
        status = int(getattr(error, "_code", 200))  # the client tells it in no other way
    if status >= 500:
        return f"the server answers {status}: look at it, then run the same command again"
    if status in (401, 403):
        return f"{_ADVICE['AccessDenied']} ({status})"
    tls = "EPG_S3_SECURE=true if it speaks TLS, " if not settings.secure else ""
    return (
        f"the answer ({status}) is not S3's: check the endpoint ({tls}"
        "and MinIO's console has another port than its API)"
    )


def _skew(response: BaseHTTPResponse) -> str:
    try:
        server = parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return ""
    return f" by about {abs(time() - server):.0f} s"
