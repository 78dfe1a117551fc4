from __future__ import annotations

import pytest

from epg.errors import UserError
from epg.store.s3.settings import settings_from_uri

KEYS = {"EPG_S3_ACCESS_KEY": "me", "EPG_S3_SECRET_KEY": "hush-hush"}


def test_minio_uri_names_everything() -> None:
    found = settings_from_uri("minio://localhost:9000/models/epg/runs/", KEYS)
    assert (found.endpoint, found.secure) == ("localhost:9000", False)
    assert (found.bucket, found.prefix) == ("models", "epg/runs")
    assert found.region == "us-east-1"
    assert found.uri == "minio://localhost:9000/models/epg/runs"


def test_s3_uri_takes_the_endpoint_from_the_environment() -> None:
    found = settings_from_uri("s3://models", {**KEYS, "EPG_S3_ENDPOINT": "http://minio:9000/"})
    assert (found.endpoint, found.secure, found.prefix) == ("minio:9000", False, "")
    assert settings_from_uri("s3://models", KEYS).endpoint == "s3.amazonaws.com"
    assert settings_from_uri("s3://models", {**KEYS, "EPG_S3_ENDPOINT": "minio:9000"}).secure


@pytest.mark.parametrize(
    ("uri", "switch", "secure"),
    [
        ("minio://localhost:9000/models", "true", True),
        ("minio://minio.example.org/models", "", True),
        ("s3://models", "false", False),
        ("s3://models", "", True),
    ],
)
def test_secure(uri: str, switch: str, secure: bool) -> None:
    assert settings_from_uri(uri, {**KEYS, "EPG_S3_SECURE": switch}).secure is secure


def test_credentials_of_aws_are_the_second_choice() -> None:
    aws = {
        "AWS_ACCESS_KEY_ID": "aws",
        "AWS_SECRET_ACCESS_KEY": "aws-secret\n",
        "AWS_SESSION_TOKEN": "token",
        "AWS_DEFAULT_REGION": "eu-north-1",
    }
    found = settings_from_uri("s3://models", aws)
    assert (found.access_key, found.secret_key, found.session_token) == (
        "aws",
        "aws-secret",
        "token",
    )
    assert found.region == "eu-north-1"
    both = settings_from_uri("s3://models", {**aws, **KEYS})
    assert (both.access_key, both.session_token) == ("me", None)


def test_secrets_stay_out_of_the_repr() -> None:
    shown = repr(settings_from_uri("s3://models", {**KEYS, "EPG_S3_SESSION_TOKEN": "tok"}))
    assert "hush" not in shown
    assert "'me'" not in shown
    assert "tok'" not in shown


@pytest.mark.parametrize(
    ("uri", "more", "message"),
    [
        ("minio://me:hush-hush@host:9000/models", {}, "credentials do not belong in a URI"),
        ("s3://me:hush-hush@models/x", {}, "set EPG_S3_ACCESS_KEY and EPG_S3_SECRET_KEY instead"),
        ("s3://models/x?key=hush-hush", {}, "takes no '[?]' or '#'"),
        ("minio://mlpipeline/v2/artifacts", {}, "'mlpipeline' has no port"),
        ("minio://host:99999/models", {}, "is no HOST:PORT"),
        ("minio://host:9000", {}, "'' is no bucket name"),
        ("minio://host:9000/a_b!/x", {}, "'a_b!' is no bucket name"),
        ("minio://host:9000/a..b/x", {}, "'a..b' is no bucket name"),
        ("minio://host:9000/192.168.1.1/x", {}, "'192.168.1.1' is no bucket name"),
        ("s3://bucket", {"EPG_S3_ENDPOINT": "minio:abc"}, "EPG_S3_ENDPOINT is 'minio:abc'"),
        ("s3://bucket", {"EPG_S3_ENDPOINT": "minio:70000"}, "EPG_S3_ENDPOINT is 'minio:70000'"),
        ("s3://models/../x", {}, "are not allowed"),
        ("s3://models", {"EPG_S3_SECURE": "maybe"}, "EPG_S3_SECURE is 'maybe': use true or false"),
        ("s3://models", {"EPG_S3_DEADLINE": "soon"}, "EPG_S3_DEADLINE is 'soon'"),
        (
            "s3://models",
            {"EPG_S3_ENDPOINT": "http://host:9/path"},
            "ENDPOINT is .*HOST:PORT",
        ),
        ("s3://models", {"EPG_S3_ENDPOINT": "http://me:hush-hush@host"}, "with credentials"),
        ("s3://models", {"EPG_S3_SECRET_KEY": ""}, "ACCESS_KEY is set, EPG_S3_SECRET_KEY is not"),
        ("s3://models", {"EPG_S3_SECRET_KEY": " ", "EPG_S3_ACCESS_KEY": ""}, "no credentials"),
    ],
)
def test_bad_settings(uri: str, more: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        settings_from_uri(uri, {**KEYS, **more})
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)
