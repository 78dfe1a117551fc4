from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from epg.errors import UserError
from epg.evaluation.features.classifier import (
    Classifier,
    ClassifierShape,
    classifier_name,
    flip,
    load_classifier,
    save_classifier,
    shift,
    train_classifier,
)
from epg.model.files import save_weights
from tests.toys.described import describe

SHAPE = ClassifierShape("digits-cnn", 8, 1, 10, [0.3], [0.38])


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    images = np.rint(found.images * 255 / 16).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], found.target[order].astype(np.int64)


def batches(images, labels, size=64) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(images))
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            yield images[chosen], labels[chosen]


@pytest.fixture(scope="module")
def trained(digits) -> Classifier:
    images, labels = digits
    return train_classifier(SHAPE, batches(images[:1000], labels[:1000]), 75, seed=1)


def test_it_learns_digits_in_five_epochs(digits, trained):
    images, labels = digits
    (found,) = describe([trained], images[1400:], labels[1400:])
    quality = trained.quality(found, labels[1400:])
    assert quality["classifier_held_out_accuracy"] >= 0.94
    assert found.features.shape == (len(images) - 1400, SHAPE.feature_dim)


def test_its_figures_are_a_distance_and_an_agreement(digits, trained):
    images, labels = digits
    real, copies, other = describe([trained], images[:600], labels[:600]) + [
        describe([trained], x, labels[:600])[0] for x in (images[:600], 255 - images[600:1200])
    ]
    same = trained.compare(real, copies, labels[:600])
    assert same.metrics["frechet_distance"] == pytest.approx(0.0, abs=1e-9)
    assert same.metrics["class_agreement"] == (copies.predicted == labels[:600]).mean()
    assert len(same.details["class_agreement_by_class"]) == 10
    negative = trained.compare(real, other, labels[600:1200])
    assert negative.metrics["frechet_distance"] > 1.0
    assert negative.metrics["class_agreement"] < same.metrics["class_agreement"]
    given = {*same.metrics, *trained.quality(real, labels[:600])}
    assert given == set(trained.figures)


def test_same_seed_same_weights_whatever_the_global_generator(digits, trained):
    images, labels = digits
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = train_classifier(SHAPE, batches(images[:1000], labels[:1000]), 5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    once_more = train_classifier(SHAPE, batches(images[:1000], labels[:1000]), 5, seed=1)
    other = train_classifier(SHAPE, batches(images[:1000], labels[:1000]), 5, seed=2)
    assert torch.equal(again.head.weight, once_more.head.weight)
    assert not torch.equal(again.head.weight, other.head.weight)


def test_file_explains_itself(tmp_path, digits, trained):
    path = tmp_path / "classifier.safetensors"
    save_classifier(path, trained)
    loaded = load_classifier(path)
    assert loaded.shape == SHAPE
    assert not loaded.training
    images = torch.from_numpy(digits[0][:8])
    assert torch.equal(loaded(loaded.prepare(images)), trained(trained.prepare(images)))


def test_wrong_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "classifier.safetensors"
    with pytest.raises(UserError, match="no such"):
        load_classifier(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_classifier(path)
    save_weights(path, {"x": torch.zeros(1)}, {"kind": "classifier", "shape": {"name": "x"}})
    with pytest.raises(UserError, match="do not fit") as caught:
        load_classifier(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "channels"), [(4, 1), (8, 1), (13, 3), (32, 3), (64, 3)])
def test_any_image_shape_and_number_of_classes(size, channels):
    shape = ClassifierShape("folder-cnn", size, channels, 3, [0.5], [0.25])
    images = torch.randint(0, 256, (2, size, size, channels), dtype=torch.uint8)
    found = Classifier(shape).eval().describe(images)
    assert found.pool.shape == (2, shape.feature_dim)
    assert found.logits is not None
    assert found.logits.shape == (2, 3)


def test_name_tells_the_source():
    assert classifier_name("digits") == "digits-cnn"
    assert classifier_name("folder:/data/a:b") == "folder-cnn"


def test_shift_moves_whole_images_and_repeats_the_border():
    x = torch.arange(36.0).reshape(1, 1, 6, 6).expand(200, 1, 6, 6)
    moved = shift(x, 1, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    padded = torch.nn.functional.pad(x[:1], (1, 1, 1, 1), mode="replicate")[0, 0]
    views = {(i, j): padded[i : i + 6, j : j + 6] for i in range(3) for j in range(3)}
    seen = {
        next(place for place, view in views.items() if torch.equal(image[0], view))
        for image in moved
    }
    assert seen == set(views)


def test_flip_mirrors_about_half():
    x = torch.arange(4.0).reshape(1, 1, 1, 4).expand(400, 1, 1, 4)
    flipped = flip(x, torch.Generator().manual_seed(0))
    mirrored = int((flipped[:, 0, 0, 0] == 3).sum())
    assert 150 < mirrored < 250
    assert torch.equal(flipped.sort(3).values, x)
