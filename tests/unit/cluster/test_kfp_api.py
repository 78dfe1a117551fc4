"""Kubeflow's server as it may be: endless, slow or huge; every call ends in one line."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import pytest

from epg.cluster.runs import kfp_api
from epg.cluster.runs.kfp_api import KfpApi
from epg.cluster.runs.refusals import Unreachable
from epg.errors import UserError
from tests.toys.cluster_api import cluster_api

Behaviour = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def api() -> Iterator[Callable[[Behaviour], KfpApi]]:
    servers = []

    def start(behave: Behaviour) -> KfpApi:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    behave(self)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return KfpApi(f"http://127.0.0.1:{server.server_port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes, **headers: str) -> None:
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def test_pages_that_repeat_end(api) -> None:
    page = json.dumps({"runs": [{"display_name": "other"}], "next_page_token": "same"}).encode()
    with pytest.raises(UserError, match="its list of runs has no end: give an id"):
        api(lambda handler: answer(handler, page)).run("mine")


def test_pages_without_an_end_end(api, monkeypatch) -> None:
    monkeypatch.setattr(kfp_api, "_PAGES", 7)
    asked: list[str] = []

    def next_page(handler) -> None:
        asked.append(handler.path)
        answer(handler, json.dumps({"runs": [], "next_page_token": str(len(asked))}).encode())

    with pytest.raises(UserError, match="has no end"):
        api(next_page).run("mine")
    assert len(asked) == 7


@pytest.mark.parametrize("packed", [False, True])
def test_a_huge_answer_is_not_kept(api, packed) -> None:
    def huge(handler) -> None:
        block = bytes(1 << 20)
        if packed:
            packer = zlib.compressobj(9, zlib.DEFLATED, 31)
            data = b"".join(packer.compress(block) for _ in range(100)) + packer.flush()
            answer(handler, data, Content_Encoding="gzip")
            return
        answer(handler, b"", Content_Length=str(4 << 30))
        for _ in range(4 << 10):
            handler.wfile.write(block)

    with pytest.raises(UserError, match=r"more than 67,108,864 bytes: check --endpoint"):
        api(huge).server()


def test_an_answer_that_drips_ends(api, monkeypatch) -> None:
    monkeypatch.setattr(kfp_api, "_DEADLINE", 1.0)

    def drip(handler) -> None:
        answer(handler, b"{", Content_Length="100000")
        for _ in range(100_000):
            handler.wfile.write(b" ")
            time.sleep(0.05)

    with pytest.raises(Unreachable, match="no answer in time"):
        api(drip).server()


def test_deep_json_is_no_answer(api) -> None:
    with pytest.raises(UserError, match="is not Kubeflow Pipelines'"):
        api(lambda handler: answer(handler, b"[" * 100_000)).server()


def test_an_experiment_that_another_one_makes_meanwhile_is_used() -> None:
    with cluster_api() as stub:
        looks = 0
        usual = stub.kfp

        def racing(method, name, query, body):
            nonlocal looks
            if name == "experiments" and method == "GET":
                looks += 1
                if looks == 1:
                    return 200, {}
                return 200, {"experiments": [{"display_name": "epg", "experiment_id": "theirs"}]}
            if name == "experiments":
                return 409, {"code": 6, "message": "Already exist error"}
            return usual(method, name, query, body)

        stub.kfp = racing  # type: ignore[method-assign]
        assert KfpApi(stub.url).experiment("epg", None) == ("theirs", False)
