"""Create a Secret with generated values where there is none yet; one that exists is kept.

Runs in the Job set-up, with a token that may do this and nothing else. Standard library only,
so that any Python image will do.

    SECRET_NAME     name of the Secret, in the pod's own namespace
    SECRET_KEYS     key=value or key=?LENGTH (random letters and digits), separated by blanks
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import ssl
import string
import sys
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ALPHABET = string.ascii_letters + string.digits


def values(description: str) -> dict[str, str]:
    """Return the value of each key; random ones come from the system's generator."""
    found = {}
    for item in description.split():
        key, _, value = item.partition("=")
        if value.startswith("?"):
            value = "".join(secrets.choice(ALPHABET) for _ in range(int(value[1:])))
        found[key] = value
    return found


def ensure(
    connection: http.client.HTTPConnection, token: str, namespace: str, name: str, description: str
) -> str:
    """Create the Secret unless it exists.

    Returns:
        What was found or done, in words without a value.

    Raises:
        SystemExit: the API refused, or an existing Secret lacks a key; says how to mend it.
    """
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    path = f"/api/v1/namespaces/{namespace}/secrets"
    connection.request("GET", f"{path}/{name}", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    wanted = values(description)
    if answer.status == 200:
        missing = sorted(set(wanted) - set(json.loads(body).get("data") or {}))
        if missing:
            raise SystemExit(f"secret {namespace}/{name} lacks {', '.join(missing)}: add it")
        return f"secret {namespace}/{name} is there and stays as it is"
    if answer.status != 404:
        raise SystemExit(f"reading secret {namespace}/{name}: {answer.status} {answer.reason}")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "epg"}},
        "type": "Opaque",
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in wanted.items()},
    }
    connection.request("POST", path, body=json.dumps(secret), headers=headers)
    answer = connection.getresponse()
    answer.read()
    if answer.status == 409:
        return f"secret {namespace}/{name} was made by somebody else meanwhile"
    if answer.status not in (200, 201):
        raise SystemExit(f"creating secret {namespace}/{name}: {answer.status} {answer.reason}")
    return f"secret {namespace}/{name} created"


def main() -> None:
    """Run in a pod: address, token and namespace come from where Kubernetes puts them."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    port = int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    connection = http.client.HTTPSConnection(host, port, timeout=20, context=context)
    done = ensure(
        connection,
        (ACCOUNT / "token").read_text().strip(),
        (ACCOUNT / "namespace").read_text().strip(),
        os.environ["SECRET_NAME"],
        os.environ["SECRET_KEYS"],
    )
    sys.stdout.write(done + "\n")


if __name__ == "__main__":
    main()
