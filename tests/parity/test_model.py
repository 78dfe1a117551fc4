"""Exact counts of the paper's sizes, and the network against independent implementations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from epg.config.loading import load_recipe
from epg.diffusion.denoisers import denoise_consistently
from epg.diffusion.preconditioning import c_skip, per_image
from epg.diffusion.seeds import SampleNoise
from epg.evaluation.costs import costs
from epg.model.decoder import DecoderBlock
from epg.model.encoder import Encoder
from epg.model.flops import (
    encoder_cost,
    encoder_parameters,
    generator_cost,
    generator_parameters,
    linear,
    projector_cost,
    projector_parameters,
    transformer_block,
)
from epg.model.generator import Generator, unpatchify
from epg.model.layers import Attention, Block, Mlp, time_token
from epg.model.projector import Projector


def encoder_of(
    depth: int = 12, dim: int = 768, heads: int = 12, patch: int = 16, size: int = 256
) -> dict[str, Any]:
    return {
        "image_size": size,
        "patch_size": patch,
        "channels": 3,
        "embed_dim": dim,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": 4.0,
    }


def generator_of(encoder: dict[str, Any], dim: int, heads: int) -> dict[str, Any]:
    return {
        "encoder": encoder,
        "num_classes": 1000,
        "decoder_embed_dim": dim,
        "decoder_num_heads": heads,
    }


@dataclass(frozen=True)
class Size:
    """One of the published sizes; GMACs as docs/method.md prints them, in section 7."""

    arguments: dict[str, Any]
    parameters: int
    paper: str  # linear layers, and 5 per LayerNorm element
    products: str  # linear layers alone
    full: str  # linear layers and attention products
    attention: str


LARGE = {"depth": 16, "dim": 1024, "heads": 16}
S16, B16 = generator_of(encoder_of(6), 768, 12), generator_of(encoder_of(), 768, 12)
L16 = generator_of(encoder_of(**LARGE), 1024, 16)
L32 = generator_of(encoder_of(**LARGE, patch=32, size=512), 1024, 16)
XL16 = generator_of(encoder_of(), 1584, 22)
XXL16 = generator_of(encoder_of(), 1920, 16)
G16 = generator_of(encoder_of(), 2688, 21)
SIZES = {
    "S/16": Size(S16, 115_531_776, "24.1", "24.06", "25.29", "1.23"),
    "B/16": Size(B16, 228_911_616, "47.9", "47.82", "50.28", "2.45"),
    "L/16": Size(L16, 540_215_040, "113.153", "113.045", "117.41", "4.36"),
    "XL/16": Size(XL16, 582_986_064, "127.628", "127.528", "131.29", "3.76"),
    "XXL/16": Size(XXL16, 788_921_472, "175.980", "175.864", "180.16", "4.29"),
    "G/16": Size(G16, 1_391_899_008, "320.624", "320.471", "325.99", "5.52"),
    "L/32 at 512": Size(L32, 544_935_936, "114.361", "114.253", "118.62", "4.36"),
}


def printed_like(value: float, printed: str) -> str:
    return f"{value:.{len(printed.partition('.')[2])}f}"


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name: str) -> None:
    size = SIZES[name]
    with torch.device("meta"):
        generator = Generator(**size.arguments)
    assert sum(p.numel() for p in generator.parameters()) == size.parameters
    assert generator_parameters(size.arguments) == size.parameters
    cost = generator_cost(size.arguments)
    for value, printed in (
        (cost.gmacs_paper, size.paper),
        (cost.gmacs_without_attention, size.products),
        (cost.gmacs, size.full),
        (cost.attention_macs / 1e9, size.attention),
    ):
        assert printed_like(value, printed) == printed
    assert cost.gflops == 2 * cost.gmacs


@pytest.mark.parametrize(("size", "gmacs"), [(256, 118.621), (512, 524.54)])
def test_the_same_parts_count_dit_xl_2_as_published(size: int, gmacs: float) -> None:
    width, depth, latents = 1152, 28, 4
    tokens, pixels = (size // 8 // 2) ** 2, latents * 2**2
    block = transformer_block(tokens, width, 4.0) + linear(1, width, 6 * width)
    cost = (
        linear(tokens, pixels, width)  # patches of the latent image
        + linear(1, 256, width)  # time
        + linear(1, width, width)
        + block * depth
        + linear(1, width, 2 * width)  # modulation of the head
        + linear(tokens, width, 2 * pixels)  # mean and variance
    )
    assert cost.gmacs == pytest.approx(gmacs, abs=0.005)


def test_base_at_224_costs_what_it_should() -> None:
    assert generator_cost(generator_of(encoder_of(size=224), 768, 12)).gmacs == pytest.approx(
        38.16, abs=0.005
    )


def test_sampling_50_000_images_with_xl() -> None:
    recipe = load_recipe(
        "smoke",
        {
            "data.image_size": 256,
            "data.channels": 3,
            "data.num_classes": 1000,
            "model.patch_size": 16,
            "model.embed_dim": 768,
            "model.depth": 12,
            "model.num_heads": 12,
            "model.decoder_embed_dim": 1584,
            "model.decoder_num_heads": 22,
            "diffusion.sigma_min": 0.002,
            "diffusion.sigma_shift": None,
            "denoising.sampling_steps": 32,
            "denoising.guidance_scale": 2.5,
        },
    )
    found = costs(recipe)
    assert found["nfe_denoising"] == 75
    assert found["nfe_consistency"] == 1
    assert found["gmacs"] == pytest.approx(131.285, abs=6e-4)
    assert found["gmacs_paper"] == pytest.approx(127.628, abs=6e-4)
    assert found["tmacs_per_image_denoising"] == pytest.approx(9.85, abs=0.005)
    assert found["gmacs_paper"] * 75 / 1e3 == pytest.approx(9.57, abs=0.005)  # printed: 9.6
    exaflop = found["gflops"] * 1e9 * found["nfe_denoising"] * 50_000 / 1e18
    assert exaflop == pytest.approx(0.985, abs=5e-4)


@pytest.mark.parametrize(
    ("depth", "dim", "heads", "parameters", "printed"),
    [
        (6, 768, 12, 43_304_448, 64),
        (12, 768, 12, 85_817_856, 107),
        (16, 1024, 16, 202_545_152, 225),
    ],
)
def test_published_encoders(
    depth: int, dim: int, heads: int, parameters: int, printed: int
) -> None:
    arguments = encoder_of(depth, dim, heads)
    projector_arguments = {"embed_dim": dim, "hidden_dim": 4096, "output_dim": 256}
    with torch.device("meta"):
        encoder, projector = Encoder(**arguments), Projector(**projector_arguments)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder_parameters(arguments) == parameters
    expected = 4096 * (dim + 4096 + 256) + 4 * 4096
    assert sum(p.numel() for p in projector.parameters()) == expected
    assert projector_parameters(projector_arguments) == expected
    assert round((parameters + expected) / 1e6) == printed


def test_base_encoder_costs_what_the_paper_says() -> None:
    cost = encoder_cost(encoder_of())
    assert cost.gmacs == pytest.approx(23.29, abs=0.005)
    patches = linear(256, 3 * 16**2, 768).gmacs
    assert cost.gmacs - patches == pytest.approx(23.14, abs=0.005)
    projector = {"embed_dim": 768, "hidden_dim": 4096, "output_dim": 256}
    assert projector_cost(projector).gmacs == pytest.approx(0.021, abs=5e-4)


@pytest.mark.parametrize("name", ["B/16", "XL/16"])
def test_closed_form_equals_a_count_on_the_meta_device(name: str) -> None:
    arguments = SIZES[name].arguments
    with torch.device("meta"):
        generator = Generator(**arguments).eval()
        inputs = torch.empty(1, 3, 256, 256), torch.empty(1), torch.zeros(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        generator(*inputs)
    assert generator_cost(arguments).gflops == pytest.approx(
        counter.get_total_flops() / 1e9, rel=1e-6
    )


TINY: dict[str, Any] = {
    "image_size": 8,
    "patch_size": 2,
    "channels": 1,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 4.0,
}


def tiny_generator(decoder_dim: int = 24, dropout: float = 0.0) -> Generator:
    torch.manual_seed(0)
    return Generator(TINY, 10, decoder_dim, 2, dropout)


def test_block_equals_timms() -> None:
    from timm.models.vision_transformer import Block as TimmBlock

    torch.manual_seed(0)
    ours = Block(32, 4, 4.0)
    theirs = TimmBlock(32, 4, mlp_ratio=4.0, qkv_bias=False)
    theirs.load_state_dict(ours.state_dict())
    for norm in (theirs.norm1, theirs.norm2):
        assert isinstance(norm, torch.nn.LayerNorm)
        norm.eps = 1e-6
    x = torch.randn(3, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_attention_and_mlp_are_timms_bit_for_bit() -> None:
    from timm.layers import Attention as TimmAttention
    from timm.layers import Mlp as TimmMlp

    x = torch.randn(3, 7, 32)
    pairs: list[tuple[torch.nn.Module, torch.nn.Module]] = []
    torch.manual_seed(0)
    ours: list[torch.nn.Module] = [Attention(32, 4), Mlp(32, 4.0)]
    torch.manual_seed(0)
    theirs: list[torch.nn.Module] = [TimmAttention(32, 4), TimmMlp(32, 128)]
    pairs += zip(ours, theirs, strict=True)
    for mine, other in pairs:
        for name, tensor in other.state_dict().items():  # drawn in the same order, too
            assert torch.equal(mine.state_dict()[name], tensor), name
        assert torch.equal(mine(x), other(x))


def test_patch_embedding_is_timms_bit_for_bit() -> None:
    from timm.layers import PatchEmbed

    encoder = Encoder(**TINY)
    theirs = PatchEmbed(8, 2, 1, 16)
    theirs.proj.load_state_dict(encoder.patch_embed.state_dict())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(encoder.patch_embed(x).flatten(2).transpose(1, 2), theirs(x))


def test_features_are_the_normalised_cls_token_of_a_whole_pass() -> None:
    torch.manual_seed(0)
    encoder = Encoder(**{**TINY, "depth": 3})
    x, level = torch.randn(4, 1, 8, 8), torch.randn(4)
    outputs = [encoder.features(x, level), encoder.norm(encoder(x, level).tokens[:, 0])]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    weight = torch.randn(4, 16)
    found, wanted = (
        torch.autograd.grad((output * weight).sum(), list(encoder.parameters()))
        for output in outputs
    )
    for (name, _), ours, theirs in zip(encoder.named_parameters(), found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("patch", [2, 4])
def test_patches_by_a_product_of_matrices_are_those_of_the_convolution(patch: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(**{**TINY, "channels": 3, "patch_size": patch})
    with torch.no_grad():
        for parameter in encoder.patch_embed.parameters():
            parameter.normal_()
    x = torch.randn(5, 3, 8, 8)
    wanted = encoder.patch_embed(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.patch_product(x), wanted, rtol=1e-5, atol=1e-5)


def test_time_token_is_one_then_zero_at_level_one() -> None:
    token = time_token(torch.tensor([0.0]), 8)
    assert torch.equal(token, torch.tensor([[1.0] * 4 + [0.0] * 4]))


def test_time_token_has_no_float32_drift_at_large_arguments() -> None:
    import math

    token = time_token(torch.tensor([1442.080]), 768)
    value = float(torch.tensor(1442.080))
    expected = [math.cos(value * 10_000 ** (-j / 384)) for j in (0, 1, 200, 383)]
    assert token[0, [0, 1, 200, 383]].tolist() == pytest.approx(expected, abs=2e-4)


def test_fresh_generator_predicts_zero() -> None:
    generator = tiny_generator()
    out = generator(torch.randn(2, 1, 8, 8), torch.zeros(2), torch.tensor([3, 10]))
    assert torch.equal(out, torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_fresh_decoder_block_is_its_merge_alone(index: int) -> None:
    torch.manual_seed(0)
    generator = Generator({**TINY, "depth": 3}, 10, 24, 2)
    block = generator.decoder.blocks[index]
    assert isinstance(block, DecoderBlock)
    x, skip = torch.randn(2, 5, 24), torch.randn(2, 5, 16)
    expected = block.merge_norm(block.merge(torch.cat([x, skip], dim=-1)))
    torch.testing.assert_close(block(x, skip, torch.randn(2, 16), None), expected)


def test_fresh_consistency_model_is_its_skip() -> None:
    torch.manual_seed(0)
    generator, floor = tiny_generator(), 0.008
    x, labels = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 10])
    level = torch.tensor([floor, 1.0, 320.0], dtype=torch.float64)
    out = denoise_consistently(generator, x, level, labels, 0.5, floor)
    assert torch.equal(out, per_image(c_skip(level, floor, 0.5)) * x)
    assert torch.equal(out[0], x[0])


def test_token_order_is_cls_time_patches() -> None:
    torch.manual_seed(0)
    encoder = Encoder(**TINY)
    with torch.no_grad():
        for block in encoder.blocks:
            for parameter in block.parameters():
                parameter.zero_()  # blocks pass their input through
    x, level = torch.randn(1, 1, 8, 8), torch.tensor([5.0])
    tokens = encoder(x, level).tokens - encoder.pos_embed
    torch.testing.assert_close(tokens[:, 0], encoder.cls_token[:, 0])
    torch.testing.assert_close(tokens[:, 1], time_token(level, 16), rtol=1e-5, atol=1e-6)
    swapped = x.clone()
    swapped[..., 0:2, 0:2], swapped[..., 0:2, 2:4] = x[..., 0:2, 2:4], x[..., 0:2, 0:2]
    moved = encoder(swapped, level).tokens - encoder.pos_embed
    torch.testing.assert_close(moved[:, 2], tokens[:, 3])
    torch.testing.assert_close(moved[:, 3], tokens[:, 2])
    torch.testing.assert_close(moved[:, 4:], tokens[:, 4:])


def test_skips_are_taken_last_first() -> None:
    generator = tiny_generator()
    seen = []
    for block in generator.decoder.blocks:
        block.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    x, level = torch.randn(1, 1, 8, 8), torch.zeros(1)
    labels = torch.tensor([1])
    encoded = generator.encoder(x, level, generator.class_embed(labels))
    generator(x, level, labels)
    assert torch.equal(seen[0], encoded.skips[-1])
    assert torch.equal(seen[-1], encoded.skips[0])


def test_unpatchify_inverts_the_patch_order_of_the_embedding() -> None:
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    patches = torch.nn.functional.unfold(images, 2, stride=2).transpose(1, 2)
    assert torch.equal(unpatchify(patches, 2, 3), images)


def test_null_class_is_the_last_row() -> None:
    generator = tiny_generator()
    assert generator.null_class == 10
    assert generator.class_embed.num_embeddings == 11


def test_dropout_masks_are_shared_by_equal_numbers_and_off_in_eval() -> None:
    generator = tiny_generator(dropout=0.5)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    arguments = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.tensor([1, 2])

    def run(seed: int) -> torch.Tensor:
        noise = SampleNoise(seed, "test", 0, 0, 2)
        shape = generator.decoder_shape
        return generator(*arguments, [noise.uniform(f"{i}", shape) >= 0.5 for i in range(2)])

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    with pytest.raises(ValueError, match="masks"):
        generator(*arguments)
    generator.eval()
    assert torch.equal(run(1), run(2))
