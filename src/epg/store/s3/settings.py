"""Where S3 is and who we are there: from the store's URI and the environment.

| Variable | Falls back to | Meaning |
|---|---|---|
| `EPG_S3_ENDPOINT` | `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, AWS | `HOST:PORT`, for `s3://` |
| `EPG_S3_ACCESS_KEY` | `AWS_ACCESS_KEY_ID` | access key |
| `EPG_S3_SECRET_KEY` | `AWS_SECRET_ACCESS_KEY` | secret key |
| `EPG_S3_SESSION_TOKEN` | `AWS_SESSION_TOKEN` | token of temporary credentials |
| `EPG_S3_REGION` | `AWS_REGION`, `AWS_DEFAULT_REGION`, `us-east-1` | region |
| `EPG_S3_SECURE` | the endpoint's scheme; false for `minio://HOST:PORT`, else true | TLS |
| `EPG_S3_DEADLINE` | 6 s at first contact, 120 s after it | how long a call is tried again |
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from epg.errors import UserError
from epg.store.keys import check_key

_AWS = "s3.amazonaws.com"
_FIRST_DEADLINE = 6.0  # seconds: a mistyped endpoint is told at once
_DEADLINE = 120.0  # seconds: a server that has answered before will come back
_SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class S3Settings:
    """All that an `S3Store` needs to know; secrets stay out of its repr."""

    uri: str  # as users write it, without credentials
    endpoint: str  # host:port, no scheme
    secure: bool
    region: str
    bucket: str
    prefix: str  # "" or a key without a slash at its end
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    first_deadline: float = _FIRST_DEADLINE
    deadline: float = _DEADLINE


def settings_from_uri(uri: str, environment: Mapping[str, str] | None = None) -> S3Settings:
    """Read `s3://BUCKET/PREFIX` or `minio://HOST:PORT/BUCKET/PREFIX` and the environment.

    Raises:
        UserError: one line that names the URI or the variable, never a secret.
    """
    env = os.environ if environment is None else environment
    scheme, mark, rest = uri.partition("://")
    if not mark:
        raise UserError(f"store URI {uri.partition(':')[0]}:...: write two slashes after the colon")
    _refuse_credentials(scheme, rest)
    if scheme == "s3":
        endpoint, by_scheme = _endpoint(env)
        secure = True if by_scheme is None else by_scheme
        bucket, _, prefix = rest.partition("/")
        form = "s3://BUCKET/PREFIX"
    else:
        endpoint, _, path = rest.partition("/")
        bucket, _, prefix = path.partition("/")
        secure = not re.search(r":\d+$", endpoint)  # a port of one's own is mostly plain HTTP
        form = "minio://HOST:PORT/BUCKET/PREFIX"
        _check_host(uri, endpoint)
    prefix = prefix.rstrip("/")
    named = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", bucket)
    if not named or ".." in bucket or re.fullmatch(r"(\d+\.){3}\d+", bucket):
        raise UserError(
            f"store URI {uri!r}: {bucket!r} is no bucket name (3 to 63 letters, digits, '.', '-'); "
            f"write {form}"
        )
    access_key, secret_key, token = _credentials(env, uri)
    first_deadline, deadline = _deadlines(env)
    return S3Settings(
        uri=f"{scheme}://{rest}".rstrip("/"),
        endpoint=endpoint,
        secure=_switch(env, "EPG_S3_SECURE", secure),
        region=_first(env, "EPG_S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1",
        bucket=bucket,
        prefix=check_key(prefix) if prefix else "",
        access_key=access_key,
        secret_key=secret_key,
        session_token=token,
        first_deadline=first_deadline,
        deadline=deadline,
    )


def _refuse_credentials(scheme: str, rest: str) -> None:
    if "@" in rest.partition("/")[0]:
        raise UserError(
            f"store URI {scheme}://...@...: credentials do not belong in a URI, which ends up in "
            "logs; set EPG_S3_ACCESS_KEY and EPG_S3_SECRET_KEY instead"
        )
    if "?" in rest or "#" in rest:
        raise UserError(
            f"store URI {scheme}://{re.split('[?#]', rest)[0]}...: it takes no '?' or '#'; "
            "endpoint, region and TLS are set by EPG_S3_ENDPOINT, EPG_S3_REGION, EPG_S3_SECURE"
        )


def _check_host(uri: str, endpoint: str) -> None:
    host = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)"
    matched = re.fullmatch(rf"{host}(:(\d{{1,5}}))?", endpoint)
    if matched is None or (matched[4] and not 0 < int(matched[4]) < 65536):
        raise UserError(
            f"store URI {uri!r}: {endpoint!r} is no HOST:PORT; "
            "write minio://HOST:PORT/BUCKET/PREFIX, such as minio://localhost:9000/models/epg"
        )
    if not matched[4] and "." not in endpoint and endpoint != "localhost":
        raise UserError(
            f"store URI {uri!r}: {endpoint!r} has no port; write minio://HOST:PORT/BUCKET/PREFIX, "
            f"or s3://{uri.partition('://')[2]} with EPG_S3_ENDPOINT set if it is a bucket"
        )


def _endpoint(env: Mapping[str, str]) -> tuple[str, bool | None]:
    name, value = next(
        (
            (name, env[name].strip())
            for name in ("EPG_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
            if env.get(name, "").strip()
        ),
        ("", _AWS),
    )
    scheme, mark, host = value.partition("://")
    if not mark:
        host, scheme = value, ""
    host = host.rstrip("/")
    port = re.search(r":([^:\]]*)$", host)
    wrong_port = port is not None and not (
        re.fullmatch(r"[0-9]{1,5}", port[1]) and 0 < int(port[1]) < 65536
    )
    wrong = "/" in host or "@" in host or not host or wrong_port
    if scheme not in ("", "http", "https") or wrong:
        shown = "a value with credentials" if "@" in host else repr(value)
        raise UserError(f"{name} is {shown}: write HOST:PORT, without path, such as minio:9000")
    return host, {"http": False, "https": True}.get(scheme)


def _credentials(env: Mapping[str, str], uri: str) -> tuple[str, str, str | None]:
    for key_name, secret_name, token_name in (
        ("EPG_S3_ACCESS_KEY", "EPG_S3_SECRET_KEY", "EPG_S3_SESSION_TOKEN"),
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    ):
        # A Secret made from a file often ends in a newline, which no server would accept.
        key, secret = env.get(key_name, "").strip(), env.get(secret_name, "").strip()
        if key and secret:
            return key, secret, env.get(token_name, "").strip() or None
        if key or secret:
            given, missing = (key_name, secret_name) if key else (secret_name, key_name)
            raise UserError(f"store {uri}: {given} is set, {missing} is not: set both")
    if env.get("KUBERNETES_SERVICE_HOST"):
        raise UserError(
            f"store {uri}: no credentials; a step takes them from the Secret that the parameter "
            "store_credentials names (keys accesskey and secretkey): make it in the namespace of "
            "the run, which `epg doctor` looks at"
        )
    raise UserError(
        f"store {uri}: no credentials; set EPG_S3_ACCESS_KEY and EPG_S3_SECRET_KEY "
        "(or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) in the environment"
    )


def _deadlines(env: Mapping[str, str]) -> tuple[float, float]:
    value = env.get("EPG_S3_DEADLINE", "").strip()
    if not value:
        return _FIRST_DEADLINE, _DEADLINE
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= 86400.0:
        raise UserError(f"EPG_S3_DEADLINE is {value!r}: a number of seconds from 0 to 86400")
    return seconds, seconds


def _switch(env: Mapping[str, str], name: str, default: bool) -> bool:
    value = env.get(name, "").strip().lower()
    if not value:
        return default
    if value not in _SWITCH:
        raise UserError(f"{name} is {value!r}: use true or false")
    return _SWITCH[value]


def _first(env: Mapping[str, str], *names: str) -> str:
    return next((env[name].strip() for name in names if env.get(name, "").strip()), "")
