"""The REST API of Kubeflow Pipelines (v2beta1): the few calls that we make, errors in one line.

Plain HTTP instead of kfp's client: that one takes seconds to import, opens connections of its own
and reports an HTTP dump. Nothing is imported from kfp here.

| Variable | Meaning |
|---|---|
| `KF_PIPELINES_UI_ENDPOINT` | where the UI is, when not at the endpoint |
| `SSL_CERT_FILE` | certificate authorities of the site |
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from epg.cluster.runs.endpoint import find_endpoint, find_token
from epg.cluster.runs.refusals import Conflict, NotThere, refusal, unreachable
from epg.errors import UserError
from epg.documents import DocumentError, parse_object, shaped
from epg.store.pace import Pace, TooLargeError, collected

OLDEST_SERVER = (2, 15)  # what our platform settings (resources from parameters) ask for
_TIMEOUT = urllib3.Timeout(connect=5.0, read=30.0)  # seconds
_DEADLINE = 60.0  # seconds for one answer, however it comes
_LARGEST = 64 << 20  # bytes of one answer; a run brings its whole pipeline along
_PAGE = 100
_ERROR = (dict, str)  # its message may lie a level deeper
_DAG = {"dag": {"tasks": {"": {"taskInfo": {"name": str}}}}}
_SPEC = {"root": _DAG, "components": {"": _DAG}}
#: What is read of a run.
_RUN = {
    **dict.fromkeys(("run_id", "display_name", "state", "experiment_id"), str),
    "error": _ERROR,
    "pipeline_spec": {**_SPEC, "pipeline_spec": _SPEC},
    "run_details": {
        "task_details": [
            {**dict.fromkeys(("display_name", "start_time", "state"), str), "error": _ERROR}
        ]
    },
}
_LISTED = {
    **dict.fromkeys(("run_id", "display_name", "experiment_id", "storage_state"), str),
}
_PAGES = 500  # of one list


@dataclass(frozen=True)
class Server:
    """What the server says of itself."""

    version: str
    multi_user: bool


def is_run_id(name: str) -> bool:
    """Tell a run's id from its display name."""
    return re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) is not None


class KfpApi:
    """A Kubeflow Pipelines server."""

    def __init__(self, endpoint: str, token: str | None = None) -> None:
        """Talk to `endpoint`; the first request is made by the first call."""
        self.endpoint = endpoint
        self._token = token
        self._pool = urllib3.PoolManager(
            timeout=_TIMEOUT, retries=False, ca_certs=os.environ.get("SSL_CERT_FILE")
        )

    @classmethod
    def open(cls, endpoint: str | None, token_file: str | None = None) -> KfpApi:
        """Find endpoint and token in options and environment."""
        return cls(find_endpoint(endpoint), find_token(token_file))

    def server(self) -> Server:
        """Ask the server who it is.

        Raises:
            UserError: unreachable, not ours to use, or too old.
        """
        try:
            answer = self.call("GET", "healthz")
        except NotThere:
            answer = {}
        if not answer:
            raise UserError(
                f"{self.endpoint}: no Kubeflow Pipelines with the v2beta1 API: the server is "
                f"older than {_dotted(OLDEST_SERVER)}, or the URL is another program's"
            )
        version = str(answer.get("tag_name") or "(version not told)")
        numbers = re.match(r"v?(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_SERVER:
            raise UserError(
                f"{self.endpoint}: the server is Kubeflow Pipelines {version}, too old for this "
                f"pipeline: it needs {_dotted(OLDEST_SERVER)}, and was tried on 2.17"
            )
        return Server(version, str(answer.get("multi_user", False)).lower() == "true")

    def experiment(self, name: str, namespace: str | None) -> tuple[str, bool]:
        """Return the id of an experiment, made where absent, and whether it was made."""
        if found := self._experiment(name, namespace):
            return found, False
        body = {"display_name": name, **({"namespace": namespace} if namespace else {})}
        try:
            return self._id(self.call("POST", "experiments", body), "experiment_id"), True
        except Conflict:  # somebody else has made it just now
            if found := self._experiment(name, namespace):
                return found, False
            raise

    def _experiment(self, name: str, namespace: str | None) -> str | None:
        for found in self._list("experiments", _named(name), namespace, "experiments"):
            if found.get("display_name") == name:
                if found.get("storage_state") == "ARCHIVED":
                    raise UserError(
                        f"experiment {name!r} is archived: restore it in the UI, or choose "
                        "another by --experiment"
                    )
                return self._id(found, "experiment_id")
        return None

    def _id(self, found: Mapping[str, Any], key: str) -> str:
        if not isinstance(found.get(key), str):
            raise UserError(f"{self.endpoint}: an answer without {key}: is it Kubeflow Pipelines?")
        return str(found[key])

    def _run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = shaped(self.call("GET", f"runs/{quote(run_id, safe='')}"), _RUN)
        self._id(found, "run_id")
        return found

    def create_run(self, body: dict[str, Any]) -> dict[str, Any]:
        """Start a run."""
        made = self.call("POST", "runs", body)
        self._id(made, "run_id")
        return made

    def run(self, name: str, namespace: str | None = None) -> dict[str, Any]:
        """Return a run by its id or display name; of several, the newest.

        Raises:
            NotThere: there is none; the message names the last ones that there are.
        """
        if is_run_id(name):
            try:
                return self._run(name)
            except NotThere as error:
                raise NotThere(f"no run {name} at {self.endpoint}") from error
        for found in self._list("runs", _named(name), namespace, "runs"):
            if found.get("display_name") == name:
                return self._run(self._id(found, "run_id"))
        last = [
            str(run.get("display_name"))
            for run, _ in zip(self._list("runs", None, namespace, "runs"), range(3), strict=False)
        ]
        there = f"the last ones are {', '.join(last)}" if last else "it has no runs"
        raise NotThere(f"no run {name!r} at {self.endpoint}: {there}")

    def namespace_of(self, run: Mapping[str, Any]) -> str | None:
        """Return the namespace of a run's experiment, where the server tells it."""
        experiment = quote(str(run.get("experiment_id", "")), safe="")
        if not experiment:
            return None
        try:
            found = self.call("GET", f"experiments/{experiment}").get("namespace")
            return found if isinstance(found, str) and found else None
        except UserError:
            return None

    def link(self, run_id: str) -> str:
        """Return where the UI shows a run."""
        place = os.environ.get("KF_PIPELINES_UI_ENDPOINT", "").strip() or self.endpoint
        return f"{place.rstrip('/')}/#/runs/details/{run_id}"

    def _list(
        self, path: str, only: str | None, namespace: str | None, key: str
    ) -> Iterator[dict[str, Any]]:
        query = {"page_size": str(_PAGE), "sort_by": "created_at desc"}
        if only:
            query["filter"] = only
        if namespace:
            query["namespace"] = namespace
        for _ in range(_PAGES):
            answer = self.call("GET", f"{path}?{urlencode(query)}")
            yield from shaped(answer.get(key), [_LISTED])
            token = shaped(answer.get("next_page_token"), str)
            if not token:
                return
            if token == query.get("page_token"):
                break
            query["page_token"] = token
        raise UserError(f"{self.endpoint}: its list of {path} has no end: give an id, not a name")

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Send one request and return the JSON object of the answer.

        Raises:
            Unreachable: no answer.
            NotThere: 404.
            UserError: any other refusal, in one line.
        """
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body, allow_nan=False).encode()
        url = f"{self.endpoint}/apis/v2beta1/{path}"
        try:
            answer = self._pool.request(
                method, url, body=data, headers=headers, redirect=False, preload_content=False
            )
            received = collected(answer, Pace(_DEADLINE), _LARGEST)
        except TooLargeError as error:
            raise UserError(f"{self.endpoint}: {error}: check --endpoint") from error
        except urllib3.exceptions.HTTPError as error:
            raise unreachable(self.endpoint, error) from error
        if answer.status == 200:
            with contextlib.suppress(DocumentError):
                return parse_object(received, max_bytes=_LARGEST, nan=True)
        raise refusal(self.endpoint, answer.status, received, token=self._token is not None)

    def terminate(self, run_id: str) -> None:
        """Ask for the end of a run; its pods get the signal after 10 to 20 s."""
        self.call("POST", f"runs/{quote(run_id, safe='')}:terminate")


def _named(name: str) -> str:
    predicate = {"operation": 1, "key": "display_name", "stringValue": name}  # 1: equals
    return json.dumps({"predicates": [predicate]})


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
