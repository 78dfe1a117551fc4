"""One suite for every kind of store: local files, moto's S3, a real MinIO where there is one."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from epg.errors import UserError
from epg.store import ObjectExists, ObjectInfo, ObjectNotFound, Store, open_store
from epg.store.s3.client import S3Store
from tests.s3_server import S3Server, minio_server, moto_server

KINDS = [
    "local",
    pytest.param("moto", marks=pytest.mark.s3),
    pytest.param("minio", marks=pytest.mark.s3),
]
BUCKET = "epg-test"


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[S3Server | None]:
    if request.param == "local":
        yield None
        return
    with moto_server() if request.param == "moto" else minio_server() as running:
        running.make_bucket(BUCKET)
        yield running


@pytest.fixture
def store(
    server: S3Server | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    if server is None:
        yield open_store(str(tmp_path / "runs"))
        return
    server.set_environment(monkeypatch)
    yield open_store(server.store_uri(f"{BUCKET}/{tmp_path.name}"))


def test_what_was_put_is_got(store: Store) -> None:
    store.put_bytes("stages/a.json", b"one")
    store.put_bytes("stages/a.json", b"second")
    assert store.get_bytes("stages/a.json") == b"second"
    assert store.size("stages/a.json") == 6


def test_empty_object(store: Store, tmp_path: Path) -> None:
    store.put_bytes("empty", b"")
    assert store.get_bytes("empty") == b""
    assert store.size("empty") == 0
    with store.open("empty") as file:
        assert file.read() == b""
    store.get_file("empty", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b""


def test_missing_object(store: Store, tmp_path: Path) -> None:
    assert store.size("nothing/here") is None
    with pytest.raises(ObjectNotFound, match=r"^no object nothing/here in .*[^/]$"):
        store.get_bytes("nothing/here")
    with pytest.raises(ObjectNotFound), store.open("nothing/here") as file:
        file.read()
    with pytest.raises(ObjectNotFound):
        store.get_file("nothing/here", tmp_path / "got")
    assert list(tmp_path.glob("got*")) == []
    store.delete("nothing/here")


def test_a_part_of_an_object(store: Store) -> None:
    store.put_bytes("a/b", bytes(range(100)))
    assert store.get_range("a/b", 0, 5) == bytes(range(5))
    assert store.get_range("a/b", 90, 5) == bytes(range(90, 95))
    assert store.get_range("a/b", 95, 50) == bytes(range(95, 100))
    assert store.get_range("a/b", 3, 0) == b""
    with pytest.raises(ObjectNotFound):
        store.get_range("a/c", 0, 5)


def test_an_object_that_is_written_again_has_another_version(store: Store) -> None:
    versions = []
    for content in (b"one", b"two"):
        store.put_bytes("same", content)
        versions += [info.version for info in store.list("same")]
    assert len(set(versions)) == 2


def test_a_folder_is_no_object(store: Store) -> None:
    store.put_bytes("folder/a", b"1")
    assert store.size("folder") is None
    with pytest.raises(ObjectNotFound):
        store.get_bytes("folder")
    store.delete("folder")
    assert store.get_bytes("folder/a") == b"1"


def test_put_if_absent(store: Store) -> None:
    store.put_bytes("v1/claim", b"mine", if_absent=True)
    with pytest.raises(ObjectExists, match=r"^object v1/claim exists already in "):
        store.put_bytes("v1/claim", b"yours", if_absent=True)
    assert store.get_bytes("v1/claim") == b"mine"
    store.delete("v1/claim")
    store.put_bytes("v1/claim", b"yours", if_absent=True)
    assert store.get_bytes("v1/claim") == b"yours"


def test_of_many_claims_one_succeeds(store: Store) -> None:
    start, won = threading.Barrier(6), []

    def claim(number: int) -> None:
        start.wait()
        with contextlib.suppress(ObjectExists):
            store.put_bytes("claim", b"%d" % number, if_absent=True)
            won.append(number)

    threads = [threading.Thread(target=claim, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get_bytes("claim") == b"%d" % won[0]


def test_files_travel_both_ways(store: Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096 * 3 + b"end"  # 3 MiB and a bit: more than one piece
    (tmp_path / "source").write_bytes(data)
    store.put_file("deep/er/shard.tar", tmp_path / "source")
    store.get_file("deep/er/shard.tar", tmp_path / "new folder" / "copy")
    assert (tmp_path / "new folder" / "copy").read_bytes() == data
    assert store.size("deep/er/shard.tar") == len(data)
    with store.open("deep/er/shard.tar") as file:
        assert file.read(10) == data[:10]
        assert file.read(2_000_000) == data[10:2_000_010]
        assert file.read() == data[2_000_010:]
    with store.open("deep/er/shard.tar") as file:
        file.read(1)  # closed in the middle: the next call works all the same
    assert store.get_bytes("deep/er/shard.tar") == data


def test_a_big_file_travels_in_parts(store: Store, tmp_path: Path) -> None:
    data = b"0123456789abcdef" * (1 << 20) + b"tail"  # 16 MiB + 4 bytes: two parts on S3
    (tmp_path / "big").write_bytes(data)
    store.put_file("big", tmp_path / "big")
    assert store.size("big") == len(data)
    store.get_file("big", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


def test_list_is_sorted_by_key(store: Store) -> None:
    keys = ["b/2", "b-1", "b/10", "a", "b.json", "b/1/x", "ü"]
    for key in keys:
        store.put_bytes(key, key.encode())
    assert [info.key for info in store.list()] == sorted(keys)
    assert list(store.list("b/1")) == [ObjectInfo("b/1/x", 5), ObjectInfo("b/10", 4)]
    assert [info.key for info in store.list("b/")] == ["b/1/x", "b/10", "b/2"]
    assert list(store.list("c")) == []
    assert list(store.list("c/d/")) == []


def test_list_of_more_than_one_page(server: S3Server | None, store: Store) -> None:
    if server is None:
        pytest.skip("a folder has no pages")
    keys = [f"many/{number:04d}" for number in range(1005)]
    if server.access_key == "test-access-key":
        from moto.backends import get_backend  # straight into moto: 48 ms less for each

        prefix = store.uri.removeprefix(server.store_uri(f"{BUCKET}/"))
        backend = get_backend("s3")["123456789012"]["aws"]
        for key in keys:
            backend.put_object(BUCKET, f"{prefix}/{key}", b"")
    else:
        for key in keys:
            store.put_bytes(key, b"")
    assert [info.key for info in store.list("many/")] == keys


def test_deleting_the_last_object_leaves_an_empty_store(store: Store) -> None:
    store.put_bytes("x/y/z", b"1")
    store.delete("x/y/z")
    assert list(store.list()) == []
    store.put_bytes("x", b"now an object where a folder was")
    assert [info.key for info in store.list()] == ["x"]


def test_a_folder_is_cleared_and_its_neighbours_stay(store: Store) -> None:
    for key in ("run/a", "run/deep/b", "run2/a", "other"):
        store.put_bytes(key, b"x")
    store.clear("run")
    store.clear("run")  # nothing there: nothing happens
    store.clear("never")
    assert [info.key for info in store.list()] == ["other", "run2/a"]


def test_sub_is_the_same_place_below(store: Store) -> None:
    run = store.sub("digits-1")
    run.put_bytes("stages/a.json", b"1")
    assert store.get_bytes("digits-1/stages/a.json") == b"1"
    assert run.uri == f"{store.uri}/digits-1"
    assert [info.key for info in run.list()] == ["stages/a.json"]
    assert run.sub("stages").get_bytes("a.json") == b"1"
    store.put_bytes("digits-10/a", b"another run")
    assert [info.key for info in run.list()] == ["stages/a.json"]


def test_uri_opens_the_same_place(store: Store) -> None:
    store.sub("run").put_bytes("a", b"1")
    assert open_store(store.sub("run").uri).get_bytes("a") == b"1"


@pytest.mark.parametrize(
    "key",
    [
        *("", "/a", "a/", "a//b", "../a", "a/../../b", "./a", "a\\b", "a\nb", "a\0b"),
        *("x" * 1100, "a/.epg-part-1", "\ud800"),
    ],
)
def test_hostile_keys_are_refused(store: Store, key: str) -> None:
    for call in (
        lambda: store.put_bytes(key, b"1"),
        lambda: store.get_bytes(key),
        lambda: store.size(key),
        lambda: store.delete(key),
        lambda: store.sub(key.rstrip("/")) if key.rstrip("/") != "a" else store.size(key),
    ):
        with pytest.raises(UserError, match="object key") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_strange_but_allowed_keys(store: Store) -> None:
    for key in ["a b", "a?b#c", "100%", "a+b=c", "Grün/ß", "a&b;c"]:
        store.put_bytes(key, key.encode())
        assert store.get_bytes(key) == key.encode()
        assert store.size(key) == len(key.encode())
    assert len(list(store.list())) == 6


def test_store_travels_to_a_worker_process(store: Store) -> None:
    store.put_bytes("a", b"1")
    assert pickle.loads(pickle.dumps(store.sub("x"))).uri == f"{store.uri}/x"  # noqa: S301
    assert pickle.loads(pickle.dumps(store)).get_bytes("a") == b"1"  # noqa: S301


def test_put_file_of_a_missing_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*/absent: .*") as caught:
        store.put_file("a", tmp_path / "absent")
    assert "\n" not in str(caught.value)
    assert store.size("a") is None


def test_pieces_become_an_object_when_all_are_there(store: Store) -> None:
    pieces = [bytes([n]) * 3_000_000 for n in range(12)]  # 36 MB: three parts

    def watched() -> Iterator[bytes]:
        for piece in pieces:
            assert store.size("big") is None
            yield piece

    store.put_pieces("big", watched())
    assert store.get_bytes("big") == b"".join(pieces)
    store.put_pieces("small", iter([b"a", b"", b"b"]))
    assert store.get_bytes("small") == b"ab"
    store.put_pieces("none", iter([]))
    assert store.size("none") == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_pieces_that_end_early_change_nothing(store: Store, error: type[BaseException]) -> None:
    store.put_bytes("one", b"old")

    def broken() -> Iterator[bytes]:
        yield bytes(20_000_000)
        raise error("stop")

    with pytest.raises(error, match="stop"):
        store.put_pieces("one", broken())
    assert store.get_bytes("one") == b"old"
    assert [info.key for info in store.list()] == ["one"]
    assert unfinished(store) == []


def begin_upload(store: Store, key: str) -> None:
    if not isinstance(store, S3Store):
        pytest.skip("files have no uploads in parts")
    url = store._connection.client.get_presigned_url(
        "POST", BUCKET, store._name(key), extra_query_params={"uploads": ""}
    )
    assert store._connection.pool.send("POST", url, body=b"")[0].status == 200
    if not unfinished(store, key):
        pytest.skip("this server does not list them")


def test_clearing_a_folder_ends_what_a_dead_upload_left_there(store: Store) -> None:
    for key in ("run/deep/a", "run2/a"):
        begin_upload(store, key)
    store.clear("run")
    assert unfinished(store, "run/deep/a") == []
    assert len(unfinished(store, "run2/a")) == 1


def test_what_a_dead_upload_left_goes_away(store: Store) -> None:
    begin_upload(store, "one")
    store.put_pieces("one", iter([bytes(20_000_000)]))
    assert unfinished(store) == []
    assert store.size("one") == 20_000_000


def unfinished(store: Store, key: str = "one") -> list[str]:
    """Ids of uploads of an object that nobody has ended."""
    if not isinstance(store, S3Store):
        return []
    client = store._connection.client
    listed = client._list_multipart_uploads(BUCKET, prefix=store._name(key))
    return [upload.upload_id or "" for upload in listed.uploads]


def test_a_part_of_an_object_fills_a_buffer(store: Store) -> None:
    store.put_bytes("ten", bytes(range(10)))
    target = bytearray(6)
    assert store.read_into("ten", 3, memoryview(target)) == 6
    assert bytes(target) == bytes(range(3, 9))
    assert store.read_into("ten", 8, memoryview(target)) == 2
    assert target[:2] == bytes([8, 9])
    assert store.read_into("ten", 30, memoryview(target)) == 0
    with pytest.raises(ObjectNotFound):
        store.read_into("none", 0, memoryview(target))
