"""`epg sample`: which classes come in which order, and what is written."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from epg.config.loading import load_recipe
from epg.errors import UserError
from epg.evaluation.grid import class_grid
from epg.model.files import save_weights
from epg.model.generator import Generator
from epg.registry import open_registry
from epg.stages.sample import class_indices, sample


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    recipe = load_recipe("smoke")
    torch.manual_seed(0)
    arguments = recipe.generator_arguments()
    header = {
        "kind": "generator",
        "objective": "consistency",
        "classes": [f"digit {i}" for i in range(10)],
        "generator_arguments": arguments,
        "recipe": recipe.model_dump(mode="json"),
    }
    path = tmp_path_factory.mktemp("weights") / "generator.safetensors"
    save_weights(path, Generator(**arguments).state_dict(), header)
    return path


def write(weights: Path, out: Path, classes: list[str] | None, num: int) -> None:
    registry = open_registry(str(out.parent))
    sample(str(weights), classes=classes, num=num, out=out, registry=registry)


def test_labels_go_round_the_classes_so_that_every_split_has_all(weights, tmp_path):
    write(weights, tmp_path / "all.npz", None, 25)
    with np.load(tmp_path / "all.npz", allow_pickle=False) as file:
        assert sorted(file.files) == ["arr_0", "arr_1"]
        assert file["arr_0"].shape == (25, 8, 8, 1)
        assert file["arr_0"].dtype == np.uint8
        assert file["arr_1"].dtype == np.int64
        assert file["arr_1"].tolist() == [*range(10), *range(10), *range(5)]
    write(weights, tmp_path / "some.npz", ["digit 7", "2"], 5)
    with np.load(tmp_path / "some.npz", allow_pickle=False) as file:
        assert file["arr_1"].tolist() == [7, 2, 7, 2, 7]


def test_the_grid_has_a_row_per_class(weights, tmp_path):
    for name in ("grid.png", "same.npz"):
        write(weights, tmp_path / name, ["3", "1"], 6)
    with np.load(tmp_path / "same.npz", allow_pickle=False) as file:
        images, labels = file["arr_0"], file["arr_1"]
    rows = np.concatenate([images[labels == 1], images[labels == 3]])
    wanted = class_grid(rows, np.repeat([1, 3], 3), per_class=3)
    found = (tmp_path / "grid.png").read_bytes()
    assert found == wanted
    assert Image.open(io.BytesIO(found)).size == (3 * 50 + 2, 2 * 50 + 2)


def test_a_number_is_a_name_where_names_are_numbers():
    folders = ["01", "02", "03"]
    assert class_indices(["02"], folders) == [1]
    assert class_indices(["1", "0"], ["1", "0"]) == [0, 1]
    assert class_indices(["1"], ["cat", "dog"]) == [1]
    for wanted in ("1", "2", "99", "²", "9" * 5000):
        with pytest.raises(UserError, match="called by numbers, so only names are taken"):
            class_indices([wanted], folders)
    with pytest.raises(UserError, match="or the indices 0 to 1"):
        class_indices(["2"], ["cat", "dog"])


def test_guidance_that_is_no_number_is_refused(weights, tmp_path):
    for scale in (math.nan, math.inf, 0.5):
        with pytest.raises(UserError, match="guidance_scale is"):
            sample(
                str(weights),
                classes=None,
                num=1,
                out=tmp_path / "x.png",
                registry=open_registry(str(tmp_path)),
                guidance_scale=scale,
            )
    assert not list(tmp_path.iterdir())


def test_unknown_classes_are_refused_in_one_line(weights, tmp_path):
    with pytest.raises(UserError, match="class 'eleven': this model has digit 0") as caught:
        write(weights, tmp_path / "x.npz", ["eleven"], 1)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_no_link_is_followed_on_the_way(weights, tmp_path):
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    for name in (".grid.png.partial.png", "grid.png"):
        (tmp_path / name).symlink_to(target)
    write(weights, tmp_path / "grid.png", None, 2)
    assert target.read_bytes() == b"precious"
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory) -> Path:
    """A diffusion model that predicts something, with its rate in the header."""
    recipe = load_recipe("smoke", {"denoising.ema_decay": [0.99, 0.9]})
    folder = tmp_path_factory.mktemp("averages")
    torch.manual_seed(0)
    arguments = recipe.generator_arguments()
    generator = Generator(**arguments)
    header = {
        "kind": "generator",
        "objective": "denoising",
        "classes": [f"digit {i}" for i in range(10)],
        "generator_arguments": arguments,
        "sampling": recipe.sampling("denoising").model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
    }
    for name, rate in (("model", 0.99), ("model-ema-0.9", 0.9)):
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        tensors = generator.state_dict()
        save_weights(folder / f"{name}.safetensors", tensors, {**header, "ema_decay": rate})
    return folder


def sampled(model: Path | str, out: Path, **more) -> tuple[np.ndarray, np.ndarray, float]:
    registry = more.pop("registry", None) or open_registry(str(out.parent))
    found = sample(str(model), classes=None, num=12, out=out, registry=registry, **more)
    with np.load(out, allow_pickle=False) as file:
        return file["arr_0"], file["arr_1"], found["nfe"]


def test_labels_are_balanced_random_or_given(diffusion, tmp_path):
    out = tmp_path / "a.npz"
    random = sampled(diffusion, out, labels="random", steps=2)[1]
    assert random.tolist() == sampled(diffusion, out, labels="random", steps=2)[1].tolist()
    assert random.tolist() != sampled(diffusion, out, labels="random", steps=2, seed=1)[1].tolist()
    assert set(random.tolist()) <= set(range(10))
    (tmp_path / "labels.txt").write_text("3\n" * 6 + "7\n" * 6)
    given = sampled(diffusion, out, labels=str(tmp_path / "labels.txt"), steps=2)[1]
    assert given.tolist() == [3] * 6 + [7] * 6


@pytest.mark.parametrize(
    ("labels", "said"), [("3\n12\n", "'12' is no index"), ("3\n", "1 classes, but 12 images")]
)
def test_bad_labels_are_refused(diffusion, tmp_path, labels, said):
    path = tmp_path / "labels.txt"
    path.write_text(labels)
    with pytest.raises(UserError, match=said):
        sampled(diffusion, tmp_path / "a.npz", labels=str(path))
    with pytest.raises(UserError, match="use balanced, random, or a file"):
        sampled(diffusion, tmp_path / "a.npz", labels="uniform")


def test_how_to_sample_is_changed_on_the_way(diffusion, tmp_path):
    out = tmp_path / "a.npz"
    heun, _, nfe = sampled(diffusion, out, steps=8, guidance_scale=1.0)
    euler, _, fewer = sampled(diffusion, out, steps=8, guidance_scale=1.0, solver="euler")
    assert (nfe, fewer) == (15, 8)
    assert not np.array_equal(heun, euler)
    stopped = sampled(diffusion, out, steps=8, guidance_scale=1.0, final_euler_step=False)
    assert stopped[2] == 14
    unit = sampled(diffusion, out, steps=8, guidance_scale=1.0, clamp="unit")[0]
    assert not np.array_equal(heun, unit)
    # 255 (2 std + mean) is what one becomes: all of the digits' range lies below it.
    for wrong, said in (({"solver": "rk4"}, "solver is 'rk4'"), ({"clamp": "x"}, "clamp is 'x'")):
        with pytest.raises(UserError, match=said):
            sampled(diffusion, out, **wrong)


def test_a_consistency_model_has_no_solver(weights, tmp_path):
    with pytest.raises(UserError, match="a consistency model jumps"):
        sampled(weights, tmp_path / "a.npz", solver="euler")


def test_the_average_is_chosen_by_its_rate(diffusion, tmp_path):
    out = tmp_path / "a.npz"
    main = sampled(diffusion, out, steps=4)[0]
    assert np.array_equal(main, sampled(diffusion, out, steps=4, ema=0.99)[0])
    other = sampled(diffusion, out, steps=4, ema=0.9)[0]
    assert not np.array_equal(main, other)
    with pytest.raises(UserError, match=r"--ema 0.5: .* holds the average at 0.99"):
        sampled(diffusion, out, steps=4, ema=0.5)
    registry = open_registry(str(tmp_path / "registry"))
    registry.register(
        "m",
        diffusion / "model.safetensors",
        recipe_yaml="",
        metrics={},
        card="",
        extra={"model-ema-0.9.safetensors": diffusion / "model-ema-0.9.safetensors"},
    )
    assert np.array_equal(other, sampled("m:v1", out, steps=4, ema=0.9, registry=registry)[0])
    assert np.array_equal(main, sampled("m", out, steps=4, ema=0.99, registry=registry)[0])
    with pytest.raises(UserError, match=r"--ema 0.5"):
        sampled("m", out, steps=4, ema=0.5, registry=registry)


def test_a_folder_of_pngs_holds_the_same_images(weights, tmp_path):
    write(weights, tmp_path / "some.npz", ["digit 7", "digit 2"], 5)
    write(weights, tmp_path / "pngs", ["digit 7", "digit 2"], 5)
    names = sorted(p.relative_to(tmp_path / "pngs").as_posix() for p in tmp_path.rglob("*.png"))
    assert names == [f"0002/{i:06d}.png" for i in (1, 3)] + [f"0007/{i:06d}.png" for i in (0, 2, 4)]
    with np.load(tmp_path / "some.npz", allow_pickle=False) as file:
        for i, label in enumerate(file["arr_1"]):
            picture = Image.open(tmp_path / "pngs" / f"{label:04d}" / f"{i:06d}.png")
            assert np.array_equal(np.asarray(picture), file["arr_0"][i, :, :, 0])
    with pytest.raises(UserError, match="the folder is not empty"):
        write(weights, tmp_path / "pngs", None, 1)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_batch_changes_no_image_by_more_than_rounding(weights, tmp_path, size):
    registry = open_registry(str(tmp_path))
    for name, batch in (("a.npz", 256), ("b.npz", size)):
        sample(
            str(weights),
            classes=None,
            num=9,
            out=tmp_path / name,
            registry=registry,
            batch_size=batch,
            device="cpu",
        )
    one, other = (np.load(tmp_path / name)["arr_0"].astype(int) for name in ("a.npz", "b.npz"))
    assert np.abs(one - other).max() <= 1


def test_imagenets_classes_are_known_by_synset_and_by_words():
    names = ["tench", "goldfish", "crane (n02012849)", "crane (n03126707)"]
    assert class_indices(["n01443537", "goldfish", "Tinca tinca", "0"], names) == [1, 1, 0, 0]
    assert class_indices(["n03126707"], names) == [3]
    with pytest.raises(UserError, match="class 'crane': this model has"):
        class_indices(["crane"], names)  # two of them
    with pytest.raises(UserError, match=r"class 'golfdish' \(did you mean 'goldfish'\?\)"):
        class_indices(["golfdish"], names)
    assert class_indices(["tench", "n01440764"], ["n01440764", "n01443537"]) == [0, 0]
    with pytest.raises(UserError, match="class 'n01440764'"):
        class_indices(["n01440764"], ["cat", "dog"])  # a model that does not have it


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"device": "tpu"}, "--device tpu: use cpu or cuda"),
        ({"num": 0}, "--num 0"),
        ({"out": "x.jpg"}, "ends in .npz or .png, or to a folder"),
    ],
)
def test_senseless_wishes_are_refused(weights, tmp_path, settings, reason):
    given = {"num": 1, "out": "x.npz", **settings}
    with pytest.raises(UserError, match=reason):
        sample(
            str(weights),
            classes=None,
            registry=open_registry(str(tmp_path)),
            **{**given, "out": tmp_path / given["out"]},
        )
