"""A plain timm VisionTransformer gives the features of the encoder that was exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from epg.config.loading import load_recipe
from epg.config.recipe import Recipe
from epg.data.augment import to_float
from epg.diffusion.preconditioning import c_in, c_noise, per_image
from epg.errors import UserError
from epg.model.encoder import Encoder
from epg.model.files import save_weights
from epg.stages.export import export_encoder

COLOURS = {
    "data.channels": 3,
    "data.image_size": 32,
    "data.mean": [0.485, 0.456, 0.406],
    "data.std": [0.229, 0.224, 0.225],
    "model.patch_size": 4,
    "model.depth": 3,
    "diffusion.sigma_min": 0.002,
}


@pytest.fixture(params=["grey", "colours"])
def trained(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Recipe, Encoder, Path]:
    recipe = load_recipe("smoke", COLOURS if request.param == "colours" else {})
    torch.manual_seed(0)
    encoder = Encoder(**recipe.encoder_arguments()).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():  # biases and CLS, too
            parameter.add_(0.05 * torch.randn(parameter.shape))
    path = tmp_path / "encoder.safetensors"
    header = {"kind": "encoder", "arguments": recipe.encoder_arguments()}
    save_weights(path, encoder.state_dict(), {**header, "recipe": recipe.model_dump(mode="json")})
    return recipe, encoder, path


def ours(recipe: Recipe, encoder: Encoder, pixels: Tensor) -> Tensor:
    """z of clean images at the lowest level."""
    clean = to_float(pixels, *recipe.data.normalisation)
    level = recipe.sigma_shift * recipe.diffusion.sigma_min
    sigma = torch.full((len(clean),), level, dtype=torch.float64)
    scaled = per_image(c_in(sigma, recipe.diffusion.sigma_data)) * clean
    return encoder.features(scaled, c_noise(sigma))


def pixels_of(recipe: Recipe) -> Tensor:
    size, channels = recipe.data.image_size, recipe.data.channels
    return torch.randint(0, 256, (5, size, size, channels), dtype=torch.uint8)


@torch.inference_mode()
def test_a_plain_vision_transformer_gives_the_same_features(
    trained: tuple[Recipe, Encoder, Path], tmp_path: Path
) -> None:
    import timm
    from timm.models.vision_transformer import VisionTransformer

    from epg.model.timm_weights import timm_arguments

    recipe, encoder, path = trained
    out = tmp_path / "timm"
    assert [p.name for p in export_encoder(str(path), out=out, store=str(tmp_path))] == [
        "model.safetensors",
        "config.json",
    ]
    made = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    plain = VisionTransformer(**timm_arguments(recipe.encoder_arguments())).eval()
    plain.load_state_dict(load_file(out / "model.safetensors"))
    # Images as timm's own transforms give them.
    config = timm.data.resolve_data_config({}, model=made)
    assert config["input_size"] == (
        recipe.data.channels,
        recipe.data.image_size,
        recipe.data.image_size,
    )
    pixels = pixels_of(recipe)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    images = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    expected = ours(recipe, encoder, pixels)
    for model in (made, plain):
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    assert float(expected.std()) > 0.1


def test_what_is_no_encoder_is_refused_in_one_line(tmp_path: Path) -> None:
    for encoder, form, said in (
        ("nothing", "timm", "no run of that name"),
        ("./nothing.safetensors", "timm", "no such model file"),
        ("nothing", "onnx", "--format onnx: use timm"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            export_encoder(encoder, out=tmp_path / "o", store=str(tmp_path), form=form)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()
    with pytest.raises(UserError, match="does not exist"):
        export_encoder("a", out=tmp_path / "no" / "o", store=str(tmp_path))
