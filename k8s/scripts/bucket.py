"""Create the bucket of the runs if it is absent, by two plain S3 calls; then wait to be stopped.

A side container of the object store: its readiness says that the bucket is there. Requests are
signed here because its image is a public Python, pinned by digest, in which no S3 client is; the
images of ours that have one carry another name at every site.

    S3_HOST, S3_PORT            where the store answers, plain HTTP inside the pod
    S3_BUCKET, S3_REGION        what to create
    S3_ACCESS_KEY, S3_SECRET_KEY
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import http.client
import os
import signal
import sys
import time
from pathlib import Path

READY = Path("/tmp/bucket-ready")  # noqa: S108 - an emptyDir of this pod
EMPTY = hashlib.sha256(b"").hexdigest()


def signed_headers(
    method: str, host: str, path: str, region: str, access_key: str, secret_key: str
) -> dict[str, str]:
    """Return the headers of a request without a body, signed with AWS Signature Version 4."""
    now = datetime.datetime.now(datetime.UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    scope = f"{day}/{region}/s3/aws4_request"
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = (
        f"{method}\n{path}\n\nhost:{host}\nx-amz-content-sha256:{EMPTY}\nx-amz-date:{stamp}\n\n"
        f"{names}\n{EMPTY}"
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return {
        "Host": host,
        "x-amz-content-sha256": EMPTY,
        "x-amz-date": stamp,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}",
    }


def ensure(
    host: str, port: int, bucket: str, region: str, access_key: str, secret_key: str
) -> str | None:
    """Create the bucket unless it exists.

    Returns:
        What was found or done; None when the store does not answer yet.

    Raises:
        SystemExit: the store refused.
    """
    path = f"/{bucket}"
    status = 0
    for method in ("HEAD", "PUT"):
        headers = signed_headers(method, f"{host}:{port}", path, region, access_key, secret_key)
        connection = http.client.HTTPConnection(host, port, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if status == 200:
            return f"bucket {bucket} " + ("is there" if method == "HEAD" else "created")
        if status in (429, 500, 502, 503):
            return None
        if status == 409:
            return f"bucket {bucket} is there"
        if status != 404:
            break
    raise SystemExit(f"bucket {bucket}: {method} was answered with {status}")


def main() -> None:
    """Run in a pod until it is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # process 1 has no default action
    env = os.environ
    done = None
    while done is None:
        done = ensure(
            env["S3_HOST"],
            int(env["S3_PORT"]),
            env["S3_BUCKET"],
            env["S3_REGION"],
            env["S3_ACCESS_KEY"],
            env["S3_SECRET_KEY"],
        )
        if done is None:
            time.sleep(1)
    sys.stdout.write(done + "\n")
    sys.stdout.flush()
    READY.touch()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
