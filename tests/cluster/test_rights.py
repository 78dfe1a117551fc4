"""What the keys of the runs open on a real MinIO, and what they do not."""

from __future__ import annotations

import io
import uuid

import pytest
from minio import Minio, MinioAdmin, S3Error
from minio.credentials import StaticProvider
from minio.error import MinioAdminException

from tests.cluster.site import Site

pytestmark = pytest.mark.cluster


def refused(code: str):
    return pytest.raises(S3Error, check=lambda error: error.code == code)


def test_the_keys_of_the_runs_open_one_bucket(
    site: Site, credentials: dict[str, str], administrator: dict[str, str]
):
    name, content = f"private-{uuid.uuid4().hex[:8]}", b"somebody's"

    def client(address: str, keys: dict[str, str]) -> Minio:
        pair = keys["accesskey"], keys["secretkey"]
        return Minio(address, access_key=pair[0], secret_key=pair[1], secure=False)

    with site.forward("service/minio", 9000) as address:
        root, ours = client(address, administrator), client(address, credentials)
        root.make_bucket(bucket_name=name)
        try:
            root.put_object(name, "kept", io.BytesIO(content), len(content))
            with refused("AccessDenied"):
                ours.get_object(name, "kept")
            with refused("AccessDenied"):
                ours.put_object(name, "left", io.BytesIO(content), len(content))
            with refused("AccessDenied"):
                ours.remove_object(name, "kept")
            with refused("AccessDenied"):
                list(ours.list_objects(name))
            with refused("AccessDenied"):
                ours.make_bucket(bucket_name=f"{name}-2")
            with refused("AccessDenied"):
                ours.remove_bucket(bucket_name="epg")
            assert {bucket.name for bucket in ours.list_buckets()} == {"epg"}
            assert [found.object_name for found in root.list_objects(name)] == ["kept"]
        finally:
            root.remove_object(name, "kept")
            root.remove_bucket(bucket_name=name)


def test_the_keys_of_the_runs_administer_nothing(
    site: Site, credentials: dict[str, str], administrator: dict[str, str]
):
    with site.forward("service/minio", 9000) as address:

        def administration(keys: dict[str, str]) -> MinioAdmin:
            pair = StaticProvider(keys["accesskey"], keys["secretkey"])
            return MinioAdmin(endpoint=address, credentials=pair, secure=False)

        assert credentials["accesskey"] in administration(administrator).user_list()
        ours = administration(credentials)
        with pytest.raises(MinioAdminException, match="403"):
            ours.user_list()
        with pytest.raises(MinioAdminException, match="403"):
            ours.user_add("another", "another-secret")
