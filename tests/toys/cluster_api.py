"""A stand-in for a Kubeflow Pipelines server and a Kubernetes API: loopback, records requests."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

RUN_ID = "2f1c9a52-6f0b-4d3e-9a55-0c8f5a7d1e11"


class Stub:
    """What the servers answer, for a test to set, and what they were asked."""

    def __init__(self) -> None:
        self.url = ""
        self.token: str | None = None
        self.health = {"tag_name": "2.17.0", "multi_user": False}
        self.experiments: list[dict] = []
        self.runs: list[dict] = []
        self.states: list[str] = []  # the state of the run at each look; the last one stays
        self.pods: list[dict] = []
        self.workflows: list[dict] = []
        self.logs: dict[str, str] = {}
        self.nodes: list[dict] = []
        self.secrets: dict[str, dict] = {}
        self.allowed = True
        self.terminated: list[str] = []
        self.requests: list[tuple[str, str, dict, dict | None]] = []

    def sent(self, method: str, ending: str) -> list[dict | None]:
        return [b for m, path, _, b in self.requests if m == method and path.endswith(ending)]

    def kubeconfig(self, folder: Path) -> str:
        path = folder / "kubeconfig"
        named = {"name": "stub"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{**named, "cluster": {"server": self.url}}],
            "users": [{**named, "user": {"token": "t"}}],
            "contexts": [{**named, "context": {"cluster": "stub", "user": "stub"}}],
            "current-context": "stub",
        }
        path.write_text(json.dumps(content))
        return str(path)

    def answer(self, method: str, path: str, query: dict, body: dict | None, token: str):
        if path.startswith("/apis/v2beta1/"):
            name = path.removeprefix("/apis/v2beta1/")
            if self.token and token != f"Bearer {self.token}":
                return 401, {"code": 16, "message": "Request header error: there is no user"}
            return self.kfp(method, name, query, body)
        return self.kubernetes(method, path, body)

    def kfp(self, method: str, name: str, query: dict, body: dict | None):
        if name == "healthz":
            return (200, self.health) if self.health else (404, {"message": "Not Found"})
        kind, _, one = name.partition("/")
        things = {"experiments": self.experiments, "runs": self.runs}[kind]
        key = "experiment_id" if kind == "experiments" else "run_id"
        if method == "POST" and one.endswith(":terminate"):
            self.terminated.append(one.removesuffix(":terminate"))
            return 200, {}
        if method == "POST":
            new_id = f"{kind}-{len(things) + 1}" if kind == "experiments" else RUN_ID
            things.append({**(body or {}), key: new_id, "state": "PENDING"})
            return 200, things[-1]
        if not one:
            wanted = None
            if "filter" in query:
                wanted = json.loads(query["filter"][0])["predicates"][0]["stringValue"]
            return 200, {kind: [x for x in things if wanted in (None, x["display_name"])]}
        found = next((x for x in things if x[key] == one), None)
        if found is None:
            return 404, {"code": 5, "message": f"{kind} {one} not found"}
        if kind == "runs" and self.states:
            found["state"] = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return 200, found

    def kubernetes(self, method: str, path: str, body: dict | None):
        if method == "POST" and path.endswith("selfsubjectaccessreviews"):
            return 201, {**(body or {}), "status": {"allowed": self.allowed}}
        if path.endswith("/log"):
            return 200, self.logs[path.split("/")[-2]]
        if path.endswith("/pods"):
            return 200, {"kind": "PodList", "items": self.pods}
        if path.endswith("/workflows"):
            return 200, {"kind": "WorkflowList", "items": self.workflows}
        if path.endswith("/nodes"):
            return 200, {"kind": "NodeList", "items": self.nodes}
        if "/secrets/" in path and (secret := self.secrets.get(path.rsplit("/", 1)[1])):
            return 200, {"kind": "Secret", "data": secret}
        return 404, {"kind": "Status", "code": 404, "reason": "NotFound"}


def pod(name: str, step: str, status: dict, **more) -> dict:
    annotations = {
        "workflows.argoproj.io/node-name": f"wf-1.root.stages.{step}.executor",
        "pipelines.kubeflow.org/runtime-role": "launcher",
    }
    labels = {"pipeline/runid": RUN_ID}
    metadata = {"name": name, "namespace": "kubeflow", "labels": labels, "annotations": annotations}
    main = {"name": "main", "image": "example/epg:none"}
    return {"metadata": metadata, "spec": {"containers": [main]}, "status": status, **more}


def main_container(state: dict) -> dict:
    return {
        "name": "main",
        "image": "example/epg:none",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }


def waiting(reason: str, message: str) -> dict:
    main = main_container({"waiting": {"reason": reason, "message": message}})
    return {"phase": "Pending", "containerStatuses": [main]}


def ended(code: int, reason: str = "Error", message: str = "", **more: str) -> dict:
    end = {"exitCode": code, "reason": reason, "message": message}
    return {
        "phase": "Failed",
        "containerStatuses": [main_container({"terminated": end})],
        **more,
    }


@contextlib.contextmanager
def cluster_api() -> Iterator[Stub]:
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            query = parse_qs(parts.query)
            stub.requests.append((self.command, parts.path, query, body))
            token = self.headers.get("authorization", "")
            status, answer = stub.answer(self.command, parts.path, query, body, token)
            text = isinstance(answer, str)
            data = (answer if text else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if text else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_any  # noqa: N815 - http.server's names

        def log_message(self, *arguments) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
