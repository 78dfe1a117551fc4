from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epg.errors import UserError
from epg.store import files, open_store
from epg.store.base import ObjectNotFound
from epg.store.keys import PART_PREFIX
from epg.store.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "runs")


def test_open_store_takes_paths_and_file_uris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_store(f"{tmp_path}/a b").uri == f"{tmp_path}/a b"
    assert open_store(f"file://{tmp_path}/a%20b").uri == f"{tmp_path}/a b"
    monkeypatch.chdir(tmp_path)
    assert open_store("runs").uri == f"{Path.cwd()}/runs"
    assert open_store("~/runs").uri == f"{Path.home()}/runs"
    assert not (tmp_path / "runs").exists(), "opening makes nothing"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "it is empty"),
        ("ftp://host/x", "unknown scheme"),
        ("gs://user:secret@bucket", r"^store URI gs://\.\.\.: unknown scheme; give a folder, "),
        ("file://host/x", "write three slashes"),
        ("file:///x?a=b", "write '[?]' as %3F"),
        ("s3:/bucket", "write two slashes"),
    ],
)
def test_bad_uris(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_store(uri)
    assert "secret" not in str(caught.value)


def test_nothing_but_the_object_is_left(store: LocalStore, tmp_path: Path) -> None:
    store.put_bytes("a/b", b"1")
    store.put_bytes("a/b", b"2", if_absent=False)
    assert [p.name for p in (tmp_path / "runs" / "a").iterdir()] == ["b"]
    assert store.path("a/b") == tmp_path / "runs" / "a" / "b"


def test_a_failed_put_leaves_the_old_object(store: LocalStore, tmp_path: Path) -> None:
    store.put_bytes("a", b"old")

    def broken(file: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(store.path("a"), broken)
    assert store.get_bytes("a") == b"old"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["a"]


def test_unfinished_files_are_no_objects_and_are_swept(store: LocalStore, tmp_path: Path) -> None:
    store.put_bytes("a", b"1")
    for name, age in (("old", 7200), ("young", 10)):
        part = tmp_path / "runs" / f".epg-part-{name}"
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age,) * 2)
    assert [info.key for info in store.list()] == ["a"]
    LocalStore(tmp_path / "runs").put_bytes("b", b"2")
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [".epg-part-young", "a", "b"]


def test_if_absent_where_there_are_no_hard_links(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", no_links)
    store.put_bytes("a", b"1", if_absent=True)
    with pytest.raises(UserError, match="exists already"):
        store.put_bytes("a", b"2", if_absent=True)
    assert not files._link_under_lock(store.path("a"), store.path("a"))
    assert store.get_bytes("a") == b"1"


def test_the_umask_decides_who_reads(store: LocalStore) -> None:
    previous = os.umask(0o027)
    try:
        store.put_bytes("a", b"1")
    finally:
        os.umask(previous)
    assert store.path("a").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_vanishes_is_made_again(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    real = Path.mkdir

    def removed_at_once(path: Path, *args: Any, **kwargs: Any) -> None:
        real(path, *args, **kwargs)
        if path.name == "folder" and not made:
            made.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", removed_at_once)
    store.put_bytes("folder/a", b"1")
    assert made
    assert store.get_bytes("folder/a") == b"1"


def test_clearing_a_folder_takes_what_a_killed_writer_left(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    torn = tmp_path / "run" / "step-1"
    torn.mkdir(parents=True)
    (torn / f"{PART_PREFIX}00").write_bytes(b"half")
    store.clear("run")
    assert not (tmp_path / "run").exists()


def test_one_read_fills_several_targets(tmp_path):
    store = LocalStore(tmp_path)
    store.put_bytes("a", bytes(range(100)))
    first, second = bytearray(3), np.zeros((2, 5), np.uint8)
    assert store.read_apart("a", 10, [memoryview(first), second.data]) == 13
    assert list(first) == [10, 11, 12]
    assert second.tolist() == [[13, 14, 15, 16, 17], [18, 19, 20, 21, 22]]
    assert store.read_apart("a", 95, [memoryview(first), second.data]) == 5
    with pytest.raises(ObjectNotFound, match="no object b in"):
        store.read_apart("b", 0, [memoryview(first)])
