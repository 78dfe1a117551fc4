"""Create the bucket of the runs, and a user of MinIO who may use it alone; wait to be stopped.

A side container of the object store: its readiness says that both are there. Requests are signed
here because its image is a public Python, pinned by digest, in which no S3 client is; the images
of ours that have one carry another name at every site.

    S3_HOST, S3_PORT                    where the store answers, plain HTTP inside the pod
    S3_BUCKET, S3_REGION                what to create
    S3_ACCESS_KEY, S3_SECRET_KEY        the administrator's
    S3_USER_ACCESS_KEY, S3_USER_SECRET_KEY  of the user; where they are not set, none is made
"""

from __future__ import annotations

import ctypes
import datetime
import hashlib
import hmac
import http.client
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

READY = Path("/tmp/bucket-ready")  # noqa: S108 - an emptyDir of this pod
POLICY = "epg-runs"
BUSY = (429, 500, 502, 503)
#: What steps do; nothing of other buckets, users or settings.
BUCKET_ACTIONS = ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"]
OBJECT_ACTIONS = [
    *("s3:GetObject", "s3:PutObject", "s3:DeleteObject"),
    *("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"),
]


def signed_headers(
    method: str,
    host: str,
    path: str,
    region: str,
    access_key: str,
    secret_key: str,
    query: str = "",
    body: bytes = b"",
) -> dict[str, str]:
    """Return the headers of a request, signed with AWS Signature Version 4.

    The query's names are sorted, and its values percent-encoded.
    """
    content = hashlib.sha256(body).hexdigest()
    now = datetime.datetime.now(datetime.UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    scope = f"{day}/{region}/s3/aws4_request"
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = (
        f"{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{content}\n"
        f"x-amz-date:{stamp}\n\n{names}\n{content}"
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return {
        "Host": host,
        "x-amz-content-sha256": content,
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
        if status in BUSY:
            return None
        if status == 409:
            return f"bucket {bucket} is there"
        if status != 404:
            break
    raise SystemExit(f"bucket {bucket}: {method} was answered with {status}")


def policy_of(bucket: str) -> bytes:
    """Return the policy that opens one bucket, as JSON."""
    statements = [
        {"Effect": "Allow", "Action": BUCKET_ACTIONS, "Resource": [f"arn:aws:s3:::{bucket}"]},
        {"Effect": "Allow", "Action": OBJECT_ACTIONS, "Resource": [f"arn:aws:s3:::{bucket}/*"]},
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}).encode()


def sealed(data: bytes, secret: str) -> bytes:
    """Return data of at most 16 KiB as MinIO's administration wants what is secret.

    A salt (32 bytes), the number of the method (2: PBKDF2 and AES-256-GCM), a nonce (8 bytes) and
    the one piece that is the last; the authenticated header is a tag over nothing.
    """
    salt, nonce = secrets.token_bytes(32), secrets.token_bytes(8)
    key = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, 8192, 32)
    header = aes_gcm(key, nonce + bytes(4), b"", b"")
    piece = aes_gcm(key, nonce + (1).to_bytes(4, "little"), data, b"\x80" + header)
    return salt + b"\x02" + nonce + piece


def aes_gcm(key: bytes, nonce: bytes, data: bytes, header: bytes) -> bytes:
    """Encrypt with AES-256-GCM by OpenSSL, which Python's own `ssl` uses; the tag is at the end.

    Raises:
        RuntimeError: OpenSSL refused.
    """
    crypto = ctypes.CDLL("libcrypto.so.3")
    for name in ("EVP_CIPHER_CTX_new", "EVP_aes_256_gcm"):
        getattr(crypto, name).restype = ctypes.c_void_p
    context, count = ctypes.c_void_p(crypto.EVP_CIPHER_CTX_new()), ctypes.c_int()
    output, tag = ctypes.create_string_buffer(len(data) + 16), ctypes.create_string_buffer(16)
    cipher, update = ctypes.c_void_p(crypto.EVP_aes_256_gcm()), crypto.EVP_EncryptUpdate
    length = ctypes.byref(count)
    steps = (
        lambda: crypto.EVP_EncryptInit_ex(context, cipher, None, key, nonce),
        lambda: not header or update(context, None, length, header, len(header)),
        lambda: not data or update(context, output, length, data, len(data)),
        lambda: crypto.EVP_EncryptFinal_ex(context, tag, length),
        lambda: crypto.EVP_CIPHER_CTX_ctrl(context, 0x10, 16, tag),  # EVP_CTRL_GCM_GET_TAG
    )
    try:
        if not all(step() for step in steps):
            raise RuntimeError("OpenSSL refused AES-256-GCM")
    finally:
        crypto.EVP_CIPHER_CTX_free(context)
    return output.raw[: len(data)] + tag.raw


def ensure_user(
    host: str,
    port: int,
    bucket: str,
    region: str,
    admin: tuple[str, str],
    user: tuple[str, str],
) -> str | None:
    """Give a user the one bucket; what is there already becomes the same again.

    Args:
        host: of the store.
        port: of the store.
        bucket: the one.
        region: of the store.
        admin: access and secret key of the administrator.
        user: access and secret key of the user.

    Returns:
        What was done; None when the store does not answer yet.

    Raises:
        SystemExit: the store refused.
    """
    name = quote(user[0], safe="")
    content = json.dumps({"secretKey": user[1], "status": "enabled"}).encode()
    calls = (
        ("add-canned-policy", f"name={POLICY}", policy_of(bucket)),
        ("add-user", f"accessKey={name}", sealed(content, admin[1])),
        (
            "set-user-or-group-policy",
            f"isGroup=false&policyName={POLICY}&userOrGroup={name}",
            b"",
        ),
    )
    for call, query, body in calls:
        path = f"/minio/admin/v3/{call}"
        headers = signed_headers("PUT", f"{host}:{port}", path, region, *admin, query, body)
        connection = http.client.HTTPConnection(host, port, timeout=10)
        try:
            connection.request("PUT", f"{path}?{query}", body, headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if status in BUSY:
            return None
        if status not in (200, 204):
            raise SystemExit(f"user of bucket {bucket}: {call} was answered with {status}")
    return f"its user may use bucket {bucket} alone"


def waited_for(attempt: Callable[[], str | None]) -> None:
    """Try again every second while the store does not answer; say what was done."""
    while (done := attempt()) is None:
        time.sleep(1)
    sys.stdout.write(done + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run in a pod until it is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # process 1 has no default action
    env = os.environ
    place = env["S3_HOST"], int(env["S3_PORT"]), env["S3_BUCKET"], env["S3_REGION"]
    admin = env["S3_ACCESS_KEY"], env["S3_SECRET_KEY"]
    waited_for(lambda: ensure(*place, *admin))
    if env.get("S3_USER_ACCESS_KEY"):
        user = env["S3_USER_ACCESS_KEY"], env["S3_USER_SECRET_KEY"]
        waited_for(lambda: ensure_user(*place, admin, user))
    READY.touch()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
