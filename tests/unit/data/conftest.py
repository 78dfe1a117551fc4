"""Settings, small stores and folders of images for the tests of `epg.data`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from epg.config.data import DataConfig
from epg.data.manifest import Manifest
from epg.data.sharding import write_shards
from epg.data.sources import open_source
from epg.store import Store, open_store
from tests.s3_server import S3Server, minio_server, moto_server

BUCKET = "epg-data"
MakeSettings = Callable[..., DataConfig]


@pytest.fixture
def settings() -> MakeSettings:
    """`settings(channels=3)`: the digits' settings with changes."""

    def make(**changes) -> DataConfig:
        values = {
            "source": "digits",
            "image_size": 8,
            "channels": 1,
            "num_classes": 10,
            "mean": [0.5],
            "std": [0.5],
            "samples_per_shard": 300,
            **changes,
        }
        return DataConfig(**values)

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.s3) for name in ("moto", "minio")],
)
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """An emulator of S3, then a real MinIO where there is one, with a bucket `epg-data`."""
    with moto_server() if request.param == "moto" else minio_server() as running:
        running.make_bucket(BUCKET)
        yield running


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Manifest]:
    """The digits in five training shards and two held-out ones; read only."""
    store = open_store(str(tmp_path_factory.mktemp("digits")))
    config = DataConfig(
        source="digits",
        image_size=8,
        channels=1,
        num_classes=10,
        mean=(0.5,),
        std=(0.5,),
        samples_per_shard=300,
    )
    return store, write_shards(open_source("digits", config, 0), config, 0, store, "shards/x")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of six coloured 24×20 PNGs, each image of one colour."""
    root = tmp_path / "photos"
    for label, name in enumerate(("apple", "pear")):
        (root / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.full((20, 24, 3), (40 * i, 100 * label, 50), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root
