"""Where Kubeflow Pipelines is, and the token for it: from options, environment or pod.

| Variable | Meaning |
|---|---|
| `EPG_KFP_ENDPOINT`, `KFP_ENDPOINT`, `KF_PIPELINES_ENDPOINT` | the server, where no `--endpoint` |
| `KFP_EXISTING_TOKEN` | bearer token, where no `--token-file` |
| `KF_PIPELINES_SA_TOKEN_PATH` | file with the token, as inside a pod |
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from epg.errors import UserError

FORWARD = "kubectl -n kubeflow port-forward svc/ml-pipeline 8888:8888"
_ENDPOINTS = ("EPG_KFP_ENDPOINT", "KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")
_POD_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 - a path


def find_endpoint(option: str | None, environment: Mapping[str, str] | None = None) -> str:
    """Return the server's URL, from the option or the environment.

    Raises:
        UserError: there is none, or it is no URL.
    """
    env = os.environ if environment is None else environment
    given = option or next((env[name] for name in _ENDPOINTS if env.get(name, "").strip()), "")
    given = given.strip()
    given = given if given.endswith("://") else given.rstrip("/")
    if not given:
        raise UserError(
            "no Kubeflow Pipelines endpoint: give --endpoint URL or set EPG_KFP_ENDPOINT, "
            f"e.g. http://127.0.0.1:8888 beside `{FORWARD}`"
        )
    if "://" not in given:
        local = re.match(r"(localhost|127\.0\.0\.1|\[::1\])(:|/|$)", given)
        given = f"{'http' if local else 'https'}://{given}"  # https as in kfp
    parts = urlsplit(given)
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in parts.netloc or "#" in given or "?" in given:
        shown = re.sub(r"//[^/]*@", "//...@", given)
        raise UserError(f"endpoint {shown}: write http://HOST:PORT or https://HOST/PATH")
    return given


def has_endpoint(option: str | None) -> bool:
    """Tell whether somebody has named a server."""
    return bool(option) or any(os.environ.get(name, "").strip() for name in _ENDPOINTS)


def find_token(file: str | None, environment: Mapping[str, str] | None = None) -> str | None:
    """Return the bearer token of a file, of the environment or of the pod that this runs in.

    Raises:
        UserError: the file cannot be read or holds no token.
    """
    env = os.environ if environment is None else environment
    if file is None:
        if token := env.get("KFP_EXISTING_TOKEN", "").strip():
            return token
        file = env.get("KF_PIPELINES_SA_TOKEN_PATH", _POD_TOKEN)
        if not Path(file).is_file():
            return None
    try:
        token = Path(file).expanduser().read_text(encoding="ascii").strip()
    except OSError as error:
        raise UserError(f"token file {file}: {error.strerror}") from error
    except UnicodeDecodeError:
        token = ""
    if not token or len(token.split()) != 1:
        raise UserError(f"token file {file}: it should hold one token and nothing else")
    return token
