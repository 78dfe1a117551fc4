"""Garbage in any stored object, reply or file ends as one line and exit code 2, or does nothing.

Never: another exception than ours, a hang, a write outside the object's place, a process started,
or a control character on its way to the terminal. `make fuzz` tries a thousand inputs of each kind.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import numpy as np
import pytest
import urllib3

from epg.cli.guarded import guarded
from epg.data.arrays import read_npz
from epg.documents import DocumentError
from epg.errors import UserError
from tests.fuzz.mutation import mutated
from tests.fuzz.stored import IMAGES, KINDS, Kind

INPUTS = 1_000 if os.environ.get("EPG_TEST_FUZZ") else 30  # of each kind
HANG_SECONDS = 20.0  # of this process's time
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.chmod")
STARTS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class")

_watched: list[Callable[[str, tuple[Any, ...]], None]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    for watch in _watched:
        watch(event, arguments)


sys.addaudithook(_audit)  # for ever: it cannot be taken away


class Watch:
    """What was done besides reading: writes outside a folder, processes, unpickling."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = str(folder), list[str]()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS:
            self.seen.append(f"{event} {arguments!r}"[:200])
        paths: tuple[Any, ...] = ()
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
            paths = arguments[:1]
        elif event in CHANGES:
            paths = arguments[: 2 if event in CHANGES[:3] else 1]
        for path in paths:
            if isinstance(path, str | bytes):
                place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - as the system has it
                if not place.startswith((self.folder, "/dev/", "/proc/")):
                    self.seen.append(f"{event} {place}")


@pytest.fixture
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    seen = Watch(tmp_path_factory.getbasetemp())

    def hang(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"more than {HANG_SECONDS} s at {frame}")

    before = signal.signal(signal.SIGPROF, hang)
    _watched.append(seen)
    try:
        yield seen
    finally:
        _watched.remove(seen)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def tried(read: Callable[[bytes], Any], data: bytes, capsys: pytest.CaptureFixture[str]) -> int:
    """Read garbage as a command would; return its exit code, 0 or 2."""

    def command() -> int:
        try:
            read(data)
        except DocumentError as error:  # whose callers name the object
            raise UserError(f"the object: {error}") from error
        return 0

    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
    code = guarded(command, debug=False)
    signal.setitimer(signal.ITIMER_PROF, 0)
    out, err = capsys.readouterr()
    assert code in (0, 2), f"{err} of {data[:300]!r}"
    assert err.count("\n") == (code == 2), f"{err!r} of {data[:300]!r}"
    foreign = [c for c in out + err if not c.isprintable() and c != "\n"]
    assert not foreign, f"{foreign} of {data[:300]!r}"
    return code


@pytest.mark.parametrize("name", KINDS)
def test_garbage_in_a_stored_object(
    stored: dict[str, Kind],
    name: str,
    watch: Watch,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, Any], None],
) -> None:
    kind, random = stored[name], Random(name)
    codes = [tried(kind.read, mutated(random, kind.content), capsys) for _ in range(INPUTS)]
    assert not watch.seen
    assert codes.count(2) > 0 or name == "lease"  # garbage is nobody's lease
    record_property(name, f"{INPUTS} inputs, {codes.count(2)} refused in one line")


def packed(random: Random) -> bytes:
    """A `.npz` that is none, holds what it should not, or claims to be large."""
    labels: Any = np.arange(2)
    images: Any = IMAGES
    kind = random.randrange(8)
    if kind == 0:
        images = np.array([{"a": 1}, None], dtype=object)
    elif kind == 1:
        labels = np.array(["x"] * 2)
    elif kind == 2:
        images = images[..., 0] if random.random() < 0.5 else images[:1]
    elif kind == 3:
        images = np.zeros((2, 0, 8, 1), np.uint8)
    buffer = io.BytesIO()
    (np.savez if random.random() < 0.5 else np.savez_compressed)(buffer, arr_0=images, arr_1=labels)
    data = buffer.getvalue()
    if kind == 4:
        return data.replace(b"(2, 2, 2, 1)", b"(2,9**9,2,1)")
    if kind == 5:
        return data.replace(b"(2, 2, 2, 1)", b"(2,99999999)")
    return data if kind < 4 else mutated(random, data)


def test_garbage_in_samples(
    watch: Watch,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, Any], None],
) -> None:
    from epg.stages.findings import _images

    def read(data: bytes) -> None:
        try:
            _images(read_npz(io.BytesIO(data), 1_000_000))
        except (ValueError, KeyError) as error:  # as the report takes them
            raise UserError(f"samples: cannot be read ({error})") from error

    random = Random("samples")
    codes = [tried(read, packed(random), capsys) for _ in range(INPUTS)]
    assert not watch.seen
    assert 2 in codes
    record_property("samples", f"{INPUTS} inputs, {codes.count(2)} refused in one line")


TASKS = {"shard": {"taskInfo": {"name": "shard"}}, "condition-1": {"taskInfo": {"name": "c"}}}
RUN_ID = "11111111-2222-3333-4444-555555555555"
RUN = {
    "run_id": RUN_ID,
    "display_name": "smoke-x",
    "experiment_id": "e1",
    "state": "FAILED",
    "error": {"code": 2, "message": "\x1b]0;owned\x07\x1b[2Jrun succeeded"},
    "pipeline_spec": {"pipeline_spec": {"root": {"dag": {"tasks": TASKS}}, "components": {}}},
    "run_details": {
        "task_details": [
            {"display_name": "shard", "state": "SUCCEEDED", "start_time": "2026-01-01T00:00:00Z"},
            {"display_name": "pretrain\x1b[31m", "state": "FAILED", "error": {"message": "x\ny"}},
        ]
    },
}
REPLIES = {
    f"runs/{RUN_ID}": RUN,
    "runs?": {"runs": [RUN], "total_size": 1},
    "experiments/": {"experiment_id": "e1", "namespace": "kubeflow"},
}


class Server:
    """Stands for the connections to Kubeflow: one answer is garbage, the others are good."""

    def __init__(self, random: Random) -> None:
        self._random, self._bad = random, random.choice(list(REPLIES))

    def request(self, method: str, url: str, **_: Any) -> Any:
        """Answer."""
        name = next(name for name in REPLIES if f"/v2beta1/{name}" in url)
        data, status = json.dumps(REPLIES[name]).encode(), 200
        if name == self._bad:
            data = mutated(self._random, data)
            status = self._random.choice((200,) * 9 + (401, 404, 500, 503))
            self._bad = ""  # once: pages without end are another matter
        return urllib3.HTTPResponse(io.BytesIO(data), status=status, preload_content=False)


@pytest.mark.parametrize("name", ["smoke-x", RUN_ID])
def test_garbage_in_replies(
    watch: Watch,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, Any], None],
    name: str,
) -> None:
    from epg.cluster.runs import kfp_api
    from epg.cluster.runs.pods import Unseen
    from epg.cluster.runs.status import status

    def unseen(*_: object) -> None:
        raise Unseen("no way to the cluster")

    monkeypatch.setattr("epg.cluster.runs.status.connect", unseen)
    random = Random(name)

    def read(_: bytes) -> None:
        monkeypatch.setattr(kfp_api.urllib3, "PoolManager", lambda **_: Server(random))
        where = {"endpoint": "http://kfp", "namespace": None, "kubeconfig": None}
        status(name, token_file=None, **where)

    codes = [tried(read, b"", capsys) for _ in range(INPUTS)]
    assert not watch.seen
    assert set(codes) == {0, 2}
    record_property(f"replies, by {name}", f"{INPUTS} inputs, {codes.count(2)} refused in one line")
